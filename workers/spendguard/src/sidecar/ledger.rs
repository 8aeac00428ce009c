//! The connection to the ledger. An answer says how certain it is.

use std::error::Error as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::header::AUTHORIZATION;
use lease_worker_common::credentials::Token;
use lease_worker_common::reloaded::{Reloaded, Unusable};
use lease_worker_common::request_id;
use lease_worker_common::tls::choose_provider;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, ConnectError, Request, Response, Status};

use crate::rpc::ledger::v1::ledger_client::LedgerClient;
use crate::rpc::ledger::{DISK_FULL, REASON};

/// Why there is no answer of the ledger's own.
#[derive(Debug, thiserror::Error)]
pub(super) enum LedgerCallError {
    /// Nothing was done: it was not reached, or it said so before it began.
    #[error("the ledger can't be reached: {0}")]
    NotSent(String),
    /// Nothing was done: its database has no room.
    #[error("the disk of the ledger's database is full: {0}")]
    DiskFull(String),
    /// Whether it was done is unknown.
    #[error("no answer from the ledger: {0}")]
    Unknown(String),
    /// It will never be done: the two don't understand each other.
    #[error("the ledger refuses: {0}")]
    Refused(String),
}

/// A ledger's address, and what is shown to it.
#[derive(Clone)]
pub struct Ledger {
    /// Another one once certificates have changed.
    endpoint: Reloaded<Endpoint>,
    shown: Shown,
}

/// Certificates and key for TLS, as their files hold them.
pub(super) struct TlsPem {
    pub(super) ca: Vec<u8>,
    pub(super) identity: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) server_name: Option<String>,
}

/// The limits of the time that a connection may be silent, or take to be made: a busy ledger is not a dead one.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
const MOST_PATIENCE: Duration = Duration::from_secs(5);

/// The largest answer.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

impl Ledger {
    /// A ledger without TLS, to which nothing is shown. Connects nothing yet.
    ///
    /// # Errors
    /// This is no URL.
    pub fn at(url: &str) -> anyhow::Result<Self> {
        let made = Self::from_files(url, Vec::new(), |_| None, None);
        made.map_err(|unusable| anyhow::anyhow!("{}", unusable.why))
    }

    /// Its TLS is made from files. Connects nothing yet.
    pub(super) fn from_files(
        url: &str,
        files: Vec<PathBuf>,
        tls: impl Fn(&[Vec<u8>]) -> Option<TlsPem> + Send + 'static,
        token: Option<Token>,
    ) -> Result<Self, Unusable> {
        let url = url.to_owned();
        let make = move |contents: &[Vec<u8>]| endpoint(&url, tls(contents));
        Ok(Self { endpoint: Reloaded::start("the ledger's TLS", files, make)?, shown: Shown(token) })
    }

    /// A client whose connection is made at its first call and served by the runtime that this is called on.
    ///
    /// A connection that is dead and doesn't say so, as after the loss of a ledger's node, is left `within` this time or
    /// two seconds, so that another ledger is found.
    pub(super) fn client(&self, within: Duration) -> Client {
        self.client_at(&self.endpoint.now(), within)
    }

    fn client_at(&self, endpoint: &Endpoint, within: Duration) -> Client {
        let patience = (within / 2).clamp(LEAST_PATIENCE, MOST_PATIENCE);
        let endpoint = endpoint.clone().connect_timeout(patience);
        let endpoint = endpoint.http2_keep_alive_interval(patience).keep_alive_timeout(patience);
        let channel = InterceptedService::new(endpoint.connect_lazy(), self.shown.clone());
        LedgerClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES)
    }
}

fn endpoint(url: &str, tls: Option<TlsPem>) -> Result<Endpoint, Unusable> {
    choose_provider();
    let refuse = |error: &dyn std::fmt::Display| Unusable::new(0, format!("it can't be used: {error}"));
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| refuse(&error))?;
    let endpoint = endpoint.tcp_nodelay(true).keep_alive_while_idle(true);
    let Some(TlsPem { ca, identity, server_name }) = tls else { return Ok(endpoint) };
    let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
    if let Some((certificate, key)) = identity {
        config = config.identity(Identity::from_pem(certificate, key));
    }
    if let Some(name) = server_name {
        config = config.domain_name(name);
    }
    let why = |error| format!("the certificates can't be used: {}", causes(&error));
    endpoint.tls_config(config).map_err(|error| Unusable::new(0, why(error)))
}

fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What a ledger's clients are.
pub(super) type Client = LedgerClient<InterceptedService<Channel, Shown>>;

/// Shows the token with each call, as its file holds it by then.
#[derive(Clone)]
pub(super) struct Shown(Option<Token>);

impl Interceptor for Shown {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().as_mut().insert(AUTHORIZATION, token.header());
        }
        Ok(request)
    }
}

/// A connection to the ledger that is made anew when its certificates have changed, or when it is suspect.
pub(super) struct Line {
    ledger: Ledger,
    within: Duration,
    now: Mutex<(Arc<Endpoint>, Client)>,
}

impl Line {
    /// As [`Ledger::client`].
    pub(super) fn new(ledger: Ledger, within: Duration) -> Self {
        let endpoint = ledger.endpoint.now();
        let client = ledger.client_at(&endpoint, within);
        Self { ledger, within, now: Mutex::new((endpoint, client)) }
    }

    /// A client for the next call.
    pub(super) fn client(&self) -> Client {
        let mut now = self.lock();
        let endpoint = self.ledger.endpoint.now();
        if !Arc::ptr_eq(&now.0, &endpoint) {
            *now = (endpoint.clone(), self.ledger.client_at(&endpoint, self.within));
        }
        now.1.clone()
    }

    /// The present connection is not used again.
    pub(super) fn replace(&self) {
        let mut now = self.lock();
        now.1 = self.ledger.client_at(&now.0, self.within);
    }

    fn lock(&self) -> MutexGuard<'_, (Arc<Endpoint>, Client)> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that goes no further than `limit`, and carries an id into the ledger's log.
pub(super) fn request<T>(message: T, limit: Duration, id: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    if let Ok(id) = id.parse() {
        request.metadata_mut().insert(request_id::HEADER, id);
    }
    request
}

/// One call, dropped after `limit`: its stream is reset then, and whether it was done is unknown.
pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, LedgerCallError> {
    let unknown = |_| LedgerCallError::Unknown(format!("not within {limit:?}"));
    answered(tokio::time::timeout(limit, call).await.map_err(unknown)?)
}

/// The outcome of a call that has ended.
pub(super) fn answered<T>(outcome: Result<Response<T>, Status>) -> Result<T, LedgerCallError> {
    outcome.map(Response::into_inner).map_err(|status| failed(&status))
}

fn failed(status: &Status) -> LedgerCallError {
    let mut not_connected = false;
    let mut why = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        not_connected |= error.is::<ConnectError>();
        let text = error.to_string();
        if !why.contains(&text) {
            why = format!("{why}: {text}");
        }
        cause = error.source();
    }
    let why = format!("{:?}: {why}", status.code());
    match status.code() {
        _ if not_connected => LedgerCallError::NotSent(why),
        _ if status.metadata().get(REASON).is_some_and(|reason| reason == DISK_FULL) => {
            LedgerCallError::DiskFull(why)
        }
        // It says so before it begins. A token may be known a moment later, when its file has arrived everywhere.
        Code::ResourceExhausted | Code::Unauthenticated => LedgerCallError::NotSent(why),
        Code::InvalidArgument
        | Code::Unimplemented
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::NotFound => LedgerCallError::Refused(why),
        _ => LedgerCallError::Unknown(why),
    }
}

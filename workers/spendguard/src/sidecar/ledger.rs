//! The connection to the ledger. An answer says how certain it is.

use std::error::Error as _;
use std::time::Duration;

use lease_worker_common::request_id;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, ConnectError, Request, Response, Status};

use super::settings::LedgerAt;
use crate::rpc::ledger::v1::ledger_client::LedgerClient;

/// Why there is no answer of the ledger's own.
#[derive(Debug, thiserror::Error)]
pub(super) enum LedgerCallError {
    /// Nothing was done: it was not reached, or it said so before it began.
    #[error("the ledger can't be reached: {0}")]
    NotSent(String),
    /// Whether it was done is unknown.
    #[error("no answer from the ledger: {0}")]
    Unknown(String),
    /// It will never be done: the two don't understand each other.
    #[error("the ledger refuses: {0}")]
    Refused(String),
}

/// A ledger's address and TLS settings.
#[derive(Clone, Debug)]
pub struct Ledger {
    endpoint: Endpoint,
}

/// The limits of the time that a connection may be silent, or take to be made: a busy ledger is not a dead one.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);
const MOST_PATIENCE: Duration = Duration::from_secs(5);

/// The largest answer.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

impl Ledger {
    /// A ledger without TLS. Connects nothing yet.
    ///
    /// # Errors
    /// This is no URL.
    pub fn at(url: &str) -> anyhow::Result<Self> {
        Self::new(&LedgerAt { url: url.to_owned(), tls: None })
    }

    /// Connects nothing yet.
    pub(super) fn new(at: &LedgerAt) -> anyhow::Result<Self> {
        // Two libraries may bring providers of their own; we choose one for the process.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut endpoint =
            Endpoint::from_shared(at.url.clone())?.tcp_nodelay(true).keep_alive_while_idle(true);
        if let Some(tls) = &at.tls {
            let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca_pem));
            if let Some((certificate, key)) = &tls.identity_pem {
                config = config.identity(Identity::from_pem(certificate, key));
            }
            if let Some(name) = &tls.server_name {
                config = config.domain_name(name);
            }
            endpoint = endpoint.tls_config(config)?;
        }
        Ok(Self { endpoint })
    }

    /// A client whose connection is made at its first call and served by the runtime that this is called on.
    ///
    /// A connection that is dead and doesn't say so, as after the loss of a ledger's node, is left `within` this time or
    /// two seconds, so that another ledger is found.
    pub(super) fn client(&self, within: Duration) -> LedgerClient<Channel> {
        let patience = (within / 2).clamp(LEAST_PATIENCE, MOST_PATIENCE);
        let endpoint = self.endpoint.clone().connect_timeout(patience);
        let endpoint = endpoint.http2_keep_alive_interval(patience).keep_alive_timeout(patience);
        LedgerClient::new(endpoint.connect_lazy()).max_decoding_message_size(MAX_ANSWER_BYTES)
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
        // It says so before it begins.
        Code::ResourceExhausted => LedgerCallError::NotSent(why),
        Code::InvalidArgument
        | Code::Unimplemented
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::NotFound => LedgerCallError::Refused(why),
        _ => LedgerCallError::Unknown(why),
    }
}

//! One connection at a time, to whichever node answers first.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions, GetOptions};
use futures::future::{BoxFuture, FutureExt, Shared};
use futures::stream::{FuturesUnordered, StreamExt};
use hyper_util::rt::TokioIo;
use lease_core::BackendError;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use crate::config::{EtcdConfig, address};
use crate::error;
use crate::newest::Newest;

/// No node takes longer to open a connection, unless it is out of reach or has no majority.
const OPENING_LIMIT: Duration = Duration::from_secs(5);

/// How often a silent connection with a watch on it is asked for a sign of life (etcd takes offence at less than 5 s),
/// and how long that may take.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(3));

/// A connection to one node, which has answered a linearizable read. It is never opened again: its cluster stays the
/// one it was.
#[derive(Clone)]
pub(crate) struct Opened {
    pub(crate) client: Client,
    pub(crate) cluster: u64,
}

pub(crate) struct Connections {
    pub(crate) config: EtcdConfig,
    pub(crate) newest: Arc<Newest>,
    state: Mutex<State>,
    generation: AtomicU64,
}

enum State {
    Idle,
    /// Goes on when those who wait for it give up, so that attempts shorter than an opening get there all the same.
    Opening(u64, Opening),
    Open(u64, Opened),
}

type Opening = Shared<BoxFuture<'static, Result<Opened, Failed>>>;

/// Why no connection could be opened, to everybody who waited.
#[derive(Clone, Debug)]
struct Failed {
    refused: bool,
    why: String,
}

/// A connection on loan. When its call fails or is cut, it is given up, and the next call opens another (U-1); but a
/// call that is cut while the connection is this call's own new one leaves it, since it was well a moment ago: else
/// attempts that are shorter than an opening and a call together would never succeed.
pub(crate) struct Lent<'a> {
    connections: &'a Connections,
    generation: u64,
    is_kept: bool,
    pub(crate) opened: Opened,
}

// === impl Connections ===

impl Connections {
    pub(crate) fn new(config: EtcdConfig, newest: Arc<Newest>) -> Self {
        Self { config, newest, state: Mutex::new(State::Idle), generation: AtomicU64::new(0) }
    }

    /// A connection that is ready. Every failure is NotApplied: nothing was sent.
    pub(crate) async fn take(&self) -> Result<Lent<'_>, BackendError> {
        let (generation, opening) = {
            let mut state = self.lock();
            match &*state {
                State::Open(generation, opened) => return Ok(self.lend(*generation, opened.clone(), false)),
                State::Opening(generation, opening) => (*generation, opening.clone()),
                State::Idle => {
                    let generation = self.generation.fetch_add(1, Ordering::Relaxed);
                    let opening = open_in_background(self.config.clone(), self.newest.clone());
                    *state = State::Opening(generation, opening.clone());
                    (generation, opening)
                }
            }
        };
        let opened = opening.await;
        let mut state = self.lock();
        if matches!(&*state, State::Opening(present, _) if *present == generation) {
            *state = match &opened {
                Ok(opened) => State::Open(generation, opened.clone()),
                Err(_) => State::Idle,
            };
        }
        drop(state);
        match opened {
            Ok(opened) => Ok(self.lend(generation, opened, true)),
            Err(failed) => Err(failed.into()),
        }
    }

    fn lend(&self, generation: u64, opened: Opened, is_new: bool) -> Lent<'_> {
        Lent { connections: self, generation, is_kept: is_new, opened }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lent ===

impl Lent<'_> {
    /// Its call has been answered: the next caller may have it.
    pub(crate) fn keep(mut self) {
        self.is_kept = true;
    }

    /// Its call has failed.
    pub(crate) fn give_up(mut self) {
        self.is_kept = false;
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            let mut state = self.connections.lock();
            if matches!(&*state, State::Open(present, _) if *present == self.generation) {
                *state = State::Idle;
            }
        }
    }
}

// === impl Failed ===

impl From<Failed> for BackendError {
    fn from(failed: Failed) -> Self {
        match failed.refused {
            true => BackendError::refused(failed.why),
            false => BackendError::not_applied(failed.why),
        }
    }
}

impl Failed {
    fn passing(why: impl Into<String>) -> Self {
        Self { refused: false, why: why.into() }
    }

    fn refused(why: impl Into<String>) -> Self {
        Self { refused: true, why: why.into() }
    }
}

/// A connection of its own for a watch: it ends when its node has no leader, or gives no sign of life.
pub(crate) async fn open_for_watch(config: &EtcdConfig, newest: &Newest) -> Result<Opened, BackendError> {
    Ok(open(config, newest, ConnectOptions::new().with_require_leader(true), true).await?)
}

fn open_in_background(config: EtcdConfig, newest: Arc<Newest>) -> Opening {
    let task = tokio::spawn(async move { open(&config, &newest, ConnectOptions::new(), false).await });
    let task = AbortOnDropHandle::new(task);
    async move { task.await.unwrap_or_else(|_| Err(Failed::passing("the runtime is shutting down"))) }
        .boxed()
        .shared()
}

/// Asks all nodes at once, and takes the first that answers: not one that is cut off, paused or without a leader.
async fn open(
    config: &EtcdConfig,
    newest: &Newest,
    options: ConnectOptions,
    keepalive: bool,
) -> Result<Opened, Failed> {
    let mut attempts: FuturesUnordered<_> = config
        .endpoints
        .iter()
        .map(|url| {
            let options = options.clone();
            async move {
                let attempt = open_one(config, newest, url, options, keepalive);
                let done = tokio::time::timeout(OPENING_LIMIT, attempt).await;
                done.unwrap_or_else(|_| Err(Failed::passing(format!("no answer within {OPENING_LIMIT:?}"))))
                    .map_err(|failed| Failed { why: format!("{}: {}", address(url), failed.why), ..failed })
            }
        })
        .collect();
    let mut failures: Vec<Failed> = Vec::new();
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(opened) => return Ok(opened),
            Err(failed) => failures.push(failed),
        }
    }
    let all = failures.iter().map(|failed| failed.why.as_str()).collect::<Vec<_>>().join("; ");
    Err(Failed {
        refused: failures.iter().all(|failed| failed.refused),
        why: format!("connecting to etcd at {all}"),
    })
}

async fn open_one(
    config: &EtcdConfig,
    newest: &Newest,
    url: &Url,
    mut options: ConnectOptions,
    keepalive: bool,
) -> Result<Opened, Failed> {
    let mut endpoint = config.endpoint(url).map_err(Failed::refused)?;
    if keepalive {
        endpoint = endpoint.http2_keep_alive_interval(KEEPALIVE.0).keep_alive_timeout(KEEPALIVE.1);
    }
    if let Some((name, password)) = config.credentials().map_err(Failed::refused)? {
        // A call that is refused for its token alone is sent again with a new one: certainly not applied before.
        options = options.with_user(name, password).with_auto_token_refresh(true);
    }
    let stream =
        TcpStream::connect(address(url)).await.map_err(|error| Failed::passing(error.to_string()))?;
    stream.set_nodelay(true).map_err(|error| Failed::passing(error.to_string()))?;
    // The library would open it again by itself, maybe to another cluster: there is only this one stream to have.
    let mut stream = Some(TokioIo::new(stream));
    let once = tower::service_fn(move |_| {
        std::future::ready(stream.take().ok_or_else(|| std::io::Error::other("the connection has ended")))
    });
    let channel = endpoint.connect_with_connector(once).await.map_err(|error| {
        let why = error::causes(&error);
        if is_tls(&error) { Failed::refused(format!("{TLS} ({why})")) } else { Failed::passing(why) }
    })?;
    let failed = |failure: etcd_client::Error| {
        let error = error::of_read("it does not serve", &failure);
        Failed { refused: error.refused, why: error.to_string() }
    };
    let mut client = Client::from_channel(Channel::Tonic(channel), Some(options)).await.map_err(failed)?;
    let before = newest.before();
    let read = client.get(config.keys.leases(), Some(GetOptions::new().with_count_only())).await;
    let read = read.map_err(failed)?;
    let header = read.header().ok_or_else(|| Failed::passing("an answer without a header"))?;
    // A cluster is restored while its nodes are down: whoever has a connection knows of it from the first answer on.
    newest.saw(before, header.cluster_id(), u64::try_from(header.revision()).unwrap_or_default());
    Ok(Opened { client, cluster: header.cluster_id() })
}

const TLS: &str = "no TLS connection; check that the url's scheme is right, that the nodes' certificates are signed by \
    the given authority for this host, and our own certificate if they ask for one";

/// rustls reports a certificate that it doesn't trust as invalid data.
fn is_tls(error: &tonic::transport::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let io = cause.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::InvalidData) {
            return true;
        }
        source = cause.source();
    }
    false
}

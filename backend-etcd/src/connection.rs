//! Connections to whichever nodes answer first, one call at a time on each.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Channel, Client, ConnectOptions, GetOptions};
use futures::stream::{FuturesUnordered, StreamExt};
use hyper_util::rt::TokioIo;
use lease_core::{BackendError, Lineage};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use url::Url;

use crate::config::{EtcdConfig, address};
use crate::error::{self, SHIM};

/// A node that takes longer to open a connection is out of reach or has no majority.
const OPENING_LIMIT: Duration = Duration::from_secs(5);

/// The number of calls that may be under way at once; each lease needs up to two (U-5).
const CONNECTIONS: usize = 4;

/// The interval at which a silent connection with a watch on it is asked for a sign of life (etcd closes connections
/// that ask more often than every 5 s), and the time limit of the answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(3));

/// A list of many leases is one answer.
pub(crate) const LONGEST_ANSWER: usize = 256 * 1024 * 1024;

/// A connection to one node, which has answered a linearizable read. It is never opened again: its cluster stays the
/// one it was.
#[derive(Clone)]
pub(crate) struct Opened {
    pub(crate) client: Client,
    pub(crate) cluster: u64,
}

impl Opened {
    /// The lineage of everything that it shows.
    pub(crate) fn lineage(&self) -> Lineage {
        Lineage(format!("{:x}", self.cluster))
    }
}

/// The connections of one backend. Each call has a connection of its own: an attempt beside a stuck call must not be
/// stuck with it, since the node may be the reason (U-1, U-5).
#[derive(Clone)]
pub(crate) struct Connections(Arc<Shared>);

struct Shared {
    config: EtcdConfig,
    /// One at most: whoever comes beside a call opens a new one, to whichever node answers then.
    idle: Mutex<Option<Opened>>,
    slots: Arc<Semaphore>,
}

/// Why no connection could be opened.
#[derive(Debug)]
struct Failed {
    refused: bool,
    why: String,
}

/// A connection on loan. When its call fails or is cut off, it is closed (U-1). Only a call that is cut off on the
/// connection that it opened itself leaves it to the next one, since it worked a moment ago: else attempts that are
/// shorter than an opening and a call together would never succeed.
pub(crate) struct Lent {
    shared: Arc<Shared>,
    is_kept: bool,
    pub(crate) opened: Opened,
    _slot: OwnedSemaphorePermit,
}

// === impl Connections ===

impl Connections {
    pub(crate) fn new(config: EtcdConfig) -> Self {
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        Self(Arc::new(Shared { config, idle: Mutex::new(None), slots }))
    }

    pub(crate) fn config(&self) -> &EtcdConfig {
        &self.0.config
    }

    /// A connection that is ready. Every failure is NotApplied: nothing was sent.
    pub(crate) async fn take(&self) -> Result<Lent, BackendError> {
        let shared = self.0.clone();
        let slot = shared.slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let idle = shared.idle().take();
        if let Some(opened) = idle {
            return Ok(Lent { shared, is_kept: false, opened, _slot: slot });
        }
        let (opened, waits) = oneshot::channel();
        // Goes on when its caller gives up, and leaves the connection to the next one, so that attempts that are
        // shorter than an opening succeed in the end.
        tokio::spawn(async move {
            let done = open(&shared.config, ConnectOptions::new(), false).await;
            let lent = done.map(|opened| Lent { shared, is_kept: true, opened, _slot: slot });
            let _ = opened.send(lent);
        });
        let lent = waits.await.unwrap_or_else(|_| Err(Failed::passing("the runtime is shutting down")));
        Ok(lent?)
    }
}

impl Shared {
    fn idle(&self) -> MutexGuard<'_, Option<Opened>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Lent ===

impl Lent {
    /// Its call has been answered: the next caller may have it.
    pub(crate) fn keep(mut self) {
        self.is_kept = true;
    }

    /// Its call has failed. When one connection is broken, the idle one probably is, too.
    pub(crate) fn give_up(mut self) {
        self.is_kept = false;
        *self.shared.idle() = None;
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.is_kept {
            *self.shared.idle() = Some(self.opened.clone());
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

impl EtcdConfig {
    /// A client with these settings, for effects in this etcd and for administration: one connection to whichever node
    /// answers first, which isn't opened again once it has ended.
    ///
    /// # Errors
    /// As for [`Etcd::connect`](crate::Etcd::connect).
    pub async fn client(&self) -> Result<Client, BackendError> {
        Ok(open(self, ConnectOptions::new(), false).await?.client)
    }
}

/// A connection of its own for a watch: it ends when its node has no leader, or gives no sign of life.
pub(crate) async fn open_for_watch(config: &EtcdConfig) -> Result<Opened, BackendError> {
    Ok(open(config, ConnectOptions::new().with_require_leader(true), true).await?)
}

/// Asks all nodes at once, and takes the first that answers: not one that is cut off, paused or without a leader.
async fn open(config: &EtcdConfig, options: ConnectOptions, keepalive: bool) -> Result<Opened, Failed> {
    let mut attempts: FuturesUnordered<_> = config
        .endpoints
        .iter()
        .map(|url| {
            let options = options.clone();
            async move {
                let attempt = open_one(config, url, options, keepalive);
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
    // The library would reconnect by itself, maybe to another cluster: it gets this one stream and no other.
    let mut stream = Some(TokioIo::new(stream));
    let once = tower::service_fn(move |_| {
        std::future::ready(stream.take().ok_or_else(|| std::io::Error::other(ENDED)))
    });
    let channel = endpoint.connect_with_connector(once).await.map_err(|error| {
        let why = error::causes(&error);
        if is_tls(&error) { Failed::refused(format!("{TLS} ({why})")) } else { Failed::passing(why) }
    })?;
    let failed = |failure: etcd_client::Error| {
        let error = error::of_read("the node does not answer reads", &failure);
        // TLS 1.3 tells us only afterwards that our certificate isn't taken; so does a node that shuts down.
        let rejected = url.scheme() == "https" && failure.to_string().contains("transport error");
        let advice = if rejected { REJECTED } else { "" };
        Failed { refused: error.refused, why: format!("{error:#}{advice}") }
    };
    let mut client = Client::from_channel(Channel::Tonic(channel), Some(options)).await.map_err(failed)?;
    let read = client.get(config.keys.leases(), Some(GetOptions::new().with_count_only())).await;
    let read = read.map_err(failed)?;
    let header = read.header().ok_or_else(|| Failed::passing("an answer without a header"))?;
    if header.cluster_id() == 0 {
        return Err(Failed::refused(format!("{SHIM} (its answers have cluster id 0)")));
    }
    Ok(Opened { client, cluster: header.cluster_id() })
}

const ENDED: &str = "the connection has ended";

const REJECTED: &str = "; if the nodes ask for certificates, check ours and its authority";

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

//! A proxy between a client and its server that breaks the traffic through it, and counts it.

mod connection;
mod faults;
mod http2;
mod postgres;
mod request;
mod round_trips;
mod traps;
mod wire;

use std::{io, net::SocketAddr, sync::Arc, thread, time::Duration};

use anyhow::{Context, anyhow};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use self::{
    connection::serve,
    faults::{Faults, ProxyState},
    wire::Protocol,
};
pub use self::{
    faults::{Direction, Flow},
    request::ProxiedRequest,
    round_trips::{RoundTripCount, RoundTrips},
    traps::{Hold, LostReply},
};
use crate::ports::ReservedPort;

/// A fault proxy on a port of 127.0.0.1.
///
/// It passes everything on until told otherwise; each fault holds for all connections, those that are open and those
/// to come. It runs on a thread of its own, so it goes on when the runtime of a test is blocked. Dropping it closes
/// its port and breaks its connections.
///
/// ```
/// # use lease_testbed::*;
/// # async fn example(renew: impl AsyncFn(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
/// let postgres = Postgres::start(PostgresOptions::default()).await?;
/// let proxy = Proxy::postgres(postgres.addr())?;
/// let url = proxy.url(&postgres.url())?;
///
/// let before = proxy.round_trips();
/// renew(&url).await?;
/// assert_eq!(proxy.round_trips().since(&before).matching("UPDATE leases").requests, 1);
///
/// let mut reply = proxy.lose_reply(|request| request.sql_contains("UPDATE leases"));
/// assert!(renew(&url).await.is_err()); // applied, but the client can't know
/// reply.lost().await?;
/// # Ok(()) }
/// ```
pub struct Proxy {
    shared: Arc<ProxyState>,
    port: ReservedPort,
    thread: Option<thread::JoinHandle<io::Result<()>>>,
}

impl Proxy {
    /// Starts a proxy that understands PostgreSQL's protocol: it can tell requests by their SQL, and counts them.
    ///
    /// It declines TLS, so the traffic through it is plain.
    ///
    /// # Errors
    /// When the system has no free port or can't start a thread.
    pub fn postgres(upstream: SocketAddr) -> anyhow::Result<Self> {
        Self::start(Protocol::Postgres, upstream)
    }

    /// Starts a proxy that understands gRPC without TLS: each message of a client is a request, told by its
    /// method ([`ProxiedRequest::calls`]) and its bytes. The reply to it is everything that the server sends in its call; so hold
    /// and lose unary calls, not streaming ones.
    ///
    /// # Errors
    /// As [`postgres`](Self::postgres).
    pub fn grpc(upstream: SocketAddr) -> anyhow::Result<Self> {
        Self::start(Protocol::Grpc, upstream)
    }

    /// Starts a proxy for any protocol over TCP. For it each piece of bytes that the client sends is a request, and
    /// the next piece from the server is the reply: right for HTTP/1.1 without pipelining.
    ///
    /// # Errors
    /// As [`postgres`](Self::postgres).
    pub fn tcp(upstream: SocketAddr) -> anyhow::Result<Self> {
        Self::start(Protocol::Tcp, upstream)
    }

    fn start(protocol: Protocol, upstream: SocketAddr) -> anyhow::Result<Self> {
        let port = ReservedPort::new().context("no free port")?;
        let shared = Arc::new(ProxyState::new(protocol, upstream));
        let listener = std::net::TcpListener::bind(port.addr()).context("cannot listen")?;
        listener.set_nonblocking(true)?;
        let serve = {
            let shared = shared.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(accept(listener, shared))
            }
        };
        let thread = thread::Builder::new().name("testbed-proxy".into()).spawn(serve)?;
        Ok(Self { shared, port, thread: Some(thread) })
    }

    /// The address for clients.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// A url with this proxy in place of its host and port.
    ///
    /// # Errors
    /// When `url` is no url that has a host.
    pub fn url(&self, url: &str) -> anyhow::Result<String> {
        let mut url = Url::parse(url).map_err(|error| anyhow!("not a url: {error}"))?;
        let replaced =
            url.set_ip_host(self.addr().ip()).and_then(|()| url.set_port(Some(self.addr().port())));
        replaced.map_err(|()| anyhow!("not a url that has a host and a port"))?;
        Ok(url.into())
    }

    /// Sends new connections to another server, as an address that moves in a failover. Open ones stay where
    /// they are; [`cut`](Self::cut) them as well.
    pub fn switch_upstream(&self, upstream: SocketAddr) {
        self.change(|faults| faults.upstream = upstream);
    }

    /// Passes, stalls or drops the bytes of one direction. With one direction dropped, connections are half-open.
    pub fn set_flow(&self, direction: Direction, flow: Flow) {
        self.change(|faults| faults.lane_mut(direction).flow = flow);
    }

    /// Adds a latency to one direction; the throughput stays as it is. It counts for what arrives from now on.
    pub fn set_delay(&self, direction: Direction, delay: Duration) {
        self.change(|faults| faults.lane_mut(direction).delay = delay);
    }

    /// Stalls both directions, until [`heal`](Self::heal): then everything arrives, late.
    pub fn stall(&self) {
        self.both(Flow::Stall);
    }

    /// Drops everything in both directions without closing anything.
    pub fn drop_all(&self) {
        self.both(Flow::Drop);
    }

    /// Ends all faults but the traps and the refusal: both directions pass without delay.
    pub fn heal(&self) {
        self.change(|faults| (faults.to_server, faults.to_client) = Default::default());
    }

    /// Breaks all open connections by RST, in both directions, and returns when they are closed. Bytes that were held or
    /// under way are gone. New connections work.
    pub async fn cut(&self) {
        let mut open = self.shared.open.subscribe();
        let mut below = 0;
        self.change(|faults| {
            below = open.borrow().last().map_or(0, |last| last + 1).max(faults.cut_below);
            faults.cut_below = below;
        });
        // Never an error: we hold the sender.
        let _ = open.wait_for(|open| open.iter().all(|number| *number >= below)).await;
    }

    /// Refuses new connections, as a port that nobody listens on does, or takes them again. Open ones stay. Returns
    /// when it is so.
    ///
    /// # Errors
    /// When another process has taken the port meanwhile, which can't happen on Linux.
    pub async fn refuse(&self, refuse: bool) -> anyhow::Result<()> {
        self.change(|faults| faults.refuse = refuse);
        let mut listening = self.shared.listening.subscribe();
        let done = listening.wait_for(|listening| *listening != refuse);
        tokio::time::timeout(Duration::from_secs(10), done)
            .await
            .context("the proxy cannot listen again")??;
        Ok(())
    }

    /// Holds back the next request that matches, once, until the handle is told what to do with it.
    pub fn hold(&self, matches: impl Fn(&ProxiedRequest) -> bool + Send + Sync + 'static) -> Hold {
        self.shared.traps.hold(Box::new(matches))
    }

    /// Passes on the next request that matches and [executes](ProxiedRequest::executes) something, waits for the server's whole
    /// answer (so it was applied), and then cuts the connection instead of passing the answer on. Once.
    pub fn lose_reply(&self, matches: impl Fn(&ProxiedRequest) -> bool + Send + Sync + 'static) -> LostReply {
        self.shared.traps.lose_reply(Box::new(move |request| request.executes() && matches(request)))
    }

    /// The traffic up to now.
    pub fn round_trips(&self) -> RoundTrips {
        self.shared.round_trips().clone()
    }

    /// The number of connections that are open now.
    pub fn open_connections(&self) -> usize {
        self.shared.open.borrow().len()
    }

    fn both(&self, flow: Flow) {
        self.change(|faults| (faults.to_server.flow, faults.to_client.flow) = (flow, flow));
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) {
        self.shared.faults.send_modify(change);
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let faults = self.shared.faults.borrow();
        f.debug_struct("Proxy").field("addr", &self.addr()).field("faults", &*faults).finish_non_exhaustive()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.change(|faults| faults.shutdown = true);
        if let Some(Ok(Err(error))) = self.thread.take().map(thread::JoinHandle::join) {
            tracing::error!(%error, "the proxy had ended before");
        }
    }
}

/// Accepts connections until the proxy is dropped; with the runtime that this runs on, they end too.
async fn accept(listener: std::net::TcpListener, shared: Arc<ProxyState>) -> io::Result<()> {
    let addr = listener.local_addr()?;
    let mut faults = shared.faults.subscribe();
    let mut listener = Some(TcpListener::from_std(listener)?);
    let mut number = 0;
    loop {
        let (refuse, shutdown) = {
            let faults = faults.borrow_and_update();
            (faults.refuse, faults.shutdown)
        };
        if shutdown {
            return Ok(());
        }
        if refuse {
            if let Some(listener) = listener.take() {
                // A child that is just being started elsewhere in this process still has a copy of the socket, so
                // closing ours would not do. Systems that can't shut down a listener answer by an error.
                let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Read);
            }
        } else if listener.is_none() {
            listener = Some(TcpListener::bind(addr).await?);
        }
        shared.listening.send_replace(listener.is_some());
        tokio::select! {
            client = next(listener.as_ref()) => {
                shared.open.send_modify(|open| _ = open.insert(number));
                tokio::spawn(serve(client, shared.clone(), number));
                number += 1;
            }
            _ = faults.changed() => {}
        }
    }
}

async fn next(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        match listener.accept().await {
            Ok((client, _)) => return client,
            // Too many open files, or a client that has gone already.
            Err(error) => tracing::warn!(%error, "the proxy could not accept a connection"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

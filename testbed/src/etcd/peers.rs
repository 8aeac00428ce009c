//! The links between the nodes of a cluster, each of which can be cut.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, thread};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
};

use crate::ports::ReservedPort;

/// More than any head of a request between nodes.
const LONGEST_HEAD: usize = 16 * 1024;

/// Each node's peer traffic goes through a port of ours, where the first request of a connection names the node that it
/// comes from. Traffic that is cut off waits, as in a partition that heals before TCP gives up.
///
/// Runs on a thread of its own, and ends with this value.
pub(super) struct Peers {
    ports: Vec<(ReservedPort, ReservedPort)>,
    state: Arc<watch::Sender<State>>,
    thread: Option<thread::JoinHandle<std::io::Result<()>>>,
}

#[derive(Debug, Default)]
struct State {
    /// The nodes' ids by their numbers; empty until they are known.
    ids: Vec<u64>,
    isolated: BTreeSet<usize>,
    ended: bool,
}

/// Sender and receiver of a connection; a sender that doesn't name itself is `None`.
#[derive(Clone, Copy)]
struct Link {
    from: Option<u64>,
    to: usize,
}

// === impl Peers ===

impl Peers {
    pub(super) fn start(nodes: usize) -> anyhow::Result<Self> {
        let (mut ports, mut listeners) = (Vec::new(), Vec::new());
        for _ in 0..nodes {
            let (front, back) =
                (ReservedPort::new().context("no free port")?, ReservedPort::new().context("no free port")?);
            let listener = std::net::TcpListener::bind(front.addr()).context("cannot listen")?;
            listener.set_nonblocking(true)?;
            listeners.push((listener, back.addr()));
            ports.push((front, back));
        }
        let state = Arc::new(watch::Sender::new(State::default()));
        let serve = {
            let state = state.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    for (to, (listener, back)) in listeners.into_iter().enumerate() {
                        tokio::spawn(accept(TcpListener::from_std(listener)?, back, to, state.clone()));
                    }
                    let _ = state.subscribe().wait_for(|state| state.ended).await;
                    Ok(())
                })
            }
        };
        let thread = thread::Builder::new().name("testbed-peers".into()).spawn(serve)?;
        Ok(Self { ports, state, thread: Some(thread) })
    }

    /// The address on which a node listens, and the one by which the others find it.
    pub(super) fn addrs(&self, node: usize) -> (SocketAddr, SocketAddr) {
        let (front, back) = &self.ports[node];
        (back.addr(), front.addr())
    }

    pub(super) fn name(&self, ids: Vec<u64>) {
        self.state.send_modify(|state| state.ids = ids);
    }

    pub(super) fn is_isolated(&self, node: usize) -> bool {
        self.state.borrow().isolated.contains(&node)
    }

    /// Cuts these nodes off from all others, and from each other.
    pub(super) fn isolate(&self, nodes: impl IntoIterator<Item = usize>) {
        self.state.send_modify(|state| state.isolated = nodes.into_iter().collect());
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        self.state.send_modify(|state| state.ended = true);
        if let Some(Ok(Err(error))) = self.thread.take().map(thread::JoinHandle::join) {
            tracing::error!(%error, "the links between the nodes had ended before");
        }
    }
}

impl State {
    fn passes(&self, link: Link) -> bool {
        let from = self.ids.iter().position(|id| Some(*id) == link.from);
        !self.isolated.contains(&link.to) && from.is_none_or(|from| !self.isolated.contains(&from))
    }
}

async fn accept(listener: TcpListener, back: SocketAddr, to: usize, state: Arc<watch::Sender<State>>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => _ = tokio::spawn(serve(client, back, to, state.subscribe())),
            Err(error) => tracing::warn!(%error, "could not accept a node's connection"),
        }
    }
}

/// Errors end a connection, as they do in a network: the nodes open another.
async fn serve(
    mut client: TcpStream,
    back: SocketAddr,
    to: usize,
    state: watch::Receiver<State>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if client.read_buf(&mut head).await? == 0 || head.len() > LONGEST_HEAD {
            return Ok(());
        }
    }
    let link = Link { from: sender(&head), to };
    let mut passing = state.clone();
    let _ = passing.wait_for(|state| state.passes(link)).await;
    let mut server = TcpStream::connect(back).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    server.write_all(&head).await?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        copy(from_client, to_server, link, state.clone()),
        copy(from_server, to_client, link, state)
    )?;
    Ok(())
}

async fn copy(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    link: Link,
    mut state: watch::Receiver<State>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        // An error means that all is ending.
        let _ = state.wait_for(|state| state.passes(link)).await;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}

fn sender(head: &[u8]) -> Option<u64> {
    let head = String::from_utf8_lossy(head);
    let line = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("x-server-from").then(|| value.trim().to_owned())
    })?;
    u64::from_str_radix(&line, 16).ok()
}

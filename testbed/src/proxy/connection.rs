//! One connection through a proxy: two directions, each a reader that finds the requests and a writer that is
//! subject to the faults.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    faults::{Direction, Faults, Flow, ProxyState},
    request::{Content, FromClient, ProxiedRequest},
    traps::{Decision, TrapAction},
    wire::{ClientParser, Protocol, ServerParser},
};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The number of items that may be on their way in one direction; then the sender has to wait.
const QUEUE: usize = 64;

/// An item on its way, and the time from which it may arrive.
struct Item {
    at: Instant,
    load: Load,
}

enum Load {
    Request(ProxiedRequest),
    /// Bytes, and the labels of the requests that they complete the replies to.
    Bytes(Vec<u8>, Vec<String>),
    LoseReply(Lose),
    End,
}

struct Lose {
    request: ProxiedRequest,
    lost: oneshot::Sender<ProxiedRequest>,
}

/// A request that the server hasn't answered.
struct Pending {
    label: String,
    stream: u32,
    completes: bool,
    lose: Option<Lose>,
}

/// Ends the connection in both directions, by RST.
enum Abort {
    Broken,
    ReplyLost(Lose),
}

struct Connection {
    shared: Arc<ProxyState>,
    pending: Mutex<VecDeque<Pending>>,
}

/// One direction's faults, for one connection.
struct Gate {
    faults: watch::Receiver<Faults>,
    direction: Direction,
    has_lost_bytes: bool,
}

/// Counts a connection as open; also when a caller's predicate panics.
struct Open {
    shared: Arc<ProxyState>,
    number: u64,
}

/// Serves a connection to its end.
pub(super) async fn serve(client: TcpStream, shared: Arc<ProxyState>, number: u64) {
    let open = Open { shared: shared.clone(), number };
    let mut faults = shared.faults.subscribe();
    let upstream = shared.faults.borrow().upstream;
    let mut cut = faults.clone();
    let cut = cut.wait_for(|faults| faults.cut_below > number || faults.shutdown);
    let lost = tokio::select! {
        lost = pass(client, upstream, shared.clone(), &mut faults) => lost,
        _ = cut => None,
    };
    // The sockets are closed by now.
    drop(open);
    if let Some(Lose { request, lost }) = lost {
        let _ = lost.send(request); // nobody may wait for it
    }
}

async fn pass(
    client: TcpStream,
    upstream: SocketAddr,
    shared: Arc<ProxyState>,
    faults: &mut watch::Receiver<Faults>,
) -> Option<Lose> {
    let mut client = ResetOnDrop::new(client);
    let Ok(Ok(server)) = timeout(CONNECT_LIMIT, TcpStream::connect(upstream)).await else { return None };
    let mut server = ResetOnDrop::new(server);
    let connection = Connection { shared, pending: Mutex::default() };
    let (from_client, to_client) = client.stream.split();
    let (from_server, to_server) = server.stream.split();
    let (server_queue, server_items) = mpsc::channel(QUEUE);
    let (client_queue, client_items) = mpsc::channel(QUEUE);
    let gate = |direction| Gate { faults: faults.clone(), direction, has_lost_bytes: false };
    let ended = tokio::try_join!(
        connection.read_client(from_client, server_queue, client_queue.clone()),
        connection.write_server(server_items, to_server, gate(Direction::ToServer)),
        connection.read_server(from_server, client_queue),
        connection.write_client(client_items, to_client, gate(Direction::ToClient)),
    );
    match ended {
        Ok(_) => {
            (client.in_good_order, server.in_good_order) = (true, true);
            None
        }
        Err(Abort::Broken) => None,
        Err(Abort::ReplyLost(lose)) => Some(lose),
    }
}

// === impl Connection ===

impl Connection {
    async fn read_client(
        &self,
        mut stream: ReadHalf<'_>,
        to_server: mpsc::Sender<Item>,
        to_client: mpsc::Sender<Item>,
    ) -> Result<(), Abort> {
        let mut parser = ClientParser::new(self.shared.protocol);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            // A reset is an end too: the bytes before it are on their way to the server all the same.
            let length = stream.read(&mut buffer).await.unwrap_or(0);
            if length == 0 {
                return self.send(&to_server, Direction::ToServer, Load::End).await;
            }
            parser.feed(&buffer[..length]);
            while let Some(found) = parser.next() {
                match found {
                    FromClient::Encrypt => {
                        self.send(&to_client, Direction::ToClient, Load::Bytes(vec![b'N'], Vec::new()))
                            .await?;
                    }
                    FromClient::Request(request) => {
                        self.send(&to_server, Direction::ToServer, Load::Request(request)).await?;
                    }
                    FromClient::Other(bytes) => {
                        self.send(&to_server, Direction::ToServer, Load::Bytes(bytes, Vec::new())).await?;
                    }
                }
            }
        }
    }

    async fn write_server(
        &self,
        mut items: mpsc::Receiver<Item>,
        mut stream: WriteHalf<'_>,
        mut gate: Gate,
    ) -> Result<(), Abort> {
        while let Some(Item { at, load }) = items.recv().await {
            sleep_until(at).await;
            let (bytes, pending) = match load {
                Load::Request(request) => {
                    let lose = self.spring_trap(&request).await?;
                    let label = request.label();
                    let (stream, completes) = match request.content {
                        Content::Postgres { completes, .. } => (0, completes),
                        Content::Grpc { stream, .. } => (stream, true),
                        Content::Tcp => (0, true),
                    };
                    (request.bytes, Some(Pending { label, stream, completes, lose }))
                }
                Load::Bytes(bytes, _) => (bytes, None),
                Load::LoseReply(_) | Load::End => {
                    gate.ends().await?;
                    let _ = stream.shutdown().await; // the server may have closed first
                    return Ok(());
                }
            };
            if !gate.lets_pass().await {
                continue;
            }
            if let Some(pending) = pending {
                self.shared.round_trips().request(&pending.label);
                self.pending().push_back(pending);
            }
            stream.write_all(&bytes).await.map_err(|_| Abort::Broken)?;
        }
        Ok(())
    }

    /// Springs the trap for this request, if there is one, before it is passed on.
    async fn spring_trap(&self, request: &ProxiedRequest) -> Result<Option<Lose>, Abort> {
        match self.shared.traps.catch(request) {
            None => Ok(None),
            Some(TrapAction::LoseReply { lost }) => Ok(Some(Lose { request: request.clone(), lost })),
            Some(TrapAction::Hold { caught, decision }) => {
                let _ = caught.send(request.clone());
                // A handle that was dropped releases.
                match decision.await.unwrap_or(Decision::Release) {
                    Decision::Release => Ok(None),
                    Decision::Discard => Err(Abort::Broken),
                }
            }
        }
    }

    async fn read_server(
        &self,
        mut stream: ReadHalf<'_>,
        to_client: mpsc::Sender<Item>,
    ) -> Result<(), Abort> {
        let mut parser = ServerParser::new(self.shared.protocol);
        let mut buffer = vec![0; 64 * 1024];
        // From the first byte of a reply that is to be lost everything is lost, until the connection is cut.
        let mut loses = false;
        loop {
            let length = stream.read(&mut buffer).await.map_err(|_| Abort::Broken)?;
            if length == 0 {
                return self.send(&to_client, Direction::ToClient, Load::End).await;
            }
            parser.feed(&buffer[..length]);
            let (mut bytes, mut answered) = (Vec::new(), Vec::new());
            while let Some(message) = parser.next() {
                loses |= self.loses(message.stream);
                if !loses {
                    bytes.extend(message.bytes);
                }
                if !message.completes {
                    continue;
                }
                for pending in self.completed(message.stream) {
                    match pending.lose {
                        None => answered.push(pending.label),
                        Some(lose) => {
                            self.send(&to_client, Direction::ToClient, Load::Bytes(bytes, answered)).await?;
                            return self.send(&to_client, Direction::ToClient, Load::LoseReply(lose)).await;
                        }
                    }
                }
            }
            if !bytes.is_empty() {
                self.send(&to_client, Direction::ToClient, Load::Bytes(bytes, answered)).await?;
            }
        }
    }

    async fn write_client(
        &self,
        mut items: mpsc::Receiver<Item>,
        mut stream: WriteHalf<'_>,
        mut gate: Gate,
    ) -> Result<(), Abort> {
        let mut client_listens = true;
        while let Some(Item { at, load }) = items.recv().await {
            sleep_until(at).await;
            match load {
                Load::LoseReply(lose) => return Err(Abort::ReplyLost(lose)),
                Load::End => {
                    gate.ends().await?;
                    let _ = stream.shutdown().await; // the client may have closed first
                    return Ok(());
                }
                Load::Request(_) => {}
                Load::Bytes(bytes, answered) => {
                    // When the client has gone, its earlier requests may still be held or under way: go on.
                    if client_listens && gate.lets_pass().await {
                        // First, so that a client that has a reply finds it counted.
                        self.shared.round_trips().replies(&answered);
                        client_listens = stream.write_all(&bytes).await.is_ok();
                    }
                }
            }
        }
        Ok(())
    }

    /// The requests that a completed reply answers: the first, and those flushed before it. In TCP mode all, since
    /// a request may have come in several pieces; of gRPC calls the one of that stream.
    fn completed(&self, stream: u32) -> Vec<Pending> {
        let mut pending = self.pending();
        if self.shared.protocol == Protocol::Grpc {
            let of_stream = pending.iter().position(|pending| pending.stream == stream);
            return of_stream.and_then(|position| pending.remove(position)).into_iter().collect();
        }
        let first = pending.iter().position(|pending| pending.completes).map_or(0, |position| position + 1);
        let end = if self.shared.protocol == Protocol::Tcp { pending.len() } else { first };
        pending.drain(..end).collect()
    }

    /// Whether the server's next message belongs to a reply that is to be lost.
    fn loses(&self, stream: u32) -> bool {
        let pending = self.pending();
        let next = match self.shared.protocol {
            Protocol::Grpc => pending.iter().find(|pending| pending.stream == stream),
            Protocol::Postgres | Protocol::Tcp => pending.front(),
        };
        next.is_some_and(|pending| pending.lose.is_some())
    }

    async fn send(&self, queue: &mpsc::Sender<Item>, direction: Direction, load: Load) -> Result<(), Abort> {
        let delay = self.shared.faults.borrow().lane(direction).delay;
        queue.send(Item { at: Instant::now() + delay, load }).await.or(Ok(())) // the writer has ended before
    }

    fn pending(&self) -> MutexGuard<'_, VecDeque<Pending>> {
        self.pending.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.open.send_modify(|open| _ = open.remove(&self.number));
    }
}

// === impl Gate ===

impl Gate {
    /// Waits while the direction is stalled; false when the bytes are lost.
    async fn lets_pass(&mut self) -> bool {
        let direction = self.direction;
        let Ok(faults) = self.faults.wait_for(|faults| faults.lane(direction).flow != Flow::Stall).await
        else {
            return false;
        };
        self.has_lost_bytes |= faults.lane(direction).flow == Flow::Drop;
        !self.has_lost_bytes
    }

    /// Waits until a close can be passed on; a direction that has lost bytes can't be closed in good order.
    async fn ends(&mut self) -> Result<(), Abort> {
        let direction = self.direction;
        let passes = self.faults.wait_for(|faults| faults.lane(direction).flow == Flow::Pass).await.is_ok();
        if passes && !self.has_lost_bytes { Ok(()) } else { Err(Abort::Broken) }
    }
}

/// A socket that is closed by RST, as a broken network would, unless both sides have closed it in good order.
struct ResetOnDrop {
    stream: TcpStream,
    in_good_order: bool,
}

impl ResetOnDrop {
    fn new(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true); // each message is passed on at once, as without a proxy
        Self { stream, in_good_order: false }
    }
}

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        if !self.in_good_order {
            let _ = self.stream.set_zero_linger(); // it may be closed already
        }
    }
}

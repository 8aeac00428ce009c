//! Clients by the thousand that connect and then say nothing, half of something, or nothing more.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// How far a client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowClient {
    /// It only connects.
    Silent,
    /// Half of a request line.
    HalfRequest,
    /// Half of a TLS client's hello.
    HalfHello,
    /// Half of HTTP/2's preface.
    HalfPreface,
    /// A whole request; the connection is kept.
    IdleHttp,
    /// HTTP/2's preface and settings, and no call.
    IdleGrpc,
    /// A health check by gRPC without its message.
    HalfCheck,
    /// News of a service's health by gRPC, without end.
    Watch,
}

impl SlowClient {
    /// Those that never finish what they begin.
    pub const HALF_OPEN: [Self; 4] = [Self::Silent, Self::HalfRequest, Self::HalfHello, Self::HalfPreface];

    /// Those that ask by gRPC for what is open to everybody, and go on for ever.
    pub const ENDLESS: [Self; 2] = [Self::HalfCheck, Self::Watch];

    fn says(self) -> &'static [u8] {
        match self {
            Self::Silent => b"",
            Self::HalfRequest => b"GET /heal",
            Self::HalfHello => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            Self::HalfPreface => b"PRI * HTTP/2.0\r\n",
            Self::IdleHttp => b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
            Self::IdleGrpc => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            // The preface, settings, the headers of a POST; then, for a whole request, an empty message.
            Self::HalfCheck => {
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x36\x01\x04\0\0\0\x01\x83\x86\
                  \x04\x1c/grpc.health.v1.Health/Check\x01\x01x\x0f\x10\x10application/grpc"
            }
            Self::Watch => {
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x36\x01\x04\0\0\0\x01\x83\x86\
                  \x04\x1c/grpc.health.v1.Health/Watch\x01\x01x\x0f\x10\x10application/grpc\
                  \0\0\x05\0\x01\0\0\0\x01\0\0\0\0\0"
            }
        }
    }

    fn is_answered(self) -> bool {
        matches!(self, Self::IdleHttp | Self::IdleGrpc)
    }
}

/// Where a listener is.
#[derive(Clone, Debug)]
pub enum ListensAt {
    /// On this port.
    Tcp(SocketAddr),
    /// At this socket.
    Unix(PathBuf),
}

/// What a probe and a request may take among slow clients: on a machine that is busy, where whoever is shut out has no answer
/// at all.
pub const BUSY: Duration = Duration::from_secs(5);
/// The same in a minute of its own, which has the machine to itself.
pub const AT_ONCE: Duration = Duration::from_secs(1);

/// Half-open clients and `idle` ones crowd each place, 2,000 of either. For as long as `lasts`, and once at least, `ask` must
/// succeed; in between those come again whom the servers have closed.
///
/// # Errors
/// Those of `ask`, and of [`SlowClients::open`].
pub async fn ask_among_slow_clients(
    places: &[ListensAt],
    idle: &[SlowClient],
    lasts: Duration,
    mut ask: impl AsyncFnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<SlowClients>> {
    let mut crowds = Vec::new();
    for at in places {
        for kinds in [&SlowClient::HALF_OPEN[..], idle] {
            crowds.push(SlowClients::open(at.clone(), kinds, 2_000).await?);
        }
    }
    let until = Instant::now() + lasts;
    loop {
        ask().await?;
        if Instant::now() >= until {
            return Ok(crowds);
        }
        for crowd in &mut crowds {
            crowd.insist().await?;
        }
    }
}

/// Asks, and fails if the answer took longer.
///
/// # Errors
/// That, or the asked one's.
pub async fn in_time<T>(
    limit: Duration,
    what: &str,
    asked: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    let answer = asked.await;
    anyhow::ensure!(began.elapsed() < limit, "{what} took {:?}", began.elapsed());
    answer
}

/// Clients that are held until they are dropped.
pub struct SlowClients {
    at: ListensAt,
    held: Vec<(SlowClient, Stream)>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

// === impl SlowClients ===

impl SlowClients {
    /// Connects `count` clients, so many of each kind.
    ///
    /// # Errors
    /// When one can't connect within ten seconds, or gets no answer that it should get.
    pub async fn open(at: ListensAt, kinds: &[SlowClient], count: usize) -> anyhow::Result<Self> {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
        let mut this = Self { at, held: Vec::with_capacity(count) };
        for kind in kinds.iter().cycle().take(count) {
            let stream = this.connect(*kind).await?;
            this.held.push((*kind, stream));
        }
        Ok(this)
    }

    /// Connects those again that the server has closed.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn insist(&mut self) -> anyhow::Result<()> {
        for at in 0..self.held.len() {
            if self.held[at].1.is_closed() {
                let kind = self.held[at].0;
                self.held[at].1 = self.connect(kind).await?;
            }
        }
        Ok(())
    }

    /// How many of this kind the server has closed.
    pub fn closed(&self, kind: SlowClient) -> usize {
        self.held.iter().filter(|(held, stream)| *held == kind && stream.is_closed()).count()
    }

    async fn connect(&self, kind: SlowClient) -> anyhow::Result<Stream> {
        let connected = timeout(Duration::from_secs(10), async {
            let mut stream = match &self.at {
                ListensAt::Tcp(address) => Stream::Tcp(TcpStream::connect(address).await?),
                ListensAt::Unix(path) => Stream::Unix(UnixStream::connect(path).await?),
            };
            // Whoever closed it meanwhile did so rightly.
            let _ = stream.write(kind.says()).await;
            if kind.is_answered() {
                let _ = stream.read().await;
            }
            io::Result::Ok(stream)
        });
        Ok(connected.await.map_err(|_| anyhow::anyhow!("{kind:?} was not answered within 10 s"))??)
    }
}

impl Stream {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await,
            Self::Unix(stream) => stream.write_all(bytes).await,
        }
    }

    async fn read(&mut self) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(&mut [0; 4_096]).await,
            Self::Unix(stream) => stream.read(&mut [0; 4_096]).await,
        }
    }

    /// Whatever the server had to say before.
    fn is_closed(&self) -> bool {
        loop {
            let read = match self {
                Self::Tcp(stream) => stream.try_read(&mut [0; 4_096]),
                Self::Unix(stream) => stream.try_read(&mut [0; 4_096]),
            };
            match read {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }
}

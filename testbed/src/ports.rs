//! Free ports that stay reserved for the caller.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Mutex,
};

use tokio::net::TcpSocket;

/// A port on 127.0.0.1 that the system gives to nobody else while this value lives.
///
/// On Linux the port stays bound, without listening: a server that sets SO_REUSEADDR (nearly all do, Postgres,
/// tokio and Go among them) can bind and listen on it as often as it likes; for others it is taken, and connections are
/// refused. On other systems the port was free a moment ago, no more.
#[derive(Debug)]
pub struct ReservedPort {
    port: u16,
    _socket: Option<TcpSocket>,
}

impl ReservedPort {
    /// Reserves a port.
    ///
    /// # Errors
    /// When the system has no port left.
    pub fn new() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let port = socket.local_addr()?.port();
        Ok(Self { port, _socket: cfg!(target_os = "linux").then_some(socket) })
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.port
    }

    /// The port on 127.0.0.1.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }
}

/// A port on 127.0.0.1 that no other caller in any process is given while this process lives ([`ReservedPort`]).
///
/// # Errors
/// When the system has no port left.
pub fn free_port() -> io::Result<u16> {
    static RESERVED: Mutex<Vec<ReservedPort>> = Mutex::new(Vec::new());
    let port = ReservedPort::new()?;
    let number = port.number();
    RESERVED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(port);
    Ok(number)
}

//! A listener that has at most so many connections at once: others wait in the system's queue. Whoever opens
//! connections without end must not use up the descriptors that a renewal needs to connect again.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Well below the 1,024 descriptors that a process may have where nobody raised the limit.
pub const MOST: usize = 512;

/// See the module.
pub struct Limited<L> {
    listener: L,
    places: Arc<Semaphore>,
}

impl<L> Limited<L> {
    /// At most `most` connections at once.
    pub fn new(listener: L, most: usize) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(most)) }
    }
}

impl<L: Listener> Listener for Limited<L> {
    type Io = Placed<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (io, address) = self.listener.accept().await;
        (Placed { io, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection, and its place until it is closed.
pub struct Placed<I> {
    io: I,
    _place: OwnedSemaphorePermit,
}

impl<I: AsyncRead + Unpin> AsyncRead for Placed<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Placed<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(feature = "grpc")]
pub use grpc::incoming;

#[cfg(feature = "grpc")]
mod grpc {
    use futures::{Stream, StreamExt, stream};
    use rustix::process::{Resource, getrlimit};
    use tokio::net::TcpStream;
    use tonic::transport::server::{Connected, TcpIncoming};

    use super::*;

    /// The same for gRPC, whose clients stay connected: half of the descriptors that this process may have.
    pub fn incoming(listener: TcpIncoming) -> impl Stream<Item = io::Result<Placed<TcpStream>>> {
        let most = getrlimit(Resource::Nofile).current.map_or(MOST, |limit| limit as usize / 2);
        let places = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        stream::unfold((listener, places), async |(mut listener, places)| {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            let accepted = listener.next().await?;
            Some((accepted.map(|io| Placed { io, _place: place }), (listener, places)))
        })
    }

    impl<I: Connected> Connected for Placed<I> {
        type ConnectInfo = I::ConnectInfo;

        fn connect_info(&self) -> Self::ConnectInfo {
            self.io.connect_info()
        }
    }
}

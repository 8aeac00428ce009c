//! The server of every listener of every role: HTTP/1 or gRPC, over TCP or a Unix socket, with TLS or without.
//!
//! Half-open and idle connections shut nobody out: see [`connections`](crate::connections).

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response, StatusCode};
use axum::response::IntoResponse;
use axum::serve::Listener;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::connections::{Carried, Place, Places, Share, WaitLimits};
use crate::tls::{PeerNames, ServerTls};

/// Open to strangers, and served also while every place is busy. They keep no place: who asks for one still only waits,
/// and so does who asks for half of one, or for news without end.
const PAGES: [&str; 5] =
    ["/healthz", "/readyz", "/metrics", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];

/// The time limit of a request of which only a part comes. The services' own limits are below it.
const REQUEST_LIMIT: Duration = Duration::from_secs(120);

/// The time limit of a TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// The time limit for an orderly end of a connection that was silent for too long.
const PARTING: Duration = Duration::from_secs(1);
/// A dead client of gRPC is found out within two of these.
const PING_EVERY: Duration = Duration::from_secs(30);

/// Whoever reads nothing of its response holds no place.
const UNREAD: Duration = Duration::from_secs(30);
/// Pages and requests over HTTP/1. Clients' pools close theirs within 90 s.
const HTTP: WaitLimits =
    WaitLimits { first: Duration::from_secs(10), idle: Duration::from_secs(120), unread: UNREAD };
/// Clients of gRPC connect before they have anything to ask.
const GRPC: WaitLimits =
    WaitLimits { first: Duration::from_secs(60), idle: Duration::from_secs(600), unread: UNREAD };

/// What is spoken on a listener's connections.
#[derive(Clone, Copy, Debug)]
pub enum WireProtocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2, each connection with so many calls at once.
    Grpc {
        /// The number of calls.
        most_calls: u32,
    },
}

/// A server that runs beside the work, until it is dropped.
pub struct RoleServer {
    close: CancellationToken,
    task: JoinHandle<()>,
    _gone: DropGuard,
}

/// What all connections of one listener share.
struct Shared {
    router: Router,
    protocol: WireProtocol,
    tls: Option<ServerTls>,
    /// Of one request.
    request_limit: Duration,
    close: CancellationToken,
    gone: CancellationToken,
}

impl RoleServer {
    /// Serves HTTP without TLS until it is closed.
    pub fn start(listener: impl Listener, router: Router) -> Self {
        Self::start_with(listener, router, WireProtocol::Http, None)
    }

    /// Serves until it is closed, a limited number of connections at once.
    pub fn start_with(
        listener: impl Listener,
        router: Router,
        protocol: WireProtocol,
        tls: Option<ServerTls>,
    ) -> Self {
        Self::start_limited(listener, router, protocol, tls, REQUEST_LIMIT)
    }

    fn start_limited(
        listener: impl Listener,
        router: Router,
        protocol: WireProtocol,
        tls: Option<ServerTls>,
        request_limit: Duration,
    ) -> Self {
        let (close, gone) = (CancellationToken::new(), CancellationToken::new());
        let places = match protocol {
            WireProtocol::Http => Places::of(Share { eighths: 2, at_most: 512 }, HTTP),
            WireProtocol::Grpc { .. } => Places::of(Share { eighths: 3, at_most: 4_096 }, GRPC),
        };
        let router = router.with_state(());
        let (stopping, dropped) = (close.clone(), gone.clone());
        let shared = Shared { router, protocol, tls, request_limit, close: stopping, gone: dropped };
        let task = tokio::spawn(accept(listener, places, Arc::new(shared)));
        Self { close, task, _gone: gone.drop_guard() }
    }

    /// Accepts no more connections; what is under way on those that it has goes on.
    pub fn accept_no_more(&self) {
        self.close.cancel();
    }

    /// Accepts nothing more, and lets answers that are being written reach their readers, but no longer than `limit`:
    /// whatever counts as work under way is over by now, and a connection that says nothing holds nobody up. Connections
    /// still open then end when this server is dropped, and with them the work on them.
    pub async fn close(&mut self, limit: Duration) {
        self.close.cancel();
        let _ = timeout(limit, &mut self.task).await;
    }
}

async fn accept(mut listener: impl Listener, places: Arc<Places>, shared: Arc<Shared>) {
    let connections = TaskTracker::new();
    let (stopping, gone) = (shared.close.clone(), shared.gone.clone());
    let accepting = async {
        loop {
            let (io, _) = listener.accept().await;
            let place = Arc::new(places.enter().await);
            connections.spawn(connection(io, place, shared.clone()));
        }
    };
    tokio::select! {
        () = accepting => {}
        () = stopping.cancelled() => {}
        () = gone.cancelled() => {}
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection<I>(io: I, place: Arc<Place>, shared: Arc<Shared>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let served = async {
        let Some(tls) = &shared.tls else { return serve(io, None, &place, &shared).await };
        let handshake = timeout(HANDSHAKE_LIMIT, TlsAcceptor::from(tls.now()).accept(io));
        if let Some(Ok(Ok(io))) = shared.close.run_until_cancelled(handshake).await {
            let names = PeerNames::of(io.get_ref().1.peer_certificates());
            serve(io, names, &place, &shared).await;
        }
    };
    tokio::select! {
        () = served => {}
        () = place.evicted() => {}
        () = shared.gone.cancelled() => {}
    }
}

async fn serve<I>(io: I, names: Option<PeerNames>, place: &Arc<Place>, shared: &Shared)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|mut request: Request<Incoming>| {
        let carried = match PAGES.contains(&request.uri().path()) {
            true => {
                place.shows_a_page();
                Ok(None)
            }
            false => place.begin().map(Some).ok_or("every connection is busy: ask again\n"),
        };
        if let Some(names) = &names {
            request.extensions_mut().insert(names.clone());
        }
        let (router, limit) = (shared.router.clone(), shared.request_limit);
        async move {
            let unavailable = |why: &'static str| {
                let response = (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
                response.map(|body| Leaving { body, carried: None })
            };
            let carried = match carried {
                Ok(carried) => carried,
                Err(why) => return Ok(unavailable(why)),
            };
            let answered = timeout(limit, router.oneshot(request.map(Body::new))).await;
            let Ok(response) = answered else { return Ok(unavailable("the request took too long\n")) };
            let response: Result<Response<Body>, Infallible> = response;
            response.map(|response| response.map(|body| Leaving::new(body, carried)))
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    let builder = match shared.protocol {
        WireProtocol::Http => builder.http1_only(),
        WireProtocol::Grpc { most_calls } => {
            let mut http2 = builder.http2();
            http2.timer(TokioTimer::new()).keep_alive_interval(Some(PING_EVERY));
            http2.max_concurrent_streams(most_calls);
            builder.http2_only()
        }
    };
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    tokio::select! {
        _ = connection.as_mut() => return,
        () = place.overdue() => {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(PARTING, connection).await;
            return;
        }
        () = shared.close.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = connection => {}
        () = place.overdue() => {}
    }
}

/// A response's body. Its request is over when it is, or is dropped.
struct Leaving {
    body: Body,
    carried: Option<Carried>,
}

impl Leaving {
    fn new(body: Body, carried: Option<Carried>) -> Self {
        if let Some(carried) = &carried {
            carried.waits_for_the_client(true);
        }
        Self { body, carried }
    }
}

impl HttpBody for Leaving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Some(carried) = &self.carried {
            carried.waits_for_the_client(polled.is_ready());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::post;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_request_of_which_only_a_part_comes_is_answered_at_its_limit() -> anyhow::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let router = Router::new().route("/", post(|body: String| async { body }));
        let limit = Duration::from_millis(200);
        let _server = RoleServer::start_limited(listener, router, WireProtocol::Http, None, limit);
        let ask = async |request: &str| {
            let mut client = TcpStream::connect(address).await?;
            client.write_all(request.as_bytes()).await?;
            let mut answer = vec![0; 12];
            timeout(Duration::from_secs(60), client.read_exact(&mut answer)).await??;
            anyhow::Ok(String::from_utf8(answer)?)
        };
        let head = "POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 4\r\n\r\n";
        assert_eq!(ask(&format!("{head}half")).await?, "HTTP/1.1 200");
        assert_eq!(ask(&format!("{head}ha")).await?, "HTTP/1.1 503");
        Ok(())
    }
}

//! The API server without TLS, so that a proxy in front can see single requests.

use std::{net::SocketAddr, path::Path, sync::Arc, thread, time::Duration};

use anyhow::Context;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::TlsConnector;

use crate::ports::ReservedPort;

/// Takes plain connections on a port of 127.0.0.1 and passes them to the API server by TLS; made by
/// [`ControlPlane::plain_gate`](super::ControlPlane::plain_gate). It breaks nothing; a proxy before it does. Dropping it
/// closes its port and its connections.
pub struct PlainGate {
    port: ReservedPort,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl PlainGate {
    pub(super) fn start(server: SocketAddr, certificate: &Path) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(certificate).context("the server's certificate")? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let tls = TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
        let port = ReservedPort::new().context("no free port")?;
        let listener = std::net::TcpListener::bind(port.addr()).context("cannot listen")?;
        listener.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel();
        // On a thread of its own, as a proxy: tests have runtimes of their own, and block them.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serve = move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    _ = accept(listener, server, tls) => {}
                }
            });
        };
        let thread = thread::Builder::new().name("testbed-gate".into()).spawn(serve)?;
        Ok(Self { port, stop: Some(stop), thread: Some(thread) })
    }

    /// Its address, for a proxy in TCP mode in front of it.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }
}

impl Drop for PlainGate {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(thread::JoinHandle::join);
    }
}

/// Its connections end with the runtime that this runs on.
async fn accept(
    listener: std::net::TcpListener,
    server: SocketAddr,
    tls: TlsConnector,
) -> std::io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((client, _)) => drop(tokio::spawn(pass(client, server, tls.clone()))),
            // Too many open files, or a client that has gone already.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn pass(mut client: TcpStream, server: SocketAddr, tls: TlsConnector) -> std::io::Result<()> {
    let _ = client.set_nodelay(true);
    let stream = TcpStream::connect(server).await?;
    let _ = stream.set_nodelay(true);
    let mut stream = tls.connect(ServerName::from(server.ip()), stream).await?;
    copy_bidirectional(&mut client, &mut stream).await.map(drop)
}

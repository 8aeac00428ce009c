//! The fault proxy before a server that somebody runs.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use lease_testbed::Proxy;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};

/// Whether a proxy can stand between us and the server.
pub(super) enum Wire {
    /// It can.
    Plain,
    /// It can't, for this reason.
    Closed(String),
}

impl Wire {
    /// As far as the settings tell.
    pub(super) fn before(options: &PgConnectOptions) -> Self {
        let closed = |why: &str| Self::Closed(why.to_owned());
        match (options.get_ssl_mode(), options.get_socket()) {
            (_, Some(_)) => closed("it is reached by a unix socket"),
            (PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull, None) => {
                closed("sslmode asks for TLS, which a proxy can't see into")
            }
            (PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer, None) => Self::Plain,
        }
    }

    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }

    /// Tries a connection through a proxy, which a server that demands TLS refuses.
    pub(super) async fn try_out(&self, options: &PgConnectOptions) -> Result<(), String> {
        let work = async {
            let (_proxy, through) = self.proxy(options).await?;
            through.connect().await?.close().await?;
            anyhow::Ok(())
        };
        match tokio::time::timeout(Duration::from_secs(10), work).await {
            Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
            Err(_) => Err("timed out after 10 s waiting for an answer through it".to_owned()),
        }
    }

    /// A proxy, and how to connect through it.
    pub(super) async fn proxy(
        &self,
        options: &PgConnectOptions,
    ) -> anyhow::Result<(Proxy, PgConnectOptions)> {
        if let Self::Closed(why) = self {
            bail!("{why}");
        }
        let (host, port) = (options.get_host(), options.get_port());
        let addr: SocketAddr = tokio::net::lookup_host((host, port)).await?.next().context("no address")?;
        let proxy = Proxy::postgres(addr)?;
        let (host, port) = (proxy.addr().ip().to_string(), proxy.addr().port());
        let through = options.clone().host(&host).port(port).ssl_mode(PgSslMode::Disable);
        Ok((proxy, through))
    }
}

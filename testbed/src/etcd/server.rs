//! A cluster of ours, or the one that the user names.

use anyhow::{Context, bail};

use super::{Etcd, EtcdOptions};

/// The variable that names a cluster of the user's own: urls, with commas between them.
const VARIABLE: &str = "LEASEHOLD_TEST_ETCD_ENDPOINTS";

/// An etcd cluster to test against: started by us, or named in `LEASEHOLD_TEST_ETCD_ENDPOINTS`.
///
/// What was written to a named cluster is the caller's to remove again. Only a cluster of ours can be broken
/// ([`ours`](Self::ours)).
#[derive(Debug)]
pub struct EtcdServer {
    endpoints: Vec<String>,
    ours: Option<Etcd>,
}

impl EtcdServer {
    /// Takes the cluster that `LEASEHOLD_TEST_ETCD_ENDPOINTS` names; starts one with `options` if it is unset.
    ///
    /// # Errors
    /// When the variable has no urls, or nobody listens there: never a silent fallback. Else as [`Etcd::start`].
    pub async fn named_or_start(options: EtcdOptions) -> anyhow::Result<Self> {
        Self::choose(std::env::var(VARIABLE).ok(), options).await
    }

    async fn choose(variable: Option<String>, options: EtcdOptions) -> anyhow::Result<Self> {
        match variable {
            Some(endpoints) if !endpoints.is_empty() => Self::named(&endpoints).await.context(VARIABLE),
            _ => {
                let etcd = Etcd::start(options).await?;
                Ok(Self { endpoints: etcd.endpoints(), ours: Some(etcd) })
            }
        }
    }

    async fn named(endpoints: &str) -> anyhow::Result<Self> {
        let endpoints: Vec<String> =
            endpoints.split(',').map(|endpoint| endpoint.trim().to_owned()).collect();
        for endpoint in &endpoints {
            // What isn't shown may hold a password.
            let Some(address) =
                endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"))
            else {
                bail!("not urls with commas between them: use http://host:2379,http://other:2379");
            };
            let address = address.trim_end_matches('/');
            if address.contains(['@', '/']) {
                bail!("only hosts and ports can be named: use http://host:2379,http://other:2379");
            }
            tokio::net::TcpStream::connect(address)
                .await
                .with_context(|| format!("nobody listens at {address}"))?;
        }
        Ok(Self { endpoints, ours: None })
    }

    /// The cluster, if it is ours: to kill, pause, isolate or restore it.
    ///
    /// # Errors
    /// When it is the user's own; the message says what to do.
    pub fn ours(&self) -> anyhow::Result<&Etcd> {
        self.ours.as_ref().with_context(|| {
            format!("this cluster was named by its urls and is not ours to break: unset {VARIABLE} to have one started")
        })
    }

    /// Where clients connect, one url a node.
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_named_cluster_that_is_wrong_or_silent_is_an_error_and_shows_no_password() {
        for endpoints in
            ["u:secret", "http://u:secret@localhost:1", "http://127.0.0.1:1", "postgres://u:secret@h"]
        {
            let chosen = EtcdServer::choose(Some(endpoints.into()), EtcdOptions::default()).await;
            let error = format!("{:#}", chosen.unwrap_err());
            assert!(error.contains(VARIABLE) && !error.contains("secret"), "{endpoints}: {error}");
        }
    }

    #[tokio::test]
    async fn without_a_name_a_cluster_of_ours_is_started() -> anyhow::Result<()> {
        let server = EtcdServer::choose(Some(String::new()), EtcdOptions::default()).await?;
        assert_eq!(server.ours()?.endpoints(), server.endpoints());
        Ok(())
    }
}

//! TLS: what is asked for in the url is had, or refused with a sentence.

use std::path::Path;

use crate::common::*;
use futures::StreamExt;
use lease_core::{BackendError, Certainty, LeaseBackend};
use lease_postgres::{Postgres, PostgresConfig};
use lease_testbed::{Certificates, Folder, PostgresOptions};
use tokio::sync::OnceCell;

/// A server with a certificate.
async fn secure() -> &'static lease_testbed::Postgres {
    static SERVER: OnceCell<lease_testbed::Postgres> = OnceCell::const_new();
    let start = async || lease_testbed::Postgres::start(PostgresOptions::default().tls()).await;
    SERVER.get_or_init(async || start().await.expect("PostgreSQL starts")).await
}

fn url(server: &lease_testbed::Postgres, mode: &str, authority: Option<&Path>) -> String {
    let root = authority.map(|path| format!("&sslrootcert={}", path.display())).unwrap_or_default();
    format!("{}?sslmode={mode}{root}", server.url())
}

async fn refused(url: &str) -> BackendError {
    let config = PostgresConfig::new(url).expect("a url");
    let error = Postgres::connect(config).await.expect_err("refused");
    assert_eq!((error.certainty, error.refused), (Certainty::NotApplied, true), "{error}");
    let told = format!("{error} {error:?}");
    assert!(told.contains("check sslmode and sslrootcert"), "{told}");
    assert!(!told.contains("testbed@") && !told.contains(":testbed"), "the password is shown: {told}");
    error
}

#[tokio::test]
async fn a_verified_connection_is_encrypted_for_the_register_and_for_the_hints() -> anyhow::Result<()> {
    let server = secure().await;
    let authority = server.certificates().expect("it has TLS").ca_file();
    let schema = fresh_schema();
    let config = PostgresConfig::new(&url(server, "verify-full", Some(&authority)))?.schema(&schema)?;
    lease_postgres::migrate(&config).await?;
    let backend = Postgres::connect(config).await?;
    let mut hints = backend.watch("").await?;
    server.psql(&format!("NOTIFY leasehold_{schema}, 'lease'")).await?;
    assert!(tokio::time::timeout(LIMIT, hints.next()).await?.is_some(), "the watch is live");
    assert!(backend.observe(&name("lease")).await?.record.is_none());
    let open = "SELECT count(*) FILTER (WHERE ssl), count(*) FILTER (WHERE NOT ssl) FROM pg_stat_ssl
                JOIN pg_stat_activity USING (pid) WHERE application_name = 'leasehold'";
    let counts = server.psql(open).await?;
    let (encrypted, plain) = counts.split_once('|').expect("two columns");
    assert!(encrypted.parse::<u32>()? >= 2, "the register's connections and the hints': {counts}");
    assert_eq!(plain, "0");
    Ok(())
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() -> anyhow::Result<()> {
    let folder = Folder::new("strangers")?;
    let strangers = Certificates::make(folder.path())?;
    for mode in ["verify-full", "verify-ca"] {
        refused(&url(secure().await, mode, Some(&strangers.ca_file()))).await;
        // The authorities that the program brings know nothing of it either.
        refused(&url(secure().await, mode, None)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_asked_for() -> anyhow::Result<()> {
    let plain = server().await;
    for mode in ["require", "verify-full"] {
        refused(&url(plain, mode, None)).await;
    }
    Ok(())
}

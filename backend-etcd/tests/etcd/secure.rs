//! TLS, certificates, users and their tokens.

use std::time::Duration;

use crate::common::*;
use futures::StreamExt;
use lease_core::{BackendError, LeaseBackend};
use lease_etcd::{Etcd, EtcdConfig};
use lease_testbed::{Certificates, EtcdOptions, EtcdTls};

/// Refused for good, by a message that says something about it and nothing secret.
#[track_caller]
fn refused(outcome: Result<Etcd, BackendError>, word: &str) {
    let error = outcome.expect_err("it must be refused");
    let text = error.to_string();
    assert!(error.refused && text.contains(word) && !text.contains("secret"), "{text}");
}

fn temporary_folder(name: &str) -> anyhow::Result<std::path::PathBuf> {
    let folder = std::env::temp_dir().join(format!("lease-etcd-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

async fn works(backend: &Etcd, lease: &str) -> anyhow::Result<()> {
    let lease = name(lease);
    let mut hints = backend.watch("").await?;
    let seen = held(backend, &lease).await?;
    release(backend, &lease, &renew(backend, &lease, &seen).await?).await?;
    assert!(tokio::time::timeout(LIMIT, hints.next()).await?.is_some());
    Ok(())
}

#[tokio::test]
async fn tls_is_checked_both_ways() -> anyhow::Result<()> {
    let etcd = lease_testbed::Etcd::start(EtcdOptions::default().tls(EtcdTls::Mutual)).await?;
    let ours = etcd.certificates().expect("TLS");
    let folder = temporary_folder("strangers")?;
    let strangers = Certificates::make(&folder)?;
    let (certificate, key) = ours.client("leasehold")?;
    let base = || EtcdConfig::new(etcd.endpoints());

    let good = base()?.ca_file(ours.ca_file()).client_certificate(&certificate, &key);
    works(&Etcd::connect(good.clone()).await?, "mutual").await?;
    refused(Etcd::connect(good.clone().ca_file(strangers.ca_file())).await, "certificate");
    refused(Etcd::connect(base()?).await, "certificate");
    let (theirs, their_key) = strangers.client("leasehold")?;
    for config in [base()?.ca_file(ours.ca_file()), good.clone().client_certificate(theirs, their_key)] {
        // TLS 1.3 can't tell this from a node that is just shutting down: no reason to give up for good.
        let error = Etcd::connect(config).await.expect_err("no certificate, or another authority's");
        // Nor does the client always hear the alert before the connection ends.
        let said = error.to_string();
        let known = said.contains("certificate") || said.contains("the connection has ended");
        assert!(!error.refused && known, "{error}");
    }
    refused(Etcd::connect(good.clone().server_name("another.example")).await, "certificate");
    refused(Etcd::connect(good.ca_file(folder.join("missing"))).await, "missing");
    let plain = etcd.endpoints()[0].replace("https", "http");
    Etcd::connect(EtcdConfig::new([plain])?).await.expect_err("plain to a node that wants TLS");
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

#[tokio::test]
async fn a_user_needs_its_password_and_the_prefix() -> anyhow::Result<()> {
    let etcd = lease_testbed::Etcd::start(EtcdOptions::default().auth()).await?;
    etcd.add_user("worker", "secret-1", "/leasehold/").await?;
    let base = || EtcdConfig::new(etcd.endpoints());
    works(&Etcd::connect(base()?.user("worker", "secret-1")).await?, "user").await?;
    refused(Etcd::connect(base()?).await, "user");
    refused(Etcd::connect(base()?.user("worker", "secret-2")).await, "password");
    refused(Etcd::connect(base()?.user("worker", "secret-1").prefix("/another")?).await, "permission");
    Ok(())
}

#[tokio::test]
async fn tokens_and_passwords_may_change_while_it_runs() -> anyhow::Result<()> {
    let etcd = lease_testbed::Etcd::start(EtcdOptions::default().auth()).await?;
    etcd.add_user("worker", "secret-1", "/leasehold/").await?;
    let folder = temporary_folder("password")?;
    let file = folder.join("password");
    std::fs::write(&file, "secret-1\n")?;
    let config = EtcdConfig::new(etcd.endpoints())?.user_with_password_file("worker", &file);
    let backend = Etcd::connect(config).await?;
    let lease = name("token");
    let mut seen = held(&backend, &lease).await?;

    // All tokens are forgotten: the next call is answered all the same, since a call that is refused for its token was
    // certainly not applied.
    etcd.ctl(&["auth", "disable"]).await?;
    etcd.ctl(&["auth", "enable"]).await?;
    seen = renew(&backend, &lease, &seen).await?;

    // The password is another, and so is the file: at most the calls that still have the old one fail.
    etcd.ctl(&["user", "delete", "worker"]).await?;
    etcd.ctl(&["user", "add", "worker", "--new-user-password", "secret-2"]).await?;
    etcd.ctl(&["user", "grant-role", "worker", "worker"]).await?;
    std::fs::write(&file, "secret-2\n")?;
    etcd.ctl(&["auth", "disable"]).await?;
    etcd.ctl(&["auth", "enable"]).await?;
    let renewed = lease_testbed::wait_for("a renewal succeeds", Duration::from_secs(30), async || {
        renew(&backend, &lease, &seen).await.map_err(|error| error.to_string())
    });
    assert_eq!(record(&renewed.await?).beat, 2);
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

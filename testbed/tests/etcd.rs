//! etcd clusters of ours, and their faults.

use std::time::Duration;

use lease_testbed::{ClusterId, Etcd, EtcdOptions, EtcdTls, wait_until};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn keeps_what_was_written_over_a_kill() -> anyhow::Result<()> {
    let etcd = Etcd::start(EtcdOptions::default()).await?;
    etcd.ctl(&["put", "key", "value"]).await?;
    let node = &etcd.members()[0];
    node.kill().await?;
    assert!(!node.is_running());
    assert!(etcd.ctl(&["--command-timeout=300ms", "get", "key"]).await.is_err());
    node.start_again()?;
    node.ready().await?;
    assert_eq!(etcd.ctl(&["get", "--print-value-only", "key"]).await?, "value");
    assert!(node.is_leader().await?);
    Ok(())
}

#[tokio::test]
async fn another_node_leads_when_the_leader_is_killed_paused_or_cut_off() -> anyhow::Result<()> {
    let etcd = Etcd::start(EtcdOptions::default().nodes(3)).await?;
    for fault in ["kill", "pause", "isolate"] {
        let old = etcd.leader().await?;
        match fault {
            "kill" => old.kill().await?,
            "pause" => old.pause().await?,
            _ => etcd.isolate(old),
        }
        let new = wait_until("another leads", LIMIT, async || {
            etcd.leader().await.is_ok_and(|leader| leader.name() != old.name())
        });
        new.await.map_err(|error| error.context(fault))?;
        etcd.ctl_at(etcd.leader().await?, &["put", "key", fault]).await?;
        if fault == "isolate" {
            let written = etcd.ctl_at(old, &["--command-timeout=1s", "put", "key", "by the minority"]).await;
            assert!(written.is_err(), "a minority must write nothing");
        }
        match fault {
            "kill" => old.start_again()?,
            "pause" => old.resume()?,
            _ => etcd.heal(),
        }
        old.ready().await?;
        assert_eq!(etcd.ctl(&["get", "--print-value-only", "key"]).await?, fault);
    }
    Ok(())
}

#[tokio::test]
async fn users_and_certificates_are_asked_for() -> anyhow::Result<()> {
    let etcd = Etcd::start(EtcdOptions::default().tls(EtcdTls::Mutual).auth()).await?;
    etcd.add_user("worker", "secret", "/mine/").await?;
    let as_worker = |key: &'static str| {
        let etcd = &etcd;
        async move { etcd.ctl(&["--user=worker:secret", "put", key, "value"]).await }
    };
    as_worker("/mine/key").await?;
    let error = format!("{:#}", as_worker("/other/key").await.expect_err("not its own"));
    assert!(error.contains("permission denied"), "{error}");
    let plain = etcd.ctl(&["--cert=", "--key=", "--command-timeout=1s", "get", "/mine/key"]).await;
    assert!(plain.is_err(), "a client without a certificate was served");
    Ok(())
}

#[tokio::test]
async fn a_restored_cluster_has_the_snapshots_keys_and_the_asked_for_id() -> anyhow::Result<()> {
    let etcd = Etcd::start(EtcdOptions::default().nodes(3)).await?;
    let id = async || {
        let text = etcd.ctl(&["-w", "fields", "get", "key"]).await?;
        let line = text.lines().find(|line| line.contains("ClusterID")).map(str::to_owned);
        line.ok_or_else(|| anyhow::anyhow!("no id in {text}"))
    };
    etcd.ctl(&["put", "key", "old"]).await?;
    let (before, snapshot) = (id().await?, etcd.snapshot().await?);
    etcd.ctl(&["put", "key", "new"]).await?;
    etcd.restore(&snapshot, ClusterId::Same).await?;
    assert_eq!(etcd.ctl(&["get", "--print-value-only", "key"]).await?, "old");
    assert_eq!(id().await?, before);
    etcd.restore(&snapshot, ClusterId::New).await?;
    assert_eq!(etcd.ctl(&["get", "--print-value-only", "key"]).await?, "old");
    assert_ne!(id().await?, before);
    Ok(())
}

#[tokio::test]
async fn compaction_forgets_the_past() -> anyhow::Result<()> {
    let etcd = Etcd::start(EtcdOptions::default()).await?;
    for value in ["first", "second", "third"] {
        etcd.ctl(&["put", "key", value]).await?;
    }
    assert_eq!(etcd.ctl(&["get", "--print-value-only", "--rev=2", "key"]).await?, "first");
    etcd.compact().await?;
    assert!(etcd.ctl(&["get", "--rev=2", "key"]).await.is_err());
    assert_eq!(etcd.ctl(&["get", "--print-value-only", "key"]).await?, "third");
    Ok(())
}

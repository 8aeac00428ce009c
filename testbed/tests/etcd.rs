//! etcd clusters of ours, and what breaks them.

use lease_testbed::{Etcd, EtcdOptions};

#[tokio::test]
async fn keeps_what_was_written_over_a_kill() -> anyhow::Result<()> {
    let etcd = Etcd::start(EtcdOptions::default()).await?;
    etcd.ctl(&["put", "key", "value"]).await?;
    let node = &etcd.members()[0];
    node.kill().await?;
    assert!(!node.is_running());
    node.start_again()?;
    node.ready().await?;
    assert_eq!(etcd.ctl(&["get", "--print-value-only", "key"]).await?, "value");
    assert!(node.is_leader().await?);
    Ok(())
}

//! Servers of etcd's protocol that are no etcd.

use lease_etcd::{Etcd, EtcdConfig};
use lease_testbed::EtcdShim;

#[tokio::test]
async fn a_shim_of_etcds_protocol_is_refused_before_it_is_used() -> anyhow::Result<()> {
    let shim = EtcdShim::start().await?;
    let config = EtcdConfig::new([shim.url()])?;
    let opened = [Etcd::connect(config.clone()).await.err(), config.client().await.err()];
    for error in opened {
        let error = error.expect("no cluster");
        let told = error.to_string();
        assert!(error.refused && told.contains("kine") && told.contains("cluster id 0"), "{told}");
    }
    Ok(())
}

//! A server of etcd's protocol that is no etcd: every command says so, and ends.

use lease_testbed::EtcdShim;

use crate::common::Leasehold;
use crate::store::Store;

#[tokio::test]
async fn every_command_says_that_a_shim_is_no_etcd_and_ends() {
    let shim = EtcdShim::start().await.unwrap();
    let cli = Leasehold::bare()
        .with("SPENDGUARD_LEADER_ELECTION_MODE", "etcd")
        .with("SPENDGUARD_LEADER_ETCD_ENDPOINTS", &shim.url())
        .with("SPENDGUARD_LEADER_LEASE_NAME", "nightly");
    let store = Store::reached_by(cli);
    for (args, code) in [
        (&["init", "--new"][..], 1),
        (&["status"], 1),
        (&["status", "nightly", "--json"], 1),
        (&["watch"], 1),
        (&["history"], 1),
        (&["step-down"], 1),
        (&["revoke"], 1),
        (&["fence", "raise", "--above", "1"], 1),
        (&["run", "--", "touch", "ran"], 125),
        (&["run", "--init", "--", "touch", "ran"], 125),
    ] {
        let ran = store.run(args).await;
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{args:?}: {}", ran.err);
        for part in ["refuses", "not etcd", "kine", "cluster id 0"] {
            assert!(ran.err.contains(part), "{args:?}: {part:?} is missing in: {}", ran.err);
        }
    }
    assert!(store.cli.files().is_empty());
}

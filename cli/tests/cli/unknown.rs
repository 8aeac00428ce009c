//! An operator's change whose outcome is unknown: the command says so, and what to do, and never that it failed.

use std::time::Duration;

use lease_testbed::{ProxiedRequest, Proxy};

use crate::common::Leasehold;
use crate::store::Store;

const LEASE: &str = "outbox-forwarder";

/// A change of this lease; connections rehearse with names of their own.
fn changes_the_lease(request: &ProxiedRequest) -> bool {
    (request.sql_contains("UPDATE") || request.sql_contains("INSERT")) && request.contains(LEASE)
}

/// A lease that is held, and a store behind a proxy.
async fn behind_a_proxy() -> (Store, Proxy, Store) {
    let direct = Store::postgres().await;
    direct.run(&["init", "--new", LEASE]).await.ok();
    direct.silent_holder("pod-a", Duration::from_secs(60)).await;
    let proxy = Proxy::postgres(direct.server().addr()).expect("a proxy");
    let url = proxy.url(&direct.server().url()).expect("a url");
    let cli = Leasehold::bare()
        .with("SPENDGUARD_LEADER_ELECTION_MODE", "postgres")
        .with("SPENDGUARD_LEADER_POSTGRES_URL", &url);
    (direct, proxy, Store::reached_by(cli))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_reply_was_lost_is_told_as_unknown_and_shows_in_the_status() {
    let (direct, proxy, through) = behind_a_proxy().await;
    for (args, shows) in [
        (&["step-down", LEASE, "--wait", "0s"][..], "has asked the holder to step down"),
        (&["revoke", LEASE, "--note", "stuck since 02:40"], "stuck since 02:40"),
        (
            &["fence", "raise", LEASE, "--above", "90000000000000000", "--note", "after a loss"],
            "after a loss",
        ),
    ] {
        let before = direct.run(&["status", LEASE]).await;
        assert!(!before.ok().contains(shows), "{}", before.out);
        let mut reply = proxy.lose_reply(changes_the_lease);
        let told = through.run(args).await;
        reply.lost().await.expect("the change was sent");
        told.failed(&["not known whether the change was made", "leasehold status"]);
        assert_eq!(told.out, "", "nothing is reported as done");
        // It was.
        let after = direct.run(&["status", LEASE]).await;
        assert!(after.ok().contains(shows), "{}", after.out);
    }
    let mut reply = proxy.lose_reply(|request| request.sql_contains("INSERT") && request.contains("nightly"));
    let told = through.run(&["init", "--new", "--no-migrate", "nightly"]).await;
    reply.lost().await.expect("the change was sent");
    told.failed(&["not known whether the change was made", "leasehold status"]);
    // Run again, as an operator would: it finds what the first run made.
    let again = through.run(&["init", "--new", "--no-migrate", "nightly"]).await;
    assert!(again.ok().contains("exists already"), "{}", again.out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_not_answered_in_time_is_told_as_unknown() {
    let (direct, proxy, through) = behind_a_proxy().await;
    let mut held = proxy.hold(changes_the_lease);
    // Connecting must be over by then.
    let told = through.run(&["revoke", LEASE, "--timeout", "10s", "--note", "by hand"]).await;
    held.held().await.expect("the change was sent");
    held.discard();
    told.failed(&["did not answer within 10s", "not known whether the change was made", "leasehold status"]);
    let after = direct.run(&["status", LEASE]).await;
    assert!(!after.ok().contains("by hand"), "it never arrived, and was not told as done: {}", after.out);
}

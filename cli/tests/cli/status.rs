//! What a table of leases costs the store.

use std::time::Duration;

use lease_testbed::Proxy;

use crate::common::Leasehold;
use crate::store::Store;

/// The requests of one `leasehold status` of a PostgreSQL store.
async fn requests(through: &Store, proxy: &Proxy, leases: usize) -> u64 {
    let before = proxy.round_trips();
    let status = through.run(&["status"]).await;
    assert_eq!(status.ok().lines().count(), 1 + leases, "{}", status.out);
    proxy.round_trips().since(&before).total().requests
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_of_all_leases_is_one_read_of_the_store_however_many_there_are() {
    let direct = Store::postgres().await;
    let proxy = Proxy::postgres(direct.server().addr()).expect("a proxy");
    let url = proxy.url(&direct.server().url()).expect("a url");
    let through = Leasehold::bare()
        .with("SPENDGUARD_LEADER_ELECTION_MODE", "postgres")
        .with("SPENDGUARD_LEADER_POSTGRES_URL", &url);
    let through = Store::reached_by(through);
    direct.run(&["init", "--new", "first"]).await.ok();
    let one = requests(&through, &proxy, 1).await;
    let names: Vec<_> = (0..200).map(|index| format!("lease-{index}")).collect();
    let init: Vec<_> = ["init", "--new"].into_iter().chain(names.iter().map(String::as_str)).collect();
    direct.run(&init).await.ok();
    assert_eq!(requests(&through, &proxy, 201).await, one);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_named_leases_are_told_in_their_order() {
    let store = Store::sqlite().await;
    let names: Vec<_> = (0..100).rev().map(|index| format!("lease-{index}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    store.run(&[&["init", "--new"], &names[..]].concat()).await.ok();
    let status = store.run(&[&["status"], &names[..]].concat()).await;
    let told: Vec<_> = status.ok().lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(told, names);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_can_not_be_read_is_named_and_hides_no_other() {
    let store = Store::postgres().await;
    store.run(&["init", "--new", "a", "b", "outbox-forwarder"]).await.ok();
    store.silent_holder("pod-a", Duration::from_secs(600)).await;
    let by_hand = "SET session_replication_role = replica;
        ALTER TABLE coordination_leases DROP CONSTRAINT coordination_leases_epoch_check;
        UPDATE coordination_leases SET epoch = -1 WHERE lease_name = 'b';
        INSERT INTO coordination_lease_history (lease_name, transition_count, epoch, holder_workload_id, event_type)
            VALUES ('outbox-forwarder', -7, 5, 'nobody', 'revoked')";
    store.server().psql(by_hand).await.expect("by hand");
    for args in [&["status"][..], &["list"], &["status", "--color=always"]] {
        let status = store.run(args).await;
        assert_eq!(status.code, 1, "{}{}", status.out, status.err);
        let lines: Vec<_> = status.out.lines().collect();
        assert!(lines.len() == 4 && lines[1].contains("free") && lines[3].contains("held"), "{lines:#?}");
        assert!(lines[2].contains("unreadable: ") && lines[2].contains("epoch"), "{lines:#?}");
    }
    let machine = store.run(&["status", "-o", "json"]).await;
    let line = machine.out.lines().nth(1).expect("a line");
    let line: serde_json::Value = serde_json::from_str(line).expect("json");
    assert_eq!((machine.code, &line["state"]), (1, &"unreadable".into()), "{line}");
    let named = store.run(&["status", "b", "a", "nope"]).await;
    let lines: Vec<_> = named.out.lines().collect();
    assert!(
        named.code == 1 && lines.len() == 4 && lines[1].contains("unreadable: "),
        "{lines:#?}{}",
        named.err
    );
    assert!(lines[2].contains("free") && lines[3].contains("absent"), "{lines:#?}");
    store.run(&["status", "b"]).await.failed(&["lease b", "epoch"]);
    let stamped = store.run(&["restored"]).await;
    assert_eq!(stamped.code, 1);
    assert!(stamped.out.contains("lease b was not stamped") && stamped.out.contains("lease a was stamped"));
    let history = store.run(&["history", "outbox-forwarder"]).await;
    assert!(history.ok().contains("acquired      pod-a"), "{}", history.out);
    assert!(history.err.contains("a row that can't be read is left out"), "{}", history.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servers_refusal_is_told_once_by_its_message_and_sqlstate() {
    let store = Store::postgres().await;
    store.run(&["init", "--new", "a"]).await.ok();
    store.server().create_role("stranger", "secret").await.expect("a role");
    let url = store.server().url_for("postgres", "stranger", "secret");
    let refused = store.run(&["status", "--postgres-url", &url]).await;
    refused.failed(&["permission denied for ", " (SQLSTATE 42501)"]);
    assert_eq!(refused.err.matches("permission denied").count(), 1, "{}", refused.err);
    // The first look of those that go on looking is no other, and neither are several leases that are named.
    for args in [&["status", "--watch"][..], &["status", "a", "b"], &["watch"], &["watch", "a"]] {
        let same = store.run(&[args, &["--postgres-url", &url]].concat()).await;
        same.failed(&["permission denied for "]);
        assert_eq!(same.err.matches("permission denied").count(), 1, "{args:?}: {}", same.err);
    }
    assert!(!refused.err.contains(" at line ") && !refused.err.contains("secret"), "{}", refused.err);
}

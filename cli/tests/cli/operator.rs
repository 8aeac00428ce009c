//! The operator's commands, as an operator runs them: the real binary on real stores.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use lease_testbed::Signal;
use serde_json::Value;

use crate::common::Leasehold;
use crate::store::{LIMIT, Store};

const LEASE: &str = "outbox-forwarder";

/// Each test, on each store.
macro_rules! on_each_store {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::Store::sqlite().await).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::Store::postgres().await).await;
            })*
        }
    };
}

on_each_store!(
    init_creates_a_closed_lease_and_then_changes_nothing,
    init_new_is_free_at_once,
    init_above_starts_beyond_the_epochs_that_were_lost,
    status_shows_what_the_holder_wrote_and_no_verdict,
    status_of_an_absent_lease_fails_and_says_what_to_do,
    a_table_has_a_line_for_each_lease_with_ages_and_the_time_left,
    a_list_has_the_leases_that_begin_with_a_prefix,
    the_table_is_watched_line_by_line_where_there_is_no_terminal,
    step_down_waits_for_the_holders_answer,
    step_down_says_when_a_silent_holder_does_not_answer,
    step_down_and_revoke_of_a_free_lease_are_refused,
    revoke_ends_a_live_term_and_the_next_one_has_a_greater_epoch,
    revoking_a_dead_holder_frees_the_lease_at_once,
    a_revoked_holder_comes_after_the_others_and_not_before_its_time,
    fence_raise_makes_every_later_epoch_exceed,
    restored_makes_everybody_wait_and_every_later_epoch_exceed,
    restored_goes_on_where_one_lease_can_not_be_stamped,
    history_tells_who_held_the_lease_in_order,
    watch_tells_of_takeovers_releases_and_requests,
    watch_judges_a_silent_holder_by_its_own_clock,
    a_step_down_without_wait_leaves_the_request,
);

async fn record(store: &Store) -> Value {
    let status = store.run(&["status", LEASE, "--json"]).await;
    status.json().pop().expect("a line")
}

async fn init_creates_a_closed_lease_and_then_changes_nothing(store: Store) {
    let first = store.run(&["init", LEASE, "--ttl", "3s"]).await;
    assert!(first.ok().contains("was created, closed") && first.out.contains("3s"), "{}", first.out);
    let before = record(&store).await;
    assert_eq!((&before["state"], &before["record"]["max_ttl_ms"]), (&"closed".into(), &3_000.into()));
    let second = store.run(&["init", LEASE, "--new", "--json"]).await.json();
    assert_eq!(second[0]["created"], false, "{second:?}");
    assert_eq!(record(&store).await, before, "the second init wrote");
}

async fn init_new_is_free_at_once(store: Store) {
    let made = store.run(&["init", "--new", LEASE, "--json"]).await.json();
    assert_eq!((&made[0]["created"], &made[0]["free"]), (&true.into(), &true.into()));
    // A closed lease would keep it waiting for 15 s.
    let start = Instant::now();
    let mut holder = store.candidate("pod-a");
    holder.leads().await;
    assert!(start.elapsed() < Duration::from_secs(15), "it waited for {:?}", start.elapsed());
    holder.stop().await;
}

async fn init_above_starts_beyond_the_epochs_that_were_lost(store: Store) {
    store.run(&["init", "--new", "--above", "4711", LEASE]).await.ok();
    let mut holder = store.candidate("pod-a");
    assert!(holder.leads().await.epoch > 4_711);
    holder.stop().await;
    let above = (1_u64 << 60).to_string();
    let refused = store.run(&["init", "--above", &above, LEASE]).await;
    refused.failed(&["leasehold fence raise", &above]);
}

async fn status_shows_what_the_holder_wrote_and_no_verdict(store: Store) {
    store.run(&["init", "--new", LEASE, "nightly"]).await.ok();
    let grant = store.silent_holder("pod-a", Duration::from_secs(3)).await;
    let status = store.run(&["status", LEASE]).await;
    for part in
        ["outbox-forwarder: held by pod-a (eu-1)", "by the holder's clock", &grant.to_string(), "ttl 3s"]
    {
        assert!(status.ok().contains(part), "{part:?} is missing in: {}", status.out);
    }
    let free = store.run(&["status", "nightly"]).await;
    assert!(free.ok().contains("nightly: free; nobody has held it yet"), "{}", free.out);
    for verdict in ["alive", "dead", "expired", "healthy"] {
        assert!(!status.out.contains(verdict), "a verdict: {}", status.out);
    }
    let json = record(&store).await;
    assert_eq!((&json["state"], &json["record"]["holder"]), (&"held".into(), &"pod-a".into()));
}

async fn status_of_an_absent_lease_fails_and_says_what_to_do(store: Store) {
    store.run(&["init", "--new", LEASE]).await.ok();
    let absent = store.run(&["status", "nope"]).await;
    assert_eq!(absent.code, 1);
    assert!(absent.out.contains("nope") && absent.out.contains("leasehold init"), "{}", absent.out);
    assert_eq!(store.run(&["status", "nope", "--json"]).await.code, 1);
    store.run(&["history", "nope"]).await.failed(&["no lease nope"]);
    store.run(&["revoke", "nope"]).await.failed(&["no lease nope", "leasehold init"]);
}

/// The columns of each line.
fn columns(text: &str) -> Vec<Vec<&str>> {
    text.lines()
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect()
}

async fn a_table_has_a_line_for_each_lease_with_ages_and_the_time_left(store: Store) {
    store.run(&["init", "--new", LEASE, "nightly"]).await.ok();
    let grant = store.silent_holder("pod-a", Duration::from_secs(600)).await.to_string();
    let status = store.run(&["status"]).await;
    let lines = columns(status.ok());
    assert_eq!(lines[0], ["LEASE", "STATE", "HOLDER", "EPOCH", "AGE", "LAST BEAT", "LEFT"]);
    let free = ["nightly", "free", "-", lines[1][3], "-", "-", "-"];
    assert!(lines[1] == free && lines[1][3].parse::<u64>().is_ok(), "{:?}", lines[1]);
    assert_eq!(lines[2][..3], [LEASE, "held", "pod-a"]);
    assert!(lines[2][4].ends_with('s') && lines[2][6].starts_with("9m"), "{:?}", lines[2]);
    assert!(status.out.lines().all(|line| line.trim_end() == line), "{}", status.out);
    assert_eq!(status.out.lines().count(), 3, "{}", status.out);
    let aligned = status.out.lines().next().and_then(|line| line.find("STATE"));
    assert!(
        status.out.lines().skip(1).all(|line| line.find("free").or(line.find("held")) == aligned),
        "{}",
        status.out
    );

    let wide = store.run(&["status", "-o", "wide", LEASE, "nope"]).await;
    assert_eq!(wide.code, 1, "nope is not there: {}", wide.out);
    let lines = columns(&wide.out);
    assert_eq!(lines[0][7..], ["REGION", "WORK", "TTL", "TRANSITIONS", "GRANT", "LINEAGE", "REQUEST"]);
    assert_eq!(lines[1][7..10], ["eu-1", "-", "10m"]);
    assert_eq!(lines[1][11], grant);
    assert_eq!(lines[2][..2], ["nope", "absent"]);
    let json = [&["status", "-o", "json"][..], &["status", "--json"], &["list", "-o", "json"]];
    let mut told = Vec::new();
    for args in json {
        told.push(store.run(args).await.json());
    }
    assert!(told[0].len() == 2 && told.iter().all(|same| *same == told[0]), "{told:?}");

    for (args, coloured) in [(&["status"][..], false), (&["status", "--color", "always"], true)] {
        let status = store.run(args).await;
        assert_eq!(status.ok().contains('\u{1b}'), coloured, "{args:?}: {:?}", status.out);
    }
}

async fn a_list_has_the_leases_that_begin_with_a_prefix(store: Store) {
    store.run(&["init", "--new", LEASE, "nightly", "night"]).await.ok();
    let listed = store.run(&["list", "night"]).await;
    let names: Vec<_> = columns(listed.ok()).into_iter().map(|line| line[0].to_owned()).collect();
    assert_eq!(names, ["LEASE", "night", "nightly"]);
    assert_eq!(columns(store.run(&["list"]).await.ok()).len(), 4);
    let none = store.run(&["list", "day"]).await;
    assert!(none.ok().contains("no lease") && none.out.contains("begins with day"), "{}", none.out);
    assert!(store.run(&["list", "day", "-o", "json"]).await.json().is_empty());
}

async fn the_table_is_watched_line_by_line_where_there_is_no_terminal(store: Store) {
    store.run(&["init", "--new", LEASE, "nightly"]).await.ok();
    let table = store.start(&["status", "--watch"]);
    let machine = store.start(&["list", "--json", "--watch", "outbox"]);
    for first in ["LEASE", "nightly", LEASE] {
        table.wait_for_line(first, LIMIT).await.expect(first);
    }
    machine.wait_for_line("\"state\":\"free\"", LIMIT).await.expect("the free lease");
    let mut holder = store.candidate("pod-a");
    holder.leads().await;
    table.wait_for_line("pod-a", LIMIT).await.expect("the new term");
    machine.wait_for_line("\"holder\":\"pod-a\"", LIMIT).await.expect("the new term");
    // A ttl of 3 s: it beats meanwhile, which is no news.
    let beaten = async { while record(&store).await["record"]["beat"].as_u64() < Some(2) {} };
    tokio::time::timeout(LIMIT, beaten).await.expect("it beats");
    let told = [&table, &machine].map(|watching| watching.lines().len());
    holder.stop().await;
    for (watching, told) in [(&table, told[0]), (&machine, told[1])] {
        watching.wait_for_line_after(told, "free", LIMIT).await.expect("the release");
        watching.signal(Signal::INT).expect("a signal");
        assert_eq!(watching.wait(LIMIT).await.expect("its end").code(), Some(0));
    }
    let terms = |lines: Vec<String>| {
        lines.iter().filter(|line| line.contains("held") && line.contains("pod-a")).count()
    };
    assert_eq!((terms(table.lines()), terms(machine.lines())), (1, 1), "{:?}", table.lines());
    assert_eq!(
        table.lines().iter().filter(|line| line.contains("nightly")).count(),
        1,
        "{:?}",
        table.lines()
    );
}

async fn step_down_waits_for_the_holders_answer(store: Store) {
    store.run(&["init", "--new", LEASE]).await.ok();
    let mut holder = store.candidate("pod-a");
    let first = holder.leads().await;
    let answer = store.run(&["step-down", LEASE]).await;
    for part in ["asked pod-a to step down", "pod-a stepped down"] {
        assert!(answer.ok().contains(part), "{part:?} is missing in: {}", answer.out);
    }
    // It campaigns again: another candidate's chance is gone, but its term is a new one.
    let second = holder.leads().await;
    assert!(second.epoch > first.epoch);
    let json = store.run(&["step-down", LEASE, "--json"]).await.json();
    assert_eq!((&json[0]["answer"], &json[0]["epoch"]), (&"stepped_down".into(), &second.epoch.into()));
    let rows = store.run(&["history", LEASE, "--json"]).await.json();
    assert!(rows.iter().filter(|row| row["event_type"] == "stepped_down").count() >= 2, "{rows:?}");
    holder.stop().await;
}

async fn step_down_says_when_a_silent_holder_does_not_answer(store: Store) {
    store.run(&["init", "--new", LEASE]).await.ok();
    store.silent_holder("pod-a", Duration::from_secs(3)).await;
    let unanswered = store.run(&["step-down", LEASE, "--wait", "300ms"]).await;
    unanswered.failed(&["pod-a has not answered within 300ms", "leasehold revoke", "3s after its last beat"]);
    let status = store.run(&["status", LEASE]).await;
    assert!(status.ok().contains("op@tester has asked the holder to step down"), "{}", status.out);
}

async fn a_step_down_without_wait_leaves_the_request(store: Store) {
    store.run(&["init", "--new", LEASE]).await.ok();
    store.silent_holder("pod-a", Duration::from_secs(3)).await;
    let asked = store.run(&["step-down", LEASE, "--wait", "0s", "--json"]).await.json();
    assert_eq!(asked[0]["answer"], "pending");
    assert_eq!(record(&store).await["record"]["request"]["id"], asked[0]["request"]);
}

async fn step_down_and_revoke_of_a_free_lease_are_refused(store: Store) {
    store.run(&["init", "--new", LEASE]).await.ok();
    store.run(&["step-down", LEASE]).await.failed(&["is free"]);
    store.run(&["revoke", LEASE]).await.failed(&["is free"]);
}

async fn revoke_ends_a_live_term_and_the_next_one_has_a_greater_epoch(store: Store) {
    store.run(&["init", "--new", LEASE]).await.ok();
    // Its next term begins a ttl after the revoke: time enough for the look at what the revoke has left.
    let mut holder = store.candidate_with("pod-a", Duration::from_secs(15));
    let first = holder.leads().await;
    let revoked = store.run(&["revoke", LEASE, "--note", "stuck since 02:40"]).await;
    assert!(
        revoked.ok().contains("was pod-a's") && revoked.out.contains("after watching it"),
        "{}",
        revoked.out
    );
    let status = store.run(&["status", LEASE]).await;
    assert!(status.ok().contains("ended by an operator"), "{}", status.out);
    assert!(status.out.contains("note: stuck since 02:40"), "{}", status.out);
    let second = holder.leads().await;
    assert!(second.epoch > first.epoch && second.grant != first.grant, "{first} {second}");
    let rows = store.run(&["history", LEASE]).await;
    assert!(rows.ok().contains("revoked") && rows.out.contains("stuck since 02:40"), "{}", rows.out);
    holder.stop().await;
}

async fn revoking_a_dead_holder_frees_the_lease_at_once(store: Store) {
    store.run(&["init", "--new", LEASE]).await.ok();
    store.silent_holder("pod-a", Duration::from_secs(3600)).await;
    let revoked = store.run(&["revoke", LEASE, "--holder-is-dead", "--json"]).await.json();
    assert_eq!(revoked[0]["free"], true);
    let mut holder = store.candidate("pod-b");
    assert!(holder.leads().await.epoch > revoked[0]["epoch"].as_u64().expect("an epoch"));
    holder.stop().await;
}

async fn a_revoked_holder_comes_after_the_others_and_not_before_its_time(store: Store) {
    store.run(&["init", "--new", LEASE]).await.ok();
    let mut stuck = store.candidate_with("pod-a", Duration::from_secs(2));
    stuck.leads().await;
    let mut standby = store.candidate_with("pod-b", Duration::from_secs(2));
    // Nobody else would take it from a revoked holder that comes back first.
    let at = Instant::now();
    let revoked = store.run(&["revoke", LEASE, "--for", "7s", "--note", "stuck"]).await;
    assert!(revoked.ok().contains("pod-a holds off for 7s"), "{}", revoked.out);
    standby.leads().await;
    let status = store.run(&["status", LEASE]).await;
    assert!(status.ok().contains("revoked by op@tester: pod-a holds off for 7s"), "{}", status.out);
    standby.stop().await;
    // The lease is free, and the one that was revoked is alone.
    stuck.leads().await;
    assert!(at.elapsed() >= Duration::from_secs(7), "it came after {:?}", at.elapsed());
    let status = store.run(&["status", LEASE]).await;
    assert!(!status.ok().contains("holds off"), "its time is over: {}", status.out);
    stuck.stop().await;
}

async fn fence_raise_makes_every_later_epoch_exceed(store: Store) {
    store.run(&["init", "--new", LEASE, "--ttl", "1s"]).await.ok();
    // Beyond what the store's own floor would issue.
    let above = 1_u64 << 60;
    let raised = store.run(&["fence", "raise", LEASE, "--above", &above.to_string()]).await;
    assert!(raised.ok().contains("the fence was raised"), "{}", raised.out);
    let mut holder = store.candidate("pod-a");
    assert!(holder.leads().await.epoch > above);
    holder.stop().await;
}

async fn restored_makes_everybody_wait_and_every_later_epoch_exceed(store: Store) {
    store.run(&["init", "--new", LEASE, "nightly", "--ttl", "2s"]).await.ok();
    let stamped = store.run(&["restored", "--json", "--note", "dump of 02:00"]).await.json();
    assert_eq!(stamped.len(), 2, "{stamped:?}");
    assert_eq!((&stamped[0]["lease"], &stamped[1]["lease"]), (&"nightly".into(), &LEASE.into()));
    assert_eq!((&stamped[1]["stamped"], &stamped[1]["waited_out_for_ms"]), (&true.into(), &2_004.into()));
    let above = stamped[1]["epochs_above"].as_u64().expect("an epoch");
    let status = store.run(&["status", LEASE]).await;
    assert!(
        status.ok().contains("stamped by `leasehold restored`: a holder that lives keeps it"),
        "{}",
        status.out
    );
    let rows = store.run(&["history", LEASE]).await;
    assert!(rows.ok().contains("restored") && rows.out.contains("dump of 02:00"), "{}", rows.out);

    let began = Instant::now();
    let mut holder = store.candidate_with("pod-a", Duration::from_secs(2));
    assert!(holder.leads().await.epoch > above);
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    // It lives, and keeps it.
    let again = store.run(&["restored", LEASE, "--above", &(above << 1).to_string()]).await;
    assert!(
        again.ok().contains(&format!("lease {LEASE} was stamped")) && again.out.contains("2s"),
        "{}",
        again.out
    );
    assert_eq!(record(&store).await["state"], "held");
    holder.stop().await;
}

async fn restored_goes_on_where_one_lease_can_not_be_stamped(store: Store) {
    store.run(&["init", "--new", LEASE]).await.ok();
    let ran = store.run(&["restored", "nope", LEASE]).await;
    assert_eq!(ran.code, 1, "{} {}", ran.out, ran.err);
    assert!(ran.out.contains("lease nope was not stamped: there is no lease nope"), "{}", ran.out);
    assert!(ran.out.contains(&format!("lease {LEASE} was stamped")), "{}", ran.out);
}

async fn history_tells_who_held_the_lease_in_order(store: Store) {
    store.run(&["init", "--new", LEASE]).await.ok();
    assert!(store.run(&["history", LEASE]).await.ok().contains("nobody has held"));
    for workload in ["pod-a", "pod-b"] {
        let mut holder = store.candidate(workload);
        holder.leads().await;
        holder.stop().await;
    }
    let rows = store.run(&["history", LEASE, "--json"]).await.json();
    let told: Vec<_> =
        rows.iter().map(|row| format!("{} {}", row["event_type"], row["holder_workload_id"])).collect();
    let expected = ["acquired pod-a", "released pod-a", "taken_over pod-b", "released pod-b"];
    assert_eq!(told.join("\n").replace('"', ""), expected.join("\n"));
    let epochs: Vec<_> = rows.iter().map(|row| row["epoch"].as_u64()).collect();
    assert!(epochs.is_sorted(), "{epochs:?}");
    let newest = store.run(&["history", LEASE, "--limit", "1"]).await;
    assert!(newest.ok().lines().count() == 1 && newest.out.contains("released"), "{}", newest.out);
}

async fn watch_tells_of_takeovers_releases_and_requests(store: Store) {
    store.run(&["init", "--new", LEASE]).await.ok();
    let machine = store.start(&["watch", "--json"]);
    let human = store.start(&["watch", LEASE]);
    let event = async |kind: &str| -> Value {
        let line = machine.wait_for_line(&format!("\"event\":\"{kind}\""), LIMIT).await.expect(kind);
        serde_json::from_str(&line).expect("json")
    };
    event("seen").await;
    human.wait_for_line("free", LIMIT).await.expect("the free lease");
    // Each state stays until it was seen.
    let mut holder = store.candidate("pod-a");
    let term = holder.leads().await;
    let acquired = event("acquired").await;
    assert_eq!((&acquired["holder"], &acquired["epoch"]), (&"pod-a".into(), &term.epoch.into()));
    event("beat").await;
    human.wait_for_line("pod-a took it", LIMIT).await.expect("the new term");
    holder.stop().await;
    assert_eq!(event("released").await["asked"], false);
    human.wait_for_line("pod-a released it", LIMIT).await.expect("the release");
    store.silent_holder("pod-b", Duration::from_secs(600)).await;
    human.wait_for_line("pod-b took it over from pod-a", LIMIT).await.expect("the takeover");
    store.run(&["step-down", LEASE, "--wait", "0s"]).await.ok();
    assert_eq!(event("step_down_asked").await["by"], "op@tester");
    store.run(&["revoke", LEASE, "--note", "stuck"]).await.ok();
    assert_eq!(event("revoked").await["note"], "stuck");
    for (watcher, signal) in [(machine, Signal::TERM), (human, Signal::INT)] {
        watcher.signal(signal).expect("sent");
        let status = watcher.wait(LIMIT).await.expect("ends");
        assert_eq!(status.code(), Some(0), "{signal:?}: {:?}", watcher.lines());
    }
}

async fn watch_judges_a_silent_holder_by_its_own_clock(store: Store) {
    store.run(&["init", "--new", LEASE]).await.ok();
    let watcher = store.start(&["watch", LEASE, "--json"]);
    watcher.wait_for_line("\"event\":\"seen\"", LIMIT).await.expect("the free lease");
    store.silent_holder("pod-a", Duration::from_secs(2)).await;
    watcher.wait_for_line("\"event\":\"silent\"", LIMIT).await.expect("the silence");
    let line = watcher.wait_for_line("\"event\":\"may_be_taken\"", LIMIT).await.expect("the end of the wait");
    let told: Value = serde_json::from_str(&line).expect("json");
    let silent_ms = told["silent_ms"].as_u64().expect("a number");
    assert!(silent_ms >= 2_004, "too early: {line}");
}

#[tokio::test]
async fn a_look_at_a_lease_file_that_is_not_there_does_not_make_one() {
    let leasehold = Leasehold::sqlite();
    for args in [
        &["status"][..],
        &["history", LEASE],
        &["watch"],
        &["revoke", LEASE],
        &["step-down", LEASE],
        &["restored"],
    ] {
        leasehold.run(args).failed(&["there is no lease file", "leases.db", "leasehold init"]);
    }
    assert_eq!(leasehold.files(), Vec::<String>::new());
}

#[tokio::test]
async fn a_database_without_tables_is_told_from_one_that_is_out_of_reach() {
    let store = Store::postgres().await;
    store.run(&["status"]).await.failed(&["leasehold migrate-schema", "postgres://postgres:***@127.0.0.1"]);
    let made = store.run(&["migrate-schema"]).await;
    assert!(made.ok().contains("the lease tables are at version"), "{}", made.out);
    assert!(store.run(&["status"]).await.ok().contains("there are no leases"));
    assert_eq!(store.run(&["init", "--no-migrate", LEASE]).await.code, 0);
}

#[tokio::test]
async fn a_store_out_of_reach_is_named_without_its_password() {
    let port = lease_testbed::free_port().expect("a port");
    let leasehold = Leasehold::bare()
        .with("SPENDGUARD_LEADER_ELECTION_MODE", "postgres")
        .with("SPENDGUARD_LEADER_POSTGRES_URL", &format!("postgres://app:hunter2@127.0.0.1:{port}/x"));
    let at = format!("postgres://app:***@127.0.0.1:{port}/x");
    for args in [&["status"][..], &["init", LEASE], &["watch"], &["revoke", LEASE], &["migrate-schema"]] {
        leasehold.run(args).failed(&[&at, "check that the server runs"]);
    }
}

#[tokio::test]
async fn every_call_has_a_time_limit() {
    // Takes connections and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("postgres://app:hunter2@{}/x", listener.local_addr().expect("an address"));
    let leasehold = Leasehold::bare()
        .with("SPENDGUARD_LEADER_ELECTION_MODE", "postgres")
        .with("SPENDGUARD_LEADER_POSTGRES_URL", &url);
    let start = Instant::now();
    leasehold.run(&["status", "--timeout", "300ms"]).failed(&["did not answer within 300ms", "--timeout"]);
    assert!(start.elapsed() < Duration::from_secs(8), "it took {:?}", start.elapsed());
}

//! The lab's own subcommands, small: `make bars` runs them at full length.

use std::time::Duration;

use lease_testbed::{Process, Signal, wait_for};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(240);

fn lab(args: &[&str]) -> Process {
    Process::command(env!("CARGO_BIN_EXE_leasehold-lab")).unwrap().args(args).spawn().unwrap()
}

/// Runs it to the end. Returns its exit code, and its report.
async fn report(args: &[&str]) -> (Option<i32>, Value) {
    let lab = lab(&[args, &["--json"]].concat());
    let status = lab.wait(LIMIT).await.unwrap();
    // Its last lines may still be on their way when it has ended.
    let report = wait_for("the report is complete", LIMIT, async || {
        let lines = lab.lines();
        let told = lines.iter().filter(|line| !line.starts_with("chaos:")).cloned().collect::<Vec<_>>();
        serde_json::from_str(&told.join("\n")).map_err(|error| format!("{error} in {told:#?}"))
    });
    let report = report.await.unwrap();
    (status.code(), report)
}

async fn chaos(mode: &str, more: &[&str]) -> (Option<i32>, Value) {
    let args = ["chaos", "--mode", mode, "--takeovers", "16", "--leases", "4", "--seed", "11"];
    report(&[&args, more].concat()).await
}

async fn no_rule_is_violated(mode: &str) {
    let (code, report) = chaos(mode, &[]).await;
    assert_eq!((code, &report["violations"]), (Some(0), &Value::Array(vec![])), "{report:#}");
    assert!(report["effects_refused"].as_u64().unwrap() > 0, "{report:#}");
}

async fn stale_effects_show(mode: &str) {
    let (code, report) = chaos(mode, &["--sabotage-admission"]).await;
    let violations = report["violations"].as_array().unwrap();
    assert!(!violations.is_empty(), "{report:#}");
    assert!(violations.iter().all(|violation| violation["rule"] == "L-7"), "{report:#}");
    assert_eq!((code, &report["effects_refused"]), (Some(0), &Value::from(0)), "{report:#}");
}

#[tokio::test]
async fn chaos_on_sqlite_violates_no_rule() {
    no_rule_is_violated("sqlite").await;
}

#[tokio::test]
async fn chaos_on_postgres_violates_no_rule() {
    no_rule_is_violated("postgres").await;
}

#[tokio::test]
async fn stale_effects_show_on_sqlite_when_admission_is_sabotaged() {
    stale_effects_show("sqlite").await;
}

#[tokio::test]
async fn stale_effects_show_on_postgres_when_admission_is_sabotaged() {
    stale_effects_show("postgres").await;
}

async fn a_killed_holder_is_replaced_in_time(mode: &str) {
    let args = ["failover", "--mode", mode, "--ttl", "1s", "--times", "4", "--leases", "2"];
    let (code, report) = report(&args).await;
    assert_eq!(code, Some(0), "{report:#}");
    let observed = &report["after_the_last_beat_was_observed"];
    assert_eq!(observed["count"], 4);
    // No sooner than T-2 allows, either.
    assert!(observed["min_ms"].as_f64().unwrap() >= 1002.0, "{report:#}");
}

#[tokio::test]
async fn a_killed_holder_is_replaced_in_time_on_sqlite() {
    a_killed_holder_is_replaced_in_time("sqlite").await;
}

#[tokio::test]
async fn a_killed_holder_is_replaced_in_time_on_postgres() {
    a_killed_holder_is_replaced_in_time("postgres").await;
}

#[tokio::test]
async fn a_hand_over_is_measured_beside_the_bare_commits() {
    let (_, report) = report(&["handover", "--mode", "postgres", "--times", "4"]).await;
    assert_eq!(
        (&report["hand_over"]["count"], &report["bare"]["count"]),
        (&4.into(), &4.into()),
        "{report:#}"
    );
    assert_eq!(report["parts"].as_object().unwrap().len(), 11, "{report:#}");
}

#[tokio::test]
async fn a_server_to_play_with_is_up_until_it_is_interrupted() {
    let lab = lab(&["testbed", "up", "postgres"]);
    let url = lab.wait_for_line("postgres://", LIMIT).await.unwrap();
    lab.wait_for_line("Ctrl-C", LIMIT).await.unwrap();
    let look = || {
        Process::command("psql")
            .unwrap()
            .args([url.trim(), "-c", "TABLE coordination_leases"])
            .spawn()
            .unwrap()
    };
    assert!(look().wait(LIMIT).await.unwrap().success());
    lab.signal(Signal::INT).unwrap();
    assert_eq!(lab.wait(LIMIT).await.unwrap().code(), Some(0));
    assert!(!look().wait(LIMIT).await.unwrap().success());
}

#[tokio::test]
async fn bad_input_is_refused_before_anything_starts() {
    for (args, told) in [
        (&["chaos", "--mode", "oracle"][..], "sqlite"),
        (&["chaos", "--mode", "sqlite", "--ttl", "5"], "unit"),
        (&["chaos", "--mode", "sqlite", "--ttl", "1ms"], "500ms"),
        (&["chaos", "--mode", "sqlite", "--takeovers", "0"], "1.."),
        (&["failover", "--mode", "postgres", "--ttl", "soon"], "2s"),
        (&["handover", "--mode", "sqlite"], "postgres"),
        (&["testbed", "up", "oracle"], "postgres"),
    ] {
        let lab = lab(args);
        assert_eq!(lab.wait(LIMIT).await.unwrap().code(), Some(2), "{args:?}");
        lab.wait_for_line(told, LIMIT).await.unwrap();
    }
}

//! The command's environment: the settings of the guard, without what is secret in them.

use std::collections::BTreeMap;
use std::process::Command;

use crate::common::{LIMIT, Place};

const SECRET: &str = "postgres://me:hunter2@127.0.0.1/leases";

/// The variables of all settings that are secret, as `leasehold config` knows them.
fn secret_variables() -> Vec<String> {
    let mut leasehold = Command::new(env!("CARGO_BIN_EXE_leasehold"));
    let output = leasehold.env_clear().args(["config", "--json"]).output().unwrap();
    let config: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let settings = config["settings"].as_array().unwrap().iter();
    let chosen = settings.filter(|setting| setting["secret"] == true);
    chosen.map(|setting| setting["env"].as_str().unwrap().to_owned()).collect()
}

/// The environment of a command under a guard whose own has all secret settings, and some that aren't.
async fn environment(flags: &[&str]) -> BTreeMap<String, String> {
    let place = Place::new("none");
    let run = ["run", "--init", "--isolate", "none"];
    let mut guard = place.command(&[&run[..], flags, &["--", "sh", "-c", "env > environment"]].concat());
    for variable in secret_variables() {
        guard = guard.env(&variable, SECRET);
    }
    for (variable, value) in [
        ("SPENDGUARD_LEADER_ELECTION_MODE", "sqlite"),
        ("SPENDGUARD_LEADER_ETCD_USER", "leases"),
        ("SPENDGUARD_LEADER_K8S_NAMESPACE", "payments"),
        ("LEASEHOLD_OUTBOX_FORWARDER_INGEST_URL", "http://me:hunter2@ingest/v1/events"),
        ("APP_PASSWORD", "its own"),
    ] {
        guard = guard.env(variable, value);
    }
    let guard = guard.spawn().unwrap();
    assert_eq!(guard.wait(LIMIT).await.unwrap().code(), Some(0), "{:?}", guard.lines());
    let lines = place.lines("environment");
    let pairs = lines.iter().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[tokio::test]
async fn no_secret_setting_of_any_mode_or_role_is_in_the_commands_environment() {
    let secret = secret_variables();
    for known in [
        "SPENDGUARD_LEADER_POSTGRES_URL",
        "SPENDGUARD_LEADER_POSTGRES_LISTEN_URL",
        "SPENDGUARD_LEADER_ETCD_PASSWORD",
        "LEASEHOLD_LEDGER_DATABASE_URL",
        "LEASEHOLD_OUTBOX_FORWARDER_OUTBOX_URL",
    ] {
        assert!(secret.iter().any(|variable| variable == known), "{known} of {secret:?}");
    }
    let environment = environment(&[]).await;
    let shown: Vec<_> = environment.values().filter(|value| value.contains("hunter2")).collect();
    assert!(shown.is_empty(), "{shown:?}");
    for kept in
        ["SPENDGUARD_LEADER_ELECTION_MODE", "SPENDGUARD_LEADER_ETCD_USER", "APP_PASSWORD", "LEASEHOLD_EPOCH"]
    {
        assert!(environment.contains_key(kept), "{kept} of {environment:?}");
    }
    assert_eq!(environment["SPENDGUARD_LEADER_K8S_NAMESPACE"], "payments");
}

#[tokio::test]
async fn all_of_them_are_there_where_that_was_asked_for() {
    let environment = environment(&["--pass-secrets"]).await;
    for variable in secret_variables() {
        assert_eq!(environment.get(&variable).map(String::as_str), Some(SECRET), "{variable}");
    }
    assert!(environment["LEASEHOLD_OUTBOX_FORWARDER_INGEST_URL"].contains("hunter2"));
}

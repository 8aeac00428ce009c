//! `leasehold config`: layers, origins, secrets.

use crate::common::{Leasehold, ran};
use serde_json::Value;

fn setting(config: &Value, key: &str) -> Value {
    let settings = config["settings"].as_array().expect("settings");
    settings.iter().find(|setting| setting["key"] == key).unwrap_or_else(|| panic!("no {key}")).clone()
}

#[test]
fn flags_beat_the_environment_beats_the_file_beats_defaults() {
    let leasehold = Leasehold::sqlite();
    let file = leasehold.file(
        "leasehold.toml",
        "[leaderElection]\nttlMs = 30000\nregion = \"eu-1\"\nstopBudgetMs = 1000\n[log]\nformat = \"json\"\n",
    );
    let mut command = leasehold.command(&["config", "--json", "--ttl", "12s"]);
    command.env("LEASEHOLD_CONFIG", &file);
    command.env("SPENDGUARD_LEADER_LEASE_TTL_MS", "20000").env("SPENDGUARD_LEADER_REGION", "eu-2");
    let config: Value = serde_json::from_str(ran(&mut command).ok()).expect("json");
    let in_file = format!("leaderElection.stopBudgetMs in {file}");
    for (key, value, layer, origin) in [
        ("leaderElection.ttlMs", Value::from(12_000), "flag", "--ttl"),
        ("leaderElection.region", "eu-2".into(), "environment", "SPENDGUARD_LEADER_REGION"),
        ("leaderElection.stopBudgetMs", 1_000.into(), "file", &in_file),
        ("leaderElection.mode", "sqlite".into(), "default", "leaderElection.mode"),
        ("leaderElection.postgres.schema", "public".into(), "default", "leaderElection.postgres.schema"),
    ] {
        let found = setting(&config, key);
        assert_eq!(
            (&found["value"], &found["layer"], &found["origin"]),
            (&value, &layer.into(), &origin.into()),
            "{key}"
        );
    }
    assert_eq!(setting(&config, "leaderElection.leaseName")["value"], Value::Null);
    assert_eq!(config["file"], Value::from(file));
}

#[test]
fn the_specifications_variables_are_known() {
    let leasehold = Leasehold::sqlite();
    let mut command = leasehold.command(&["config", "--json"]);
    let given = [
        ("SPENDGUARD_LEADER_ELECTION_MODE", "mode", Value::from("sqlite")),
        ("SPENDGUARD_LEADER_LEASE_NAME", "leaseName", "outbox".into()),
        ("SPENDGUARD_LEADER_REGION", "region", "eu".into()),
        ("SPENDGUARD_LEADER_LEASE_TTL_MS", "ttlMs", 9_000.into()),
        ("SPENDGUARD_LEADER_RENEW_INTERVAL_MS", "renewIntervalMs", 3_000.into()),
        ("SPENDGUARD_LEADER_RETRY_INTERVAL_MS", "retryIntervalMs", 500.into()),
        ("SPENDGUARD_LEADER_K8S_NAMESPACE", "k8s.namespace", "spendguard".into()),
    ];
    for (name, _, value) in &given {
        command.env(name, value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    let config: Value = serde_json::from_str(ran(&mut command).ok()).expect("json");
    for (name, key, value) in given {
        let found = setting(&config, &format!("leaderElection.{key}"));
        assert_eq!((&found["value"], &found["origin"]), (&value, &name.into()));
    }
}

#[test]
fn a_secret_comes_from_a_file_and_is_never_shown() {
    let leasehold = Leasehold::bare();
    let url = leasehold.file("url", "postgres://app:hunter2@db.example/app?password=hunter2\n");
    for human in [true, false] {
        let mut args = vec!["--mode", "postgres", "config"];
        if !human {
            args.push("--json");
        }
        let shown = ran(leasehold.command(&args).env("SPENDGUARD_LEADER_POSTGRES_URL_FILE", &url));
        assert!(!shown.ok().contains("hunter2"), "{}", shown.out);
        assert!(shown.out.contains("postgres://app:***@db.example/app"), "{}", shown.out);
        assert!(shown.out.contains("SPENDGUARD_LEADER_POSTGRES_URL_FILE"), "{}", shown.out);
    }
    // A later place wins over the file that an earlier one names.
    let mut command = leasehold.command(&["--mode=postgres", "--postgres-url=postgres://b@db/x", "config"]);
    let shown = ran(command.env("SPENDGUARD_LEADER_POSTGRES_URL_FILE", &url));
    assert!(
        shown.ok().contains("postgres://b@db/x") && shown.out.contains("flag: --postgres-url"),
        "{}",
        shown.out
    );
}

#[test]
fn what_it_prints_is_a_settings_file_that_means_the_same() {
    let leasehold = Leasehold::bare();
    let path = leasehold.path("x.db");
    let set = ["config", "--ttl", "9s", "--region", "a \"quoted\" one", "--sqlite-path", &path];
    let printed = leasehold.run(&set);
    let file = leasehold.file("printed.toml", printed.ok());
    let values = |args: &[&str]| -> Vec<(Value, Value)> {
        let config: Value = serde_json::from_str(leasehold.run(args).ok()).expect("json");
        let settings = config["settings"].as_array().expect("settings");
        settings.iter().map(|setting| (setting["key"].clone(), setting["value"].clone())).collect()
    };
    let mut as_json = set.to_vec();
    as_json.push("--json");
    assert_eq!(values(&["--config", &file, "config", "--json"]), values(&as_json));
}

#[test]
fn the_default_lease_file_does_not_depend_on_who_starts_where() {
    let leasehold = Leasehold::bare();
    let shown = leasehold.run(&["config"]);
    let path = "leaderElection.sqlite.path = \"/var/lib/leasehold/leases.sqlite\"";
    assert!(shown.out.contains(path), "{}", shown.out);
    assert_eq!(leasehold.files(), Vec::<String>::new());
}

#[test]
fn shows_the_settings_even_if_it_must_refuse_them() {
    let leasehold = Leasehold::sqlite();
    let refused = leasehold.run(&["config", "--renew-interval", "6s"]);
    assert_eq!(refused.code, 2);
    assert!(refused.out.contains("leaderElection.renewIntervalMs = 6000"), "{}", refused.out);
    assert!(refused.err.contains("--renew-interval = 6000ms is not allowed"), "{}", refused.err);
    assert_eq!(leasehold.files(), Vec::<String>::new());
}

#[test]
fn help_names_every_setting_and_the_exit_codes() {
    let leasehold = Leasehold::bare();
    let help = leasehold.run(&["--help-all"]);
    let config: Value =
        serde_json::from_str(Leasehold::sqlite().run(&["config", "--json"]).ok()).expect("json");
    for setting in config["settings"].as_array().expect("settings") {
        if let Some(flag) = setting["flag"].as_str() {
            assert!(help.ok().contains(&format!("--{flag}")), "{flag}");
        }
    }
    assert!(help.out.contains("Exit codes:") && help.out.contains("Examples:"));
    for command in ["init", "status", "watch", "history", "step-down", "revoke", "restored", "config", "run"]
    {
        assert!(leasehold.run(&[command, "-h"]).ok().contains("Usage: leasehold"), "{command}");
    }
}

//! Several bad settings are one report: each is named, whatever its source, and nothing starts.

use crate::common::{Leasehold, ran};

#[test]
fn every_bad_setting_is_told_at_once_whatever_its_source() {
    let leasehold = Leasehold::sqlite();
    let file = leasehold.file(
        "x.toml",
        "[leaderElection]\nttlMs = \"soon\"\nttlsMs = 5\n[leaderElection.postgres]\nurl = 7\n[log]\nformat = \"xml\"\n",
    );
    let told = |command: &[&str]| {
        let args = [&["--config", &file, "--retry-interval=9"], command].concat();
        let mut command = leasehold.command(&args);
        command
            .env("LEASEHOLD_OPERATOR_TIMEOUT_MS", "long")
            .env("SPENDGUARD_LEADER_POSTGRES_URL", "x:hunter2@");
        ran(command.env("LEASEHOLD_OPERATOR_TIMEOUT", "5"))
    };
    let commands: [&[&str]; 6] = [
        &["status"],
        &["config"],
        &["init", "a"],
        &["run", "--lease", "a", "--", "touch", "started"],
        &["worker", "ledger"],
        &["worker", "sidecar"],
    ];
    for command in commands {
        told(command).refused_all(&[
            &["leaderElection.ttlsMs in ", "did you mean ttlMs?"],
            &["leaderElection.ttlMs in ", "\"soon\"", "use a whole number"],
            &["leaderElection.postgres.url in ", "in quotes"],
            &["log.format in ", "use one of human, json"],
            &["LEASEHOLD_OPERATOR_TIMEOUT is unknown", "did you mean LEASEHOLD_OPERATOR_TIMEOUT_MS?"],
            &["SPENDGUARD_LEADER_POSTGRES_URL = ", "postgres://"],
            &["LEASEHOLD_OPERATOR_TIMEOUT_MS = \"long\""],
            &["--retry-interval = \"9\"", "500ms"],
        ]);
    }
    assert_eq!(leasehold.files(), ["x.toml"]);
}

#[test]
fn every_setting_that_is_missing_or_contradicts_another_is_told_at_once() {
    let contradiction = ["--renew-interval", "--renew-interval = 60000ms"];
    let cases: [(&[&str], &[&[&str]]); 8] = [
        (
            &["init"],
            &[&["leaderElection.leaseName is not set"], &contradiction, &["leaderElection.sqlite.path"]],
        ),
        (&["step-down", "a"], &[&contradiction, &["leaderElection.sqlite.path"]]),
        (&["config"], &[&contradiction, &["leaderElection.sqlite.path"]]),
        (
            &["run", "--stop-budget=1ms", "--", "touch", "started"],
            &[
                &["leaderElection.sqlite.path"],
                &["leaderElection.leaseName is not set"],
                &contradiction,
                &["--stop-budget = 1ms"],
            ],
        ),
        (
            &["worker", "outbox-forwarder"],
            &[
                &["outboxForwarder.outboxUrl is not set"],
                &["outboxForwarder.ingestUrl is not set"],
                &contradiction,
                &["leaderElection.sqlite.path"],
            ],
        ),
        (&["worker", "canonical-ingest"], &[&["databaseUrl is not set"], &contradiction]),
        (
            &["worker", "ttl-sweeper"],
            &[&["ledgerDatabaseUrl is not set"], &contradiction, &["leaderElection.sqlite.path"]],
        ),
        (
            &["worker", "sidecar"],
            &[
                &["ledgerUrl is not set"],
                &["fencingScopeId is not set"],
                &["tenantId is not set"],
                &["socketPath is not set"],
                &contradiction,
            ],
        ),
    ];
    for (command, expected) in cases {
        let leasehold = Leasehold::bare();
        let args = [&["--renew-interval=60s"], command].concat();
        let ran = leasehold.run(&args);
        println!("{args:?}: {}", ran.err);
        ran.refused_all(expected);
        assert_eq!(leasehold.files(), Vec::<String>::new(), "{command:?}");
    }
}

//! The bar "Bad input": every setting, malformed, in every place where it can be set, gives exit code 2 and one message
//! with the setting, its value and what is allowed, before anything starts.

use std::os::unix::ffi::OsStringExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::common::{Leasehold, ran};
use serde_json::Value;

/// Would create the lease file, if it started.
const INIT: [&str; 2] = ["init", "nightly"];

fn all_settings() -> Vec<Value> {
    let ran = Leasehold::sqlite().run(&["config", "--json"]);
    let config: Value = serde_json::from_str(ran.ok()).expect("json");
    config["settings"].as_array().expect("settings").clone()
}

fn text<'a>(setting: &'a Value, field: &str) -> &'a str {
    setting[field].as_str().unwrap_or_default()
}

/// Texts that a variable or a flag must not have.
fn bad_texts(kind: &str, key: &str, flag: bool) -> Vec<&'static str> {
    match kind {
        "integer" => vec!["", "abc", "-1", "1.5", "99999999999999999999", " 5", "0x10", "1e3", "5s"],
        "millis" if flag => {
            vec!["", "abc", "15", "-1s", "-1", "1.5s", "99999999999999999h", "15 s", "2d", "9999h"]
        }
        "millis" => vec!["", "abc", "-1", "1.5", "99999999999999999999", "15s", " 5", "86400001"],
        "bool" => vec!["", "maybe", "1", "TRUE", "yes"],
        "one_of" => vec!["", "nonsense", "HUMAN", "json "],
        "path" => vec!["", "a\nb"],
        "url" | "database" | "endpoints" => vec![
            "",
            "nonsense",
            "ftp://u:hunter2@host/x",
            "postgres:nonsense",
            "postgres://u:hunter2@host:port/x",
            "://h?hunter2",
        ],
        "address" => vec!["", "nonsense", "localhost", "localhost:", "localhost:99999", ":80", "a b:80"],
        "text" => vec!["a\u{1}b"],
        "checked" if key == "log.filter" => vec!["", "info,lease_core=banana"],
        "checked" => vec!["", "a\u{1}b"],
        other => panic!("a kind without nonsense: {other}"),
    }
}

/// Values that the file must not have.
fn bad_literals(kind: &str) -> Vec<&'static str> {
    match kind {
        "integer" | "millis" => {
            vec!["\"15000\"", "-1", "1.5", "true", "[5]", "{ a = 1 }", "9223372036854775807", "1979-05-27"]
        }
        "bool" => vec!["\"true\"", "1", "[]", "{ a = true }"],
        _ => vec!["5", "true", "1.5", "[\"a\"]", "{ a = \"b\" }", "1979-05-27"],
    }
}

/// Runs `check` for each item, on a few threads; says how many there were.
fn for_each<T: Sync>(items: &[T], check: impl Fn(&T) + Sync) -> usize {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    check(item);
                }
            });
        }
    });
    items.len()
}

#[test]
fn the_same_command_without_nonsense_would_start() {
    let leasehold = Leasehold::sqlite();
    leasehold.run(&INIT).ok();
    assert!(leasehold.files().contains(&"leases.db".to_owned()), "{:?}", leasehold.files());
}

#[test]
fn refuses_every_setting_malformed_in_the_environment() {
    let settings = all_settings();
    let cases: Vec<_> = settings
        .iter()
        .flat_map(|s| bad_texts(text(s, "kind"), text(s, "key"), false).into_iter().map(move |bad| (s, bad)))
        .collect();
    let count = for_each(&cases, |(setting, bad)| {
        let leasehold = Leasehold::bare();
        let mut command = leasehold.command(&INIT);
        command.env("SPENDGUARD_LEADER_SQLITE_PATH", leasehold.path("leases.db"));
        command.env(text(setting, "env"), bad);
        let mut parts = vec![text(setting, "env"), " = ", "use "];
        let shown = bad.escape_debug().to_string();
        if setting["secret"] == false && !bad.contains("hunter2") {
            parts.push(&shown);
        }
        ran(&mut command).refused(&parts);
        assert_eq!(leasehold.files(), Vec::<String>::new(), "something was started: {setting} {bad:?}");
    });
    assert!(count > 80, "only {count} cases");
}

#[test]
fn refuses_every_setting_malformed_on_the_command_line() {
    let settings = all_settings();
    let with_flag = settings.iter().filter(|setting| setting["flag"].is_string());
    let cases: Vec<_> = with_flag
        .flat_map(|s| bad_texts(text(s, "kind"), text(s, "key"), true).into_iter().map(move |bad| (s, bad)))
        .collect();
    let count = for_each(&cases, |(setting, bad)| {
        let leasehold = Leasehold::bare();
        let flag = format!("--{}", text(setting, "flag"));
        let mut command = leasehold.command(&INIT);
        command.env("SPENDGUARD_LEADER_SQLITE_PATH", leasehold.path("leases.db"));
        command.arg(format!("{flag}={bad}"));
        let mut parts = vec![flag.as_str(), " = ", "use "];
        let shown = bad.escape_debug().to_string();
        if setting["secret"] == false && !bad.contains("hunter2") {
            parts.push(&shown);
        }
        ran(&mut command).refused(&parts);
        assert_eq!(leasehold.files(), Vec::<String>::new(), "something was started: {setting} {bad:?}");
    });
    assert!(count > 60, "only {count} cases");
}

#[test]
fn refuses_every_setting_malformed_in_the_file() {
    let settings = all_settings();
    let cases: Vec<_> = settings
        .iter()
        .flat_map(|s| bad_literals(text(s, "kind")).into_iter().map(move |bad| (s, bad)))
        .collect();
    let count = for_each(&cases, |(setting, bad)| {
        let leasehold = Leasehold::sqlite();
        let (section, key) = text(setting, "key").rsplit_once('.').expect("a section");
        let file = leasehold.file("leasehold.toml", &format!("[{section}]\n{key} = {bad}\n"));
        let named = format!("{section}.{key} in {file} = ");
        leasehold.run(&["--config", &file, "init", "nightly"]).refused(&[&named, "use "]);
        assert_eq!(leasehold.files(), ["leasehold.toml"], "something was started: {setting} {bad}");
    });
    assert!(count > 100, "only {count} cases");
}

const ETCD_PASSWORD: &str = "leaderElection.etcd.password";

#[test]
fn refuses_nonsense_in_a_file_that_holds_a_secret() {
    // etcd's password file is the backend's to read, anew for each connection.
    let read_here = |setting: &&Value| setting["secret"] == true && setting["key"] != ETCD_PASSWORD;
    for setting in all_settings().iter().filter(read_here) {
        let env = format!("{}_FILE", text(setting, "env"));
        let leasehold = Leasehold::sqlite();
        let bad = leasehold.file("bad", "mysql://u:hunter2@h/x\n");
        for (path, part) in [
            ("", "use the path"),
            ("/nowhere/url", "can't be read"),
            ("/", "can't be read"),
            (bad.as_str(), "use "),
        ] {
            ran(leasehold.command(&INIT).env(&env, path)).refused(&[&env, part]);
        }
        // Both, in one place: which one counts?
        let mut both = leasehold.command(&INIT);
        both.env(&env, &bad).env(text(setting, "env"), "postgres://db.example/x");
        ran(&mut both).refused(&[&env, "remove one"]);
        assert_eq!(leasehold.files(), ["bad"]);
    }
}

#[test]
fn refuses_settings_that_contradict_each_other_in_the_operators_words() {
    /// Variables, and what the message must have.
    type Case = (&'static [(&'static str, &'static str)], &'static [&'static str]);
    let cases: [Case; 7] = [
        (
            &[("SPENDGUARD_LEADER_LEASE_TTL_MS", "9000"), ("SPENDGUARD_LEADER_RENEW_INTERVAL_MS", "5000")],
            &["SPENDGUARD_LEADER_RENEW_INTERVAL_MS = 5000", "ttl/3 = 3s"],
        ),
        (&[("SPENDGUARD_LEADER_RENEW_INTERVAL_MS", "5001")], &["RENEW_INTERVAL_MS = 5001", "ttl/3 = 5s"]),
        (
            &[("SPENDGUARD_LEADER_RETRY_INTERVAL_MS", "5001")],
            &["SPENDGUARD_LEADER_RETRY_INTERVAL_MS = 5001", "renewIntervalMs = 5s"],
        ),
        (
            &[("SPENDGUARD_LEADER_MAX_TTL_MS", "14999")],
            &["SPENDGUARD_LEADER_MAX_TTL_MS = 14999", "at least the ttl, 15s"],
        ),
        (
            &[("SPENDGUARD_LEADER_STOP_GRACE_MS", "5000")],
            &["SPENDGUARD_LEADER_STOP_GRACE_MS = 5000", "2·renewIntervalMs", "4.97s"],
        ),
        (
            &[("SPENDGUARD_LEADER_MIGRATE_FROM", "sqlite")],
            &["SPENDGUARD_LEADER_MIGRATE_FROM = \"sqlite\"", "remove this"],
        ),
        (&[("POD_NAME", ""), ("LEASEHOLD_LOG", "info")], &["POD_NAME = \"\"", "LEASEHOLD_WORKLOAD_ID"]),
    ];
    for (environment, parts) in cases {
        let leasehold = Leasehold::sqlite();
        let mut command = leasehold.command(&INIT);
        if environment[0].0 == "POD_NAME" {
            command.env_remove("LEASEHOLD_WORKLOAD_ID");
        }
        ran(command.envs(environment.iter().copied())).refused(parts);
        assert_eq!(leasehold.files(), Vec::<String>::new());
    }
}

#[test]
fn refuses_unknown_modes() {
    for (mode, part) in [
        ("", "use one of disabled, sqlite, postgres"),
        ("zookeeper", "use one of disabled, sqlite, postgres"),
        ("SQLite", "use one of disabled, sqlite, postgres"),
        ("kubernetes", "use one of disabled, sqlite, postgres, etcd, k8s"),
    ] {
        let leasehold = Leasehold::sqlite();
        let named = format!("SPENDGUARD_LEADER_ELECTION_MODE = {mode:?}");
        ran(leasehold.command(&INIT).env("SPENDGUARD_LEADER_ELECTION_MODE", mode)).refused(&[&named, part]);
        assert_eq!(leasehold.files(), Vec::<String>::new());
    }
    Leasehold::bare()
        .run(&["--mode=disabled", "status"])
        .refused(&["--mode = \"disabled\"", "no lease store"]);
}

#[test]
fn refuses_what_is_missing_and_says_how_to_set_it() {
    let missing = Leasehold::bare().run(&["--mode", "postgres", "init", "nightly"]);
    missing.refused(&["leaderElection.postgres.url is not set", "SPENDGUARD_LEADER_POSTGRES_URL_FILE"]);
    let missing = Leasehold::bare().run(&["--mode", "etcd", "init", "nightly"]);
    missing.refused(&["leaderElection.etcd.endpoints is not set", "SPENDGUARD_LEADER_ETCD_ENDPOINTS"]);
    Leasehold::sqlite().run(&["init"]).refused(&["leaderElection.leaseName is not set", "argument"]);
}

#[test]
fn refuses_etcd_settings_that_do_not_belong_together() {
    let plain = "--etcd-endpoints=http://localhost:2379";
    let secure = "--etcd-endpoints=https://localhost:2379";
    for (flags, parts) in [
        (vec!["--etcd-endpoints=localhost:2379"], ["etcd-endpoints", "http://"]),
        (vec!["--etcd-endpoints=http://a:2379,https://b:2379"], ["etcd-endpoints", "https for all"]),
        (vec![plain, "--etcd-prefix=/"], ["etcd-prefix", "/leasehold"]),
        (vec![plain, "--etcd-user=me"], ["etcd-user", "passwordFile"]),
        (vec![plain, "--etcd-password-file=/nowhere"], ["etcd-password-file", "set user"]),
        (
            vec![plain, "--etcd-user=me", "--etcd-password-file=/nowhere"],
            ["etcd-password-file", "can't be read"],
        ),
        (vec![plain, "--etcd-ca-file=/dev/null"], ["etcd-ca-file", "https"]),
        (vec![secure, "--etcd-cert-file=/dev/null"], ["etcd-cert-file", "keyFile"]),
        (vec![secure, "--etcd-key-file=/nowhere"], ["etcd-key-file", "can't be read"]),
    ] {
        let mut args = vec!["--mode", "etcd"];
        args.extend(&flags);
        args.extend(["init", "nightly"]);
        Leasehold::bare().run(&args).refused(&parts);
    }
}

#[test]
fn refuses_a_path_that_could_not_work_before_it_is_opened() {
    for (path, part) in [
        ("/nowhere/leases.db", "folder"),
        ("/", "folder"),
        (":memory:", "memory"),
        ("sqlite:leases.db", "plain path"),
        ("/dev/null", "regular file"),
    ] {
        let leasehold = Leasehold::bare();
        let mut command = leasehold.command(&INIT);
        ran(command.env("SPENDGUARD_LEADER_SQLITE_PATH", path)).refused(&[
            "SPENDGUARD_LEADER_SQLITE_PATH",
            path,
            part,
        ]);
    }
}

/// Whoever retried one of them would do so for ever.
#[test]
fn no_command_starts_on_a_lease_file_that_can_never_be_opened() {
    let leasehold = Leasehold::bare();
    leasehold.file("text", "no database, but longer than a database's header is");
    leasehold.file("text.db-wal", "");
    std::fs::create_dir(leasehold.path("folder")).unwrap();
    std::fs::create_dir(leasehold.path("used.db-shm")).unwrap();
    std::os::unix::fs::symlink("nowhere", leasehold.path("dangling")).unwrap();
    for (path, part) in [
        ("folder", "folder"),
        ("missing/leases.db", "create it first"),
        (":memory:", "memory"),
        ("leases.db/", "folder"),
        ("text", "not an SQLite database"),
        ("text/leases.db", "not a folder"),
        ("dangling", "leads to no file"),
        ("used.db", "used.db-shm"),
    ] {
        for args in [
            &["run", "--init", "--lease", "nightly", "--", "touch", "ran"][..],
            &["run", "--lease", "nightly", "--", "touch", "ran"],
            &[
                "worker",
                "outbox-forwarder",
                "--outbox-url",
                "sqlite:o.db",
                "--ingest-url",
                "http://127.0.0.1:1",
            ],
            &["init", "nightly"],
            &["status"],
            &["watch"],
            &["history", "nightly"],
            &["step-down", "nightly"],
            &["revoke", "nightly"],
            &["fence", "raise", "nightly", "--above", "1"],
            &["migrate-schema"],
        ] {
            let ran = leasehold.run(&[&["--sqlite-path", path][..], args].concat());
            ran.refused(&["--sqlite-path", part]);
        }
    }
    assert!(!leasehold.files().contains(&"ran".to_owned()));
}

#[test]
fn refuses_unknown_keys_and_tables_in_the_file() {
    for (content, parts) in [
        (
            "[leaderElection]\nttl = 5\n",
            &["leaderElection.ttl in ", "did you mean ttlMs?", "renewIntervalMs"][..],
        ),
        ("[leaderElection]\nttl_ms = 5\n", &["leaderElection.ttl_ms in ", "ttlMs"]),
        ("[leaderelection]\nttlMs = 5\n", &["leaderelection in ", "did you mean leaderElection?"]),
        ("mode = \"sqlite\"\n", &["mode in ", "is unknown", "leaderElection"]),
        ("[leaderElection.sqlite]\nurl = \"hunter2\"\n", &["leaderElection.sqlite.url in ", "path"]),
        ("leaderElection = 5\n", &["leaderElection in ", "= 5", "table"]),
        ("leaderElection = [\"a\"]\n", &["leaderElection in ", "table"]),
    ] {
        let leasehold = Leasehold::sqlite();
        let file = leasehold.file("leasehold.toml", content);
        leasehold.run(&["--config", &file, "init", "nightly"]).refused(parts);
        assert_eq!(leasehold.files(), ["leasehold.toml"]);
    }
}

#[test]
fn refuses_a_file_that_it_cannot_read_without_showing_what_is_in_it() {
    let leasehold = Leasehold::sqlite();
    let broken = leasehold.file("broken.toml", "[leaderElection]\nmode = \"sqlite\"\nurl = hunter2 oops\n");
    let binary = leasehold.path("binary.toml");
    std::fs::write(&binary, [0xff, 0xfe, 0]).expect("written");
    let nowhere = leasehold.path("nowhere.toml");
    let folder = leasehold.folder.path().display().to_string();
    for (path, part) in [
        (broken.as_str(), "line 3"),
        (&binary, "can't be read"),
        (&nowhere, "can't be read"),
        (&folder, "can't be read"),
        ("", "can't be read"),
    ] {
        let shown = format!("= {path:?}");
        leasehold.run(&[&format!("--config={path}"), "init", "a"]).refused(&["--config", &shown, part]);
        let mut command = leasehold.command(&INIT);
        ran(command.env("LEASEHOLD_CONFIG", path)).refused(&["LEASEHOLD_CONFIG", &shown, part]);
    }
    assert_eq!(leasehold.files(), ["binary.toml", "broken.toml"]);
}

#[test]
fn refuses_unknown_variables_of_ours_and_leaves_others_alone() {
    let leasehold = Leasehold::sqlite();
    for (name, part) in [
        ("SPENDGUARD_LEADER_LEASE_TTL", "SPENDGUARD_LEADER_LEASE_TTL_MS"),
        ("SPENDGUARD_LEADER_ELECTION_MOD", "SPENDGUARD_LEADER_ELECTION_MODE"),
        ("LEASEHOLD_LOG_FORMATT", "LEASEHOLD_LOG_FORMAT"),
    ] {
        let meant = format!("did you mean {part}?");
        ran(leasehold.command(&INIT).env(name, "hunter2")).refused(&[name, "is unknown", &meant]);
    }
    assert_eq!(leasehold.files(), Vec::<String>::new());
    // The variables that Kubernetes adds for a Service called leasehold, and those of `leasehold run`'s program.
    let mut command = leasehold.command(&INIT);
    command.env("LEASEHOLD_SERVICE_HOST", "10.0.0.1").env("LEASEHOLD_PORT", "tcp://10.0.0.1:80");
    command.env("LEASEHOLD_PORT_80_TCP_ADDR", "10.0.0.1").env("LEASEHOLD_EPOCH", "7").env("PATH", "/bin");
    ran(&mut command).ok();
}

#[test]
fn refuses_text_that_is_no_utf8() {
    let leasehold = Leasehold::sqlite();
    let bad = std::ffi::OsString::from_vec(vec![b'a', 0xff]);
    let refused = ran(leasehold.command(&INIT).env("SPENDGUARD_LEADER_REGION", &bad));
    refused.refused(&["SPENDGUARD_LEADER_REGION", "use UTF-8"]);
}

#[test]
fn a_malformed_value_is_refused_even_where_another_would_win() {
    let leasehold = Leasehold::sqlite();
    let mut command = leasehold.command(&["--ttl=15s", "init", "nightly"]);
    ran(command.env("SPENDGUARD_LEADER_LEASE_TTL_MS", "soon"))
        .refused(&["SPENDGUARD_LEADER_LEASE_TTL_MS = \"soon\""]);
}

#[test]
fn every_command_refuses_before_it_starts() {
    let commands: [&[&str]; 13] = [
        &["init", "a"],
        &["migrate-schema"],
        &["status"],
        &["watch"],
        &["history", "a"],
        &["step-down", "a"],
        &["revoke", "a"],
        &["restored"],
        &["fence", "raise", "a", "--above", "5"],
        &["run", "--lease", "a", "--", "touch", "started"],
        &["worker", "outbox-forwarder"],
        &["worker", "canonical-ingest"],
        &["config"],
    ];
    for command in commands {
        let leasehold = Leasehold::sqlite();
        let mut malformed = leasehold.command(command);
        ran(malformed.env("SPENDGUARD_LEADER_LEASE_TTL_MS", "soon"))
            .refused(&["SPENDGUARD_LEADER_LEASE_TTL_MS"]);
        let mut contradiction = leasehold.command(command);
        let refused = ran(contradiction
            .env("SPENDGUARD_LEADER_LEASE_TTL_MS", "9000")
            .env("SPENDGUARD_LEADER_RENEW_INTERVAL_MS", "5000"));
        assert_eq!(refused.code, 2, "{command:?}: {}", refused.err);
        assert_eq!(leasehold.files(), Vec::<String>::new(), "{command:?}");
    }
}

#[test]
fn refuses_k8s_settings_that_cannot_be_used() {
    for (flags, parts) in [
        (vec!["--k8s-namespace=No_Such"], ["k8s-namespace", "a-z, 0-9"]),
        (vec!["--k8s-kubeconfig=/nowhere"], ["k8s-kubeconfig", "can't be read"]),
    ] {
        let mut args = vec!["--mode", "k8s"];
        args.extend(&flags);
        args.extend(["init", "nightly"]);
        Leasehold::bare().run(&args).refused(&parts);
    }
    // No pod, and nowhere a kubeconfig.
    let nowhere = Leasehold::bare().run(&["--mode", "k8s", "init", "nightly"]);
    nowhere.failed(&["no usable kubeconfig", "KUBECONFIG"]);
}

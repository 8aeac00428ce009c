//! A secret, wherever it stands in whatever form of a URL, is printed by nobody.

use std::sync::Mutex;

use lease_postgres::PostgresConfig;
use lease_settings::redacted;
use lease_worker_common::database::Database;
use rand::distr::{Alphanumeric, SampleString};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use crate::table::{for_each, refusal, rows, run};

const SEED: u64 = 150;
const ROUNDS: usize = 12;

/// `{s}` stands for the secret.
const FORMS: [&str; 33] = [
    "postgres://me:{s}@db/app",
    "postgres://me:{s}@db:5433/app?sslmode=require",
    "postgres://me:{s}@[::1]/app",
    "postgres://me:{s}@[::1/app",
    "postgres://me:{s}@a,b/app",
    "postgres://me:{s}@db:port/app",
    "postgres://me@db/app?password={s}",
    "postgres://me@db/app?passwrd={s}",
    "postgres://me@db/app?sslpassword={s}",
    "postgres://me@db/app?sslmode=require&{s}",
    "postgres://me@db/app?sslmode={s}",
    "postgres://me@db/app?{s}=x",
    "postgres://me@db/app#{s}",
    "postgres://:{s}@/app?host=/run/pg",
    " postgres://me:{s}@db/app",
    "\"postgres://me:{s}@db/app\"",
    "mysql://me:{s}@db/app",
    "redis://:{s}@db",
    "jdbc:postgresql://db/app?user=me&password={s}",
    "host=db user=me password={s}",
    "Server=db;Password={s};Database=app",
    "password = {s}",
    "me:{s}@db/app",
    "//me:{s}@db/app",
    "sqlite://me:{s}@db/app",
    "sqlite:/x?key={s}",
    "file:/x?key={s}",
    "http://me:{s}@host:2379",
    "http://{s}@host:2379",
    "https://me:{s}@host/v1/events?token={s}",
    "https://host/v1/events?token={s}",
    "https://me:{s}@host:port/",
    "http://a:2379,http://me:{s}@b:2379",
];

/// Two halves, each long enough to be recognised, and between them what a URL's grammar gives a meaning to.
fn secret(random: &mut StdRng) -> (String, [String; 2]) {
    const BETWEEN: [&str; 16] =
        ["", "", "%40", "@", ":", "/", "?", "#", "&", "=", "%", "%zz", " ", "\n", "'", "$"];
    let half = |random: &mut StdRng| Alphanumeric.sample_string(random, 9);
    let halves = [half(random), half(random)];
    (halves.join(BETWEEN[random.random_range(0..BETWEEN.len())]), halves)
}

#[test]
fn a_secret_anywhere_in_a_url_is_in_no_message_and_in_no_output() {
    let (rows, mut random) = (rows(), StdRng::seed_from_u64(SEED));
    let mut cases = Vec::new();
    for _ in 0..ROUNDS {
        for form in FORMS {
            let (secret, halves) = secret(&mut random);
            cases.push((form.replace("{s}", &secret), halves));
        }
    }
    let (shown, counts) = (Mutex::new(Vec::new()), Mutex::new((0_usize, 0_usize)));
    for_each(&cases, |(text, halves)| {
        let look = |place: &str, printed: &str| {
            if halves.iter().any(|half| printed.contains(half)) {
                shown.lock().expect("whole").push(format!("{place} = {text:?} → {printed}"));
            }
        };
        look("redacted", &redacted(text));
        look("a database", &format!("{:?}", text.parse::<Database>()));
        look("a lease store", &format!("{:?}", PostgresConfig::new(text)));
        let takes = |kind: &str| ["database", "url", "endpoints", "path"].contains(&kind);
        for row in rows.iter().filter(|row| takes(&row.kind) || row.key == "leaderElection.region") {
            let message = refusal(&["status"], &[(&row.env, text)]);
            let mut counts = counts.lock().expect("whole");
            counts.0 += usize::from(message.is_some());
            counts.1 += usize::from(message.is_none());
            drop(counts);
            look(&row.env, &message.unwrap_or_default());
        }
        for args in [
            ["status", text],
            ["--config", text],
            ["--mode", text],
            ["--postgres-url-file", text],
            ["--nonsense", text],
        ] {
            look(args[0], &refusal(&args, &[]).unwrap_or_default());
        }
    });
    println!(
        "URLs with a secret: {}; {:?} refused and accepted by settings",
        cases.len(),
        counts.lock().expect("whole")
    );
    let shown = shown.into_inner().expect("whole");
    assert!(shown.is_empty(), "seed {SEED}, {} times:\n{}", shown.len(), shown.join("\n"));
}

/// The real binary with every log on, dependencies' too, where nobody answers.
#[test]
fn the_binary_prints_no_secret_even_with_every_log_on() {
    const SECRET: &str = "hunter2";
    let folder = TempDir::new().expect("a folder");
    let password = folder.path().join("password");
    std::fs::write(&password, SECRET).expect("written");
    let file = password.display().to_string();
    for args in [
        &["--mode", "postgres", "--postgres-url", "postgres://me:hunter2@127.0.0.1:1/x", "status"][..],
        &["--mode", "postgres", "--postgres-url", "postgres://me@127.0.0.1:1/x?password=hunter2", "status"],
        &["--mode", "postgres", "--postgres-url", "postgres://me:hunter2@[::1]:1/x", "status"],
        &["--mode", "postgres", "--postgres-url", "postgres://me:hunter2@127.0.0.1:1/x", "config"],
        &[
            "--mode",
            "postgres",
            "--postgres-url",
            "postgres://me:hunter2@127.0.0.1:1/x?passwrd=hunter2",
            "status",
        ],
        &[
            "--mode",
            "etcd",
            "--etcd-endpoints",
            "http://127.0.0.1:1",
            "--etcd-user",
            "me",
            "--etcd-password-file",
            &file,
            "status",
        ],
        &["--mode", "etcd", "--etcd-endpoints", "http://me:hunter2@127.0.0.1:1", "status"],
        &["--mode", "etcd", "--etcd-endpoints", "http://me:hunter2@127.0.0.1:1", "config"],
        &["--sqlite-path", "postgres://me:hunter2@127.0.0.1:1/x", "status"],
        &["worker", "ledger", "--ledger-db-url", "postgres://me:hunter2@127.0.0.1:1/x", "--migrate"],
        &["worker", "outbox-forwarder", "--outbox-url", "postgres://me:hunter2@127.0.0.1:1/x", "--migrate"],
        &["worker", "sidecar", "--ledger-url", "http://me:hunter2@127.0.0.1:1"],
        &["status", "postgres://me:hunter2@db/app"],
        &["worker", "ledger", "--ledger-db-ulr=postgres://me:hunter2@db/app"],
    ] {
        let args = [&["--log", "trace", "--timeout", "2s"][..], args].concat();
        let (code, out, err) = run(&folder, &args, &[]);
        assert!(code != 0 || args.contains(&"config"), "{args:?}: {out}{err}");
        assert!(!out.contains(SECRET) && !err.contains(SECRET), "{args:?}: {out}{err}");
        let named = std::fs::read_dir(folder.path()).expect("a folder").flatten();
        let named: Vec<_> = named.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        assert!(named.iter().all(|name| !name.contains(SECRET)), "{args:?}: {named:?}");
    }
}

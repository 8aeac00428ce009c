//! `leasehold migrate` and `migrateFrom`, between two real stores (M-1).

use lease_testbed::{Postgres, PostgresOptions, Process, full_pipe, wait_until};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use crate::common::Leasehold;
use crate::store::{LIMIT, Store};

const LEASE: &str = "outbox-forwarder";

/// One environment that reaches an SQLite file and a server; the mode is each command's own.
struct Stores {
    both: Store,
    server: Postgres,
}

impl Stores {
    async fn start() -> Self {
        let server = Postgres::start(PostgresOptions::default()).await.expect("a server");
        let cli = Leasehold::sqlite().with("SPENDGUARD_LEADER_POSTGRES_URL", &server.url());
        Self { both: Store::reached_by(cli), server }
    }

    /// A program that says its epoch, under a lease in `mode`.
    fn guarded(&self, mode: &str, more: &[&str]) -> Process {
        let command = ["--", "sh", "-c", "echo leads as $LEASEHOLD_EPOCH; exec sleep 1000"];
        let args = [&["run", "--lease", LEASE, "--mode", mode, "--ttl", "2s"], more, &command].concat();
        self.both.start(&args)
    }

    async fn state(&self, mode: &str) -> String {
        let status = self.both.run(&["status", LEASE, "--mode", mode, "--json"]).await.json();
        status[0]["state"].as_str().expect("a state").to_owned()
    }
}

async fn epoch(process: &Process) -> u64 {
    let line = process.wait_for_line("leads as ", LIMIT).await.expect("it leads");
    line.rsplit_once(' ').and_then(|(_, epoch)| epoch.parse().ok()).expect("an epoch")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_lease_moves_and_moves_back_and_epochs_rise() {
    let stores = Stores::start().await;
    stores.both.run(&["init", "--new", LEASE, "--ttl", "2s"]).await.ok();
    let old = stores.guarded("sqlite", &[]);
    let first = epoch(&old).await;

    let moved = stores
        .both
        .run(&["migrate", LEASE, "--migrate-from", "sqlite", "--mode", "postgres", "--ttl", "2s"])
        .await;
    let said = moved.ok();
    for step in [
        "prepared the new",
        "asked the holder",
        "sealed the old",
        "the first candidate leads at once",
        "lives in",
    ] {
        assert!(said.contains(step), "{step}: {said}");
    }
    old.wait_for_line("moved to postgres as", LIMIT).await.expect("the old mode says where it went");
    assert_eq!(
        (stores.state("sqlite").await, stores.state("postgres").await),
        ("sealed".into(), "free".into())
    );
    let new = stores.guarded("postgres", &[]);
    let second = epoch(&new).await;
    assert!(second > first, "{first} {second}");

    // Again changes nothing, back is a move like any other.
    stores
        .both
        .run(&["migrate", LEASE, "--migrate-from", "sqlite", "--mode", "postgres", "--ttl", "2s"])
        .await
        .ok();
    stores
        .both
        .run(&["migrate", LEASE, "--migrate-from", "postgres", "--mode", "sqlite", "--ttl", "2s"])
        .await
        .ok();
    let above = async || {
        let epochs = old.lines().into_iter().filter_map(|line| line.strip_prefix("leads as ")?.parse().ok());
        epochs.max().is_some_and(|epoch: u64| epoch > second)
    };
    wait_until("the first program leads again, above all epochs before", LIMIT, above)
        .await
        .expect("in time");
    assert_eq!(stores.state("postgres").await, "sealed");
}

/// In its middle nobody may lead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_whose_progress_nobody_reads_is_brought_to_its_end() {
    let stores = Stores::start().await;
    stores.both.run(&["init", "--new", LEASE, "--ttl", "2s"]).await.ok();
    let (_output, to_output) = full_pipe().expect("a pipe");
    let args = ["migrate", LEASE, "--migrate-from", "sqlite", "--mode", "postgres", "--ttl", "2s"];
    let _moving = stores.both.command(&args).stdout(to_output).spawn().expect("it starts");
    let moved = async || {
        let status = stores.both.run(&["status", LEASE, "--mode", "postgres", "--json"]).await;
        status.code == 0 && status.json()[0]["state"] == "free"
    };
    wait_until("the lease is free in the new store", LIMIT, moved).await.expect("in time");
    assert_eq!(stores.state("sqlite").await, "sealed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_of_the_new_mode_move_the_lease_themselves_and_lead_after_the_old_ones() {
    let stores = Stores::start().await;
    stores.both.run(&["init", "--new", LEASE, "--ttl", "2s"]).await.ok();
    stores.both.run(&["migrate-schema", "--mode", "postgres"]).await.ok();
    let old = stores.guarded("sqlite", &[]);
    let first = epoch(&old).await;
    let new = [
        stores.guarded("postgres", &["--migrate-from", "sqlite"]),
        stores.guarded("postgres", &["--migrate-from", "sqlite"]),
    ];
    let second = tokio::select! {
        second = epoch(&new[0]) => second,
        second = epoch(&new[1]) => second,
    };
    assert!(second > first, "{first} {second}");
    old.wait_for_line("moved to postgres as", LIMIT).await.expect("the old mode says where it went");
    assert_eq!(
        (stores.state("sqlite").await, stores.state("postgres").await),
        ("sealed".into(), "held".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_change_of_mode_leads_nowhere_and_says_why() {
    let stores = Stores::start().await;
    stores.both.run(&["init", "--new", LEASE, "--ttl", "2s"]).await.ok();
    stores.both.run(&["migrate-schema", "--mode", "postgres"]).await.ok();
    let old = stores.guarded("sqlite", &[]);
    epoch(&old).await;
    let new = stores.guarded("postgres", &[]);
    new.wait_for_line("no such lease in this store; waiting", LIMIT).await.expect("it says why it waits");
    assert!(!new.lines().iter().any(|line| line.contains("leads as")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_open_registers_are_an_alarm_and_nothing_is_written() {
    let stores = Stores::start().await;
    for mode in ["sqlite", "postgres"] {
        stores.both.run(&["init", "--new", LEASE, "--mode", mode]).await.ok();
    }
    let refused =
        stores.both.run(&["migrate", LEASE, "--migrate-from", "sqlite", "--mode", "postgres"]).await;
    refused.failed(&["open in sqlite and in postgres", "two may lead"]);
    assert_eq!(
        (stores.state("sqlite").await, stores.state("postgres").await),
        ("free".into(), "free".into())
    );

    // What the message names: the page has the statements, and the way is free once one of them was run.
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operating.md"))
        .expect("a page");
    let section =
        page.split("## A lease that is open in two stores").nth(1).expect("the section that it names");
    let statement = |store: &str| -> String {
        let row = section.lines().find(|line| line.contains(&format!("| {store} |"))).expect("a row");
        row.split('`').nth(1).expect("a statement").to_owned()
    };
    let migrate =
        async |from, to| stores.both.run(&["migrate", LEASE, "--migrate-from", from, "--mode", to]).await;
    refused.failed(&["docs/operating.md", "A lease that is open in two stores"]);
    stores.server.psql(&statement("Postgres")).await.expect("it is deleted");
    migrate("sqlite", "postgres").await.ok();
    assert_eq!(stores.state("sqlite").await, "sealed");

    let leases = SqliteConnectOptions::new().filename(stores.both.cli.path("leases.db"));
    let mut leases = SqliteConnection::connect_with(&leases).await.expect("the file");
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement("SQLite")))
        .execute(&mut leases)
        .await
        .expect("it is deleted");
    stores.both.run(&["init", LEASE, "--mode", "sqlite"]).await.ok();
    migrate("sqlite", "postgres").await.failed(&["two may lead"]);
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement("SQLite")))
        .execute(&mut leases)
        .await
        .expect("it is deleted");
    migrate("postgres", "sqlite").await.ok();
    assert_eq!(stores.state("postgres").await, "sealed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_without_a_source_or_from_itself_is_refused_before_it_starts() {
    let cli = Leasehold::sqlite();
    cli.run(&["migrate", LEASE]).refused(&["migrateFrom", "--migrate-from postgres"]);
    cli.run(&["migrate", LEASE, "--migrate-from", "sqlite"])
        .refused(&["--migrate-from = \"sqlite\"", "remove this"]);
    cli.run(&["migrate", LEASE, "--migrate-from", "disabled"])
        .refused(&["--migrate-from = \"disabled\"", "no lease"]);
    cli.run(&["migrate", LEASE, "--migrate-from", "consul"])
        .refused(&["--migrate-from = \"consul\"", "use one of"]);
}

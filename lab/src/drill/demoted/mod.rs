//! A failover that closes no connection, and what else makes a database turn away from programs that go on: everybody
//! says so while it lasts, and writes again by itself.

mod turns;
mod writes;

use std::time::Duration;

use anyhow::Context;
use futures::future::try_join_all;
use lease_testbed::{Postgres, SmallDisk, StandbyOptions};
use sqlx::postgres::PgPoolOptions;

use super::books::Books;
use super::load::{Client, Load};
use super::pods::PATIENCE;
use super::report::DrillReport;
use super::storm::installation::Installation;
use turns::{AGES, Turns};
use writes::Writes;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the failover, not what else a database may do to its clients (which needs root rights, for a full disk)
    #[arg(long)]
    short: bool,
    /// Print steps and verdicts as JSON, and nothing else
    #[arg(long)]
    pub(super) json: bool,
    /// Break something, so that a check must fail (exit code 1)
    #[arg(long, value_enum)]
    sabotage: Option<Sabotage>,
}

/// A fault that the drill causes, so that one of its checks must fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Sabotage {
    /// The old primary goes on taking writes: nobody has anything to say
    NotDemoted,
    /// The endpoint is not turned to the new primary: nobody writes there
    NotTurned,
}

/// The bar, for everybody, from the moment in which it becomes possible.
const SOON: Duration = Duration::from_secs(10);

/// Two databases and what they hold by then, several times over.
const DISK_MEGABYTES: u32 = 128;

/// Of the leases and of the scope.
const TTL_SECONDS: u64 = 2;

/// Half of their reservations are left to the sweepers, so that all have something to do.
const CLIENTS: [Client; 2] = [
    Client { name: "one", currency: "EUR", amount_minor: 1, commits: true },
    Client { name: "two", currency: "EUR", amount_minor: 2, commits: false },
];

pub(super) async fn play(args: &Args, report: &DrillReport) -> anyhow::Result<()> {
    // Before anything else: it needs rights that not everybody has.
    let disk = if args.short {
        None
    } else {
        Some(SmallDisk::mount(DISK_MEGABYTES).context("one turn fills a disk (--short leaves it out)")?)
    };
    let installation = Installation::start(TTL_SECONDS).await?;
    let old = &installation.postgres;
    // Every commit waits for it, so that nothing is lost that was acknowledged.
    let new = old.standby(StandbyOptions::synchronous("standby")).await?;
    report.step(
        "two of each: ledger, ingest, forwarder, sweeper, sidecar; a primary and its synchronous standby",
    );
    let loads: Vec<_> =
        CLIENTS.iter().map(|client| Load::start(installation.sockets.clone(), *client)).collect();
    let there = |database: &str| {
        let url = new.superuser_url_for(database);
        PgPoolOptions::new().max_connections(4).acquire_timeout(PATIENCE).connect_lazy(&url)
    };
    let before = Writes { ledger: &installation.pool, canonical: &installation.canonical };
    before.begin("the primary", PATIENCE * 2, report).await?;
    Turns { installation: &installation, report }.are_ready("everybody is ready", PATIENCE).await;

    if !fail_over(&installation, &new, args.sabotage, report).await? {
        return Ok(());
    }
    let (ledger, canonical) = (there("ledger")?, there("canonical")?);
    let writes = Writes { ledger: &ledger, canonical: &canonical };
    let turns = Turns { installation: &installation, report };
    if !writes.begin("the new primary", SOON, report).await? {
        return Ok(());
    }
    turns.are_ready("everybody is ready again within 10 s", SOON).await;
    if let Some(disk) = &disk {
        turns.defaults_of_the_role(&new).await?;
        writes.begin("sessions with hostile defaults", SOON, report).await?;
        turns.rights_are_taken(&new).await?;
        writes.begin("the tables, once the rights are back", SOON, report).await?;
        turns.are_ready("everybody is ready again within 10 s", SOON).await;
        turns.functions_are_changed(&new).await?;
        writes.begin("the tables, after functions have changed", SOON, report).await?;
        turns.are_ready("everybody is ready again within 10 s", SOON).await;
        turns.databases_move(&new, disk).await?;
        writes.begin("another disk", SOON, report).await?;
        turns.are_ready("everybody is ready again within 10 s", SOON).await;
        turns.the_disk_is_full(disk).await?;
        writes.begin("the disk, once it has room", SOON, report).await?;
        turns.are_ready("everybody is ready again within 10 s", SOON).await;
    }

    let made: u64 = try_join_all(loads.into_iter().map(Load::finish)).await?.iter().sum();
    report.step(format!("the load ends, after {made} reservations"));
    let books = Books { ledger: &ledger, canonical: &canonical };
    books.close(PATIENCE * 2, report).await;
    books.balance(made, report).await?;
    books.delivered(report).await?;
    books.in_term(report).await?;
    Ok(())
}

/// The old primary takes no more writes and keeps its connections; the standby is promoted; new connections reach it.
/// False: there was none.
async fn fail_over(
    installation: &Installation,
    new: &Postgres,
    sabotage: Option<Sabotage>,
    report: &DrillReport,
) -> anyhow::Result<bool> {
    let (old, turns) = (&installation.postgres, Turns { installation, report });
    if sabotage != Some(Sabotage::NotDemoted) {
        old.set("default_transaction_read_only", "on").await?;
    }
    report.step("the old primary is read-only, and keeps its connections");
    if !turns
        .nobody_is_ready("while nobody can write, nobody is ready and no age is shown", "read-only", &AGES)
        .await
    {
        return Ok(false);
    }
    new.catch_up_with(old).await?;
    new.promote().await?;
    report.step("the standby is promoted");
    if sabotage != Some(Sabotage::NotTurned) {
        installation.turn_to(new);
        report.step("the endpoint leads to the new primary; connections to the old one stay open");
    }
    Ok(true)
}

//! Two of everything under load and faults: what operators' books must look like afterwards.

mod faults;
pub(super) mod installation;
mod verdicts;
pub(super) mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::future::try_join_all;
use tokio_util::sync::CancellationToken;

use super::books::OUT_OF_TERM;
use super::load::{Client, Load};
use super::pods::PATIENCE;
use super::report::DrillReport;
use installation::Installation;
use verdicts::Overdraft;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The number of changes of holder to wait for, over all leases
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    takeovers: u64,
    /// Which faults happen to whom, and when. Default: a fresh one, which is printed
    #[arg(long)]
    seed: Option<u64>,
    /// The leases' and the scope's ttl, in seconds
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=30))]
    ttl_seconds: u64,
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
    /// The ledger admits every term: rows bear epochs that were over
    Admission,
    /// The budgets have no limit, which the judge doesn't know: one is overdrawn
    Budget,
    /// An event is taken out of the canonical store
    LostEvent,
}

/// Clients that commit nearly all of their reservations.
const SPENDERS: [Client; 2] = [
    Client { name: "spender-1", currency: "EUR", amount_minor: 1, commits: true },
    Client { name: "spender-2", currency: "EUR", amount_minor: 3, commits: true },
];

/// Clients that would together overdraw a small budget if they could.
const GREEDY: [Client; 3] = [
    Client { name: "greedy-1", currency: "USD", amount_minor: 7, commits: false },
    Client { name: "greedy-2", currency: "USD", amount_minor: 5, commits: false },
    Client { name: "greedy-3", currency: "USD", amount_minor: 3, commits: false },
];

/// The average time that one takeover may take on a busy machine.
const SLOWEST: Duration = Duration::from_secs(6);

pub(super) async fn play(args: &Args, report: &DrillReport) -> anyhow::Result<()> {
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    report.step(format!("seed {seed}"));
    let installation = Installation::start(args.ttl_seconds).await?;
    report.step("two of each: ledger, ingest, forwarder, sweeper, sidecar, on one Postgres");
    match args.sabotage {
        Some(Sabotage::Admission) => installation.sabotage_admission().await?,
        Some(Sabotage::Budget) => installation.sabotage_budget().await?,
        _ => {}
    }
    let load = |client: &Client| {
        let mut sockets = installation.sockets.clone();
        // Each begins with a sidecar of its own choice.
        sockets.rotate_left(client.amount_minor as usize % 2);
        Load::start(sockets, *client)
    };
    let spenders: Vec<_> = SPENDERS.iter().map(load).collect();
    let greedy: Vec<_> = GREEDY.iter().map(load).collect();
    let overdraft = Overdraft::watch(installation.pool.clone());
    let enough = CancellationToken::new();
    let faults = tokio::join!(
        faults::happen(&installation, seed, &enough),
        progress(&installation, args, report, &enough)
    );
    let (faults, reached) = (faults.0?, faults.1);
    installation.workers().for_each(|worker| worker.heal());
    let mut told = BTreeMap::<_, usize>::new();
    faults.iter().for_each(|fault| *told.entry(*fault).or_default() += 1);
    let told: Vec<_> = told.iter().map(|(fault, count)| format!("{count} × {fault}")).collect();
    report.step(told.join(", "));
    report.check(
        format!("at least {} changes of holder", args.takeovers),
        reached >= args.takeovers,
        format!("{reached}"),
    );
    let refused: u64 = greedy.iter().map(|load| load.refused.load(Ordering::Relaxed)).sum();
    let spent: u64 = try_join_all(spenders.into_iter().map(Load::finish)).await?.iter().sum();
    let gambled: u64 = try_join_all(greedy.into_iter().map(Load::finish)).await?.iter().sum();
    report.step(format!("the load ends, after {spent} reservations in EUR and {gambled} in USD"));
    let books = installation.books();
    books.close(PATIENCE * 2, report).await;
    if args.sabotage == Some(Sabotage::LostEvent) {
        installation.lose_an_event().await?;
    }
    books.balance(spent, report).await?;
    books.delivered(report).await?;
    books.in_term(report).await?;
    verdicts::judge(&installation, overdraft.end(), refused, report).await?;
    let mut clean = 0;
    let workers: Vec<_> = installation.workers().collect();
    for worker in &workers {
        worker.lives()?;
        clean += usize::from(worker.stop().await?);
    }
    let (all, seen) = (workers.len(), format!("{clean} of {} exited with code 0", workers.len()));
    report.check("every program stops cleanly when asked to", clean == all, seen);
    Ok(())
}

/// Ends the faults when there were enough changes of holder, or no more come. Returns how many there were.
async fn progress(
    installation: &Installation,
    args: &Args,
    report: &DrillReport,
    enough: &CancellationToken,
) -> u64 {
    let began = Instant::now();
    let limit = Duration::from_secs(60) + SLOWEST * u32::try_from(args.takeovers).unwrap_or(u32::MAX);
    let (mut seen, mut told) = (0, began);
    // A late write is a matter of luck: the sabotage that admits it goes on until there is one.
    let mut shows = args.sabotage != Some(Sabotage::Admission);
    while !enough.is_cancelled() && (seen < args.takeovers || !shows) && began.elapsed() < limit {
        tokio::time::sleep(Duration::from_millis(200)).await;
        // No answer while Postgres is down.
        seen = installation.changes_of_holder().await.unwrap_or(seen);
        shows = shows || installation.books().int(OUT_OF_TERM).await.is_ok_and(|stale| stale > 0);
        if told.elapsed() > Duration::from_secs(10) {
            told = Instant::now();
            report.step(format!("{seen} of {} changes of holder", args.takeovers));
        }
    }
    enough.cancel();
    seen
}

/// The path of a sidecar's socket.
fn socket(folder: &std::path::Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.sock"))
}

/// Prepares by the program itself, as an operator would.
async fn prepare(args: &[&str]) -> anyhow::Result<()> {
    let prepared = lease_testbed::Process::command(super::pods::binary()?)?.env_clear().args(args).spawn()?;
    let status = prepared.wait(PATIENCE).await?;
    ensure!(status.success(), "leasehold {}: {}", args.join(" "), prepared.lines().join("\n"));
    Ok(())
}

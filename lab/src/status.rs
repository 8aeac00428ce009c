//! `leasehold-lab status`: how long an operator waits for the table of many leases.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt};
use lease_conformance::by_hand::held;
use lease_core::LeaseName;
use lease_stores::Mode;
use serde::Serialize;
use tokio::process::Command;

use crate::stats::Spread;

/// Run `leasehold status` on many leases, in turns with a look at one. The bar: half of the tables are printed within
/// 200 ms, from the process's start to its end.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The store.
    #[arg(long)]
    mode: Mode,
    /// The number of leases, all of them held.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    leases: u64,
    /// The number of tables.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    times: u64,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

const BAR_MS: f64 = 200.0;

/// Writes that are under way at once while the leases are made.
const AT_ONCE: usize = 16;

#[derive(Debug, Serialize)]
struct Report {
    holds: bool,
    mode: &'static str,
    leases: u64,
    bar_ms: f64,
    all: Spread,
    one: Spread,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let store = args.mode.start().await?;
    let place = store.place();
    let backend = place.connect().await?;
    let names = (0..args.leases).map(|index| LeaseName::new(format!("lease-{index:05}")));
    let names: Vec<_> = names.collect::<Result<_, _>>()?;
    let made = names.iter().map(|name| held(&*backend, name));
    futures::stream::iter(made).buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await?;

    let (mut all, mut one) = (Vec::new(), Vec::new());
    for _ in 0..args.times {
        one.push(status(&place, &[names[0].as_str()], 1).await?);
        all.push(status(&place, &[], names.len()).await?);
    }
    let (all, one) = (Spread::of(all), Spread::of(one));
    let (mode, leases) = (args.mode.as_str(), args.leases);
    let report = Report { holds: all.median_ms <= BAR_MS, mode, leases, bar_ms: BAR_MS, all, one };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("`leasehold status` on {mode}");
        println!("  all of {leases} leases  {}", report.all);
        println!("  one of them        {}", report.one);
        println!("{}  half of the tables within {BAR_MS} ms", if report.holds { "ok  " } else { "FAIL" });
    }
    Ok(crate::exit_code(report.holds))
}

/// From the start of the process to its end. It must tell of so many leases.
async fn status(place: &lease_stores::Place, names: &[&str], leases: usize) -> anyhow::Result<Duration> {
    let binary = std::env::current_exe()?.with_file_name("leasehold");
    let mut command = Command::new(&binary);
    command.args(place.flags()).arg("status").args(names).env_clear().kill_on_drop(true);
    let began = Instant::now();
    let done = command.output().await.with_context(|| format!("{} can't be started", binary.display()))?;
    let took = began.elapsed();
    let (told, failed) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure!(done.status.success(), "leasehold status: {failed}");
    let told = told.lines().filter(|line| line.starts_with("lease-")).count();
    ensure!(told == leases, "it told of {told} leases, not of {leases}");
    Ok(took)
}

//! `leasehold-lab demo`: three forwarders, one lease, and a minute of trouble, judged by what is left behind.
//!
//! [`stores`] makes the stores, [`programs`] runs the real programs, [`script`] is what happens, [`witness`] looks at the
//! stores from outside, [`screen`] shows it, [`verdict`] judges it.

mod gaps;
pub(crate) mod programs;
mod screen;
mod script;
pub(crate) mod stores;
mod timeline;
mod verdict;
pub(crate) mod witness;
mod writer;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use lease_stores::Mode;
use programs::Programs;
use screen::Screen;
use stores::DemoStores;
pub(crate) use writer::DemoWriter;

/// The leases' ttl: short, so that nobody has to wait for a failover.
pub(crate) const TTL: Duration = Duration::from_secs(3);

/// Watch three forwarders share one lease through stops, kills and pauses, and judge what they leave behind
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The store of the leases and of the data
    #[arg(long, value_enum, default_value = "sqlite")]
    mode: Mode,
    /// The least number of outbox rows
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// Outbox rows written in a second
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(100..=100_000))]
    rate: u64,
    /// Print what happened and the verdicts as JSON on standard output; the story goes to standard error
    #[arg(long)]
    json: bool,
    /// Keep the folder with the databases and the logs
    #[arg(long)]
    keep: bool,
}

/// Runs the demo. Dropped, it ends everything that it started.
pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let screen = Arc::new(Screen::new(args.json, args.rows));
    screen.title(&args);
    screen.note("  starting the stores, an ingest and three forwarders …");
    let stores = DemoStores::make(args.mode).await.context("cannot prepare the stores")?;
    let mut programs = Programs::start(&stores, screen.clone()).await?;
    let writer =
        DemoWriter::start(&stores.outbox, screen.board().written.clone(), args.rows, args.rate).await?;
    let watching = screen.clone().watch(stores.witness());
    let played = script::play(&stores, &mut programs, writer, &screen).await;
    watching.abort();
    screen.end();
    let logs = programs.logs();
    // The logs say why a failed demo failed.
    if args.keep || played.is_err() {
        stores.keep(&logs, &screen);
    }
    let report = verdict::judge(&stores, played?, &screen).await?;
    report.show(&screen);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    Ok(crate::exit_code(report.holds))
}

//! `leasehold-lab conformance`: judges a store that somebody runs, in a place of its own that is cleaned up after.

mod table;

use std::pin::pin;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use lease_conformance::{CaseReport, Report, Verdict};
use lease_stores::{Mode, StoreArgs};
use tokio_util::sync::CancellationToken;

/// The time limit for cases to be dropped: they do nothing that lasts without letting others run.
const STOPPING: Duration = Duration::from_secs(10);

/// Judge a store by the conformance suite: each case of every rule. What the suite makes lies in a schema or folder of
/// its own and is removed afterwards, also after Ctrl-C.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The store.
    #[arg(long, required_unless_present = "table")]
    mode: Option<Mode>,
    /// Judge nothing: print what differs between the stores, as docs/conformance.md has it.
    #[arg(long)]
    table: bool,
    #[command(flatten)]
    store: StoreArgs,
    /// Only the cases whose id contains this.
    #[arg(long, default_value = "")]
    filter: String,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Some(mode) = args.mode.filter(|_| !args.table) else { return table::print() };
    let mut interrupted = pin!(crate::interrupt::interrupted());
    let is_named = args.store.names_a_server(mode);
    let store = tokio::select! {
        store = args.store.open(mode) => store,
        // Of servers that are started for it nothing stays; on somebody's it is brief, and cleaned up after below.
        signal = &mut interrupted, if !is_named => {
            eprintln!("interrupted: nothing was made");
            return Ok(ExitCode::from(signal.exit_code()));
        }
    };
    let store = match store {
        Ok(store) => store,
        Err(error) => {
            eprintln!("error: {error:#}");
            return Ok(ExitCode::from(2));
        }
    };
    let (cancel, harness) = (CancellationToken::new(), store.clone());
    let (filter, quiet, cancelled) = (args.filter, args.json, cancel.clone());
    let mut judged = tokio::task::spawn_blocking(move || {
        let done = AtomicUsize::new(0);
        let tell = |case: &CaseReport| {
            let count = done.fetch_add(1, Ordering::SeqCst) + 1;
            if !quiet {
                tell(count, case);
            }
        };
        lease_conformance::report(harness, &filter, tell, &cancelled)
    });
    let judged = tokio::select! {
        judged = &mut judged => Ok(judged?),
        signal = interrupted => {
            cancel.cancel();
            // A case that is still under way would make again what is cleaned up.
            let _ = tokio::time::timeout(STOPPING, judged).await;
            Err(signal)
        }
    };
    let cleaned = store.clean_up().await;
    let judged = match judged {
        Ok(judged) => judged,
        Err(signal) => {
            match cleaned {
                Ok(()) => eprintln!("interrupted: everything that the suite made has been removed"),
                Err(error) => eprintln!("interrupted: {error:#}"),
            }
            drop(store);
            // Not by returning, which would wait for a case that can't be dropped. Servers are ended by a process beside.
            std::process::exit(signal.exit_code().into());
        }
    };
    let report = judged.map_err(|error| anyhow!(error));
    if let Ok(report) = &report {
        if args.json {
            println!("{}", serde_json::to_string_pretty(report)?);
        } else {
            conclude(report);
        }
    }
    // The verdict comes first: what stays behind is another matter.
    if let Err(error) = &cleaned {
        eprintln!("error: {error:#}");
    }
    Ok(crate::exit_code(report?.is_good() && cleaned.is_ok()))
}

fn tell(count: usize, case: &CaseReport) {
    match &case.verdict {
        Verdict::Passed { seconds } => println!("{count:>4}  ok       {} ({seconds:.1} s)", case.id),
        Verdict::Failed { why } => println!("{count:>4}  FAILED   {}\n      {why}", case.id),
        Verdict::Ignored { because } => println!("{count:>4}  ignored  {}, because {because}", case.id),
    }
}

fn conclude(report: &Report) {
    let (passed, failed, ignored) = report.counts();
    println!("\n{}: {passed} passed, {failed} failed, {ignored} ignored", report.store);
    for case in &report.cases {
        if let Verdict::Failed { why } = &case.verdict {
            println!("  FAILED   {}\n      {why}", case.id);
        }
    }
}

//! `leasehold migrate`: move a lease to another store while its workers run (M-1).

use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use lease_core::migrate::{MayMove, MigrateError, Move, Progress};
use lease_core::{Clock, LeaseName};
use lease_settings::{App, Failure, Together};
use lease_worker_common::shutdown;
use serde_json::json;
use tokio::task::spawn_blocking;

use super::output::line;
use super::session::Target;

/// Move leases into this mode's store from another one, while their workers run
///
/// Prepares the lease in the new store, asks its holder to step down, seals the old register and opens the new one.
/// Workers of the old mode then wait, and say where the lease went; those of the new mode lead within one hand-over.
/// Any step may be interrupted and run again, also by several at once.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  leasehold migrate --migrate-from postgres --mode etcd outbox-forwarder
  leasehold migrate --migrate-from etcd --mode postgres outbox-forwarder     back again

Workers do the same by themselves with leaderElection.migrateFrom. It waits for the holder as long as it takes; Ctrl-C
stops it, what was done stays, and the next run goes on from there.")]
pub(crate) struct Migrate {
    /// Write JSON, one line a step
    #[arg(long)]
    json: bool,
    /// The leases [default: leaderElection.leaseName]
    #[arg(value_name = "LEASE")]
    leases: Vec<LeaseName>,
}

const POLL: Duration = Duration::from_millis(200);

pub(super) fn run(args: &Migrate, app: &App) -> Result<ExitCode, Failure> {
    let settings = app.settings();
    let (leases, election, by, from, to) = (
        super::leases(&args.leases, settings),
        settings.leader_election(),
        settings.operator(),
        Target::moved_from(app),
        Target::of(app),
    )
        .together()?;
    let max_ttl: Duration = election.max_ttl_ms.unwrap_or(election.ttl_ms).into();
    app.block_on(async {
        let stop = shutdown::token().map_err(|error| Failure::new(error.to_string()))?;
        to.prepare().await?;
        let (from, to) = (from.connect().await?, to.connect_or_create().await?);
        for name in leases {
            let job = Move {
                name: name.clone(),
                from: from.backend.clone(),
                to: to.backend.clone(),
                max_ttl,
                poll_every: POLL,
                call_limit: to.target.limit,
                by: by.clone(),
                may_move: MayMove::Any,
            };
            // In the middle of a move nobody may lead: it waits for no reader, and goes on when there is none.
            let (steps, to_print) = mpsc::channel();
            let printing = spawn_blocking(|| to_print.into_iter().for_each(|text: String| drop(line(text))));
            let (lease, json) = (&name, args.json);
            let tell = move |progress: Progress| {
                let _ = steps.send(match json {
                    true => json!({ "lease": lease, "step": progress.to_string() }).to_string(),
                    false => format!("{lease}: {progress}"),
                });
            };
            let clock = Clock::boot();
            let moving = async {
                job.run(&clock, tell).await.map_err(explain)?;
                printing.await.map_err(|error| Failure::new(error.to_string()))
            };
            tokio::select! {
                moved = moving => moved?,
                () = stop.cancelled() => return Err(Failure::new(format!(
                    "{name} is not moved yet: run this again to go on; until then `leasehold status` shows where it is"
                ))),
            }
            match args.json {
                true => line(json!({ "lease": name, "mode": to.target.store.mode(), "moved": true }))?,
                false => line(format!("{name} lives in {} now", to.target.store))?,
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn explain(error: MigrateError) -> Failure {
    Failure::new(error.to_string())
}

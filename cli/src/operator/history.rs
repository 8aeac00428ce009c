//! `leasehold history`: who held a lease.

use std::process::ExitCode;

use lease_core::LeaseName;
use lease_settings::{App, Failure, Together};

use super::output::{line, wall};
use super::session::Target;

/// Show a lease's changes of holder, oldest first
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  leasehold history outbox-forwarder
  leasehold history outbox-forwarder --limit 1000 --json")]
pub(crate) struct HistoryArgs {
    /// At most this many rows, the newest
    #[arg(long, value_name = "N", default_value_t = 20, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Write JSON, one line a row
    #[arg(long)]
    json: bool,
    /// The lease [default: leaderElection.leaseName]
    #[arg(id = "LEASE")]
    lease: Option<LeaseName>,
}

pub(super) fn run(args: &HistoryArgs, app: &App) -> Result<ExitCode, Failure> {
    let name = super::lease(args.lease.as_ref(), app.settings());
    let (name, target) = (name, Target::of(app)).together()?;
    app.block_on(async {
        let session = target.connect().await?;
        if !session.backend.capabilities().history {
            return Err(Failure::new(format!(
                "a store of mode {} keeps no history: `leasehold status {name}` shows the last holder, and `leasehold \
                 watch {name}` what happens from now on",
                session.backend.capabilities().name
            )));
        }
        let rows = session.read(session.backend.history(&name, args.limit)).await?;
        if rows.is_empty() {
            if session.read(session.backend.observe(&name)).await?.record.is_none() {
                return Err(Failure::new(format!(
                    "there is no lease {name} in this store, and no history of one"
                )));
            }
            if !args.json {
                line(format!("nobody has held lease {name} yet"))?;
            }
        }
        for row in rows {
            if args.json {
                line(serde_json::to_value(&row).unwrap_or_default())?;
            } else {
                let note = if row.note.is_empty() { String::new() } else { format!("  {}", row.note) };
                line(format!(
                    "{}  {:<12}  {:<24}  epoch {:<8}  transition {}{note}",
                    wall(row.event_at),
                    row.event_type.as_str(),
                    if row.holder_workload_id.is_empty() { "(nobody)" } else { &row.holder_workload_id },
                    row.epoch,
                    row.transition_count,
                ))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

//! `leasehold fence raise` (F-4).

use std::process::ExitCode;

use lease_core::{LeaseName, admin};
use lease_settings::{App, Failure};

use super::output::note;
use super::revoke::report;
use super::session::Target;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum FenceCommand {
    Raise(Raise),
}

/// End the present term and make every later epoch exceed N
///
/// For one case only: after a restore or a failover that lost writes, a resource refuses every new leader with
/// FENCING_EPOCH_STALE, because it has admitted an epoch that the store no longer knows.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  leasehold fence raise outbox-forwarder --above 4711")]
pub(crate) struct Raise {
    /// The greatest epoch that any resource has admitted
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(..i64::MAX as u64))]
    above: u64,
    /// Why, for the history [default: who ran the command]
    #[arg(long, value_name = "TEXT", value_parser = note)]
    note: Option<String>,
    /// Write JSON
    #[arg(long)]
    json: bool,
    /// The lease [default: leaderElection.leaseName]
    #[arg(id = "LEASE")]
    lease: Option<LeaseName>,
}

pub(super) fn run(FenceCommand::Raise(args): &FenceCommand, app: &App) -> Result<ExitCode, Failure> {
    let name = super::lease(args.lease.as_ref(), app.settings())?;
    let note = match &args.note {
        Some(note) => note.clone(),
        None => format!("fence raised by {}", app.settings().operator()?),
    };
    let target = Target::of(app)?;
    app.block_on(async {
        let session = target.connect().await?;
        let change = admin::fence_raise(&*session.backend, &name, args.above, &note);
        let written = session.change(change).await?;
        report(&name, &written, args.json, "the fence was raised")?;
        Ok(ExitCode::SUCCESS)
    })
}

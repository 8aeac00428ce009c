//! `leasehold fence raise` and `leasehold fence lower` (F-4): a lease and a fence that don't agree about epochs.

use std::process::ExitCode;

use lease_core::fence::Lowering;
use lease_core::{Grant, LeaseName, Term, admin};
use lease_settings::{App, Failure, Secret, Together};
use lease_worker_common::database::{Database, StoreError};
use lease_worker_common::marks;
use serde_json::json;

use super::output::{line, note};
use super::revoke::report;
use super::session::Target;
use super::settings::Operator;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum FenceCommand {
    Raise(Raise),
    Lower(Lower),
}

/// End the present term and make every later epoch exceed N
///
/// For one case only: after a restore or a failover that lost writes, a resource refuses every new leader with
/// FENCING_EPOCH_STALE, because it has admitted an epoch that the store no longer knows.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  leasehold fence raise outbox-forwarder --above 4711")]
pub(crate) struct Raise {
    /// The greatest epoch that any resource has admitted, at most 2^61
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(..=Term::MAX_ABOVE))]
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

/// Set a poisoned mark back: a resource refuses every term because of an epoch that no lease ever issued
///
/// The mark is set to the lease's present term, never below the greatest epoch that the lease's register has issued. A
/// row in the database's table leasehold_fence_lowerings tells who did it, when and why. The database is the one that
/// holds the effects; name it by LEASEHOLD_FENCE_DATABASE_URL, as a user that owns its tables.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  leasehold fence lower outbox-forwarder --resource canonical-ingest/outbox-forwarder --note 'INC-78'
  leasehold fence lower ttl-sweeper --resource ttl_sweeper --to 4711    4711 is the last epoch that was real")]
pub(crate) struct Lower {
    /// The resource whose mark it is: audit_outbox, ttl_sweeper, canonical-ingest/LEASE, or your own program's
    #[arg(long, value_name = "NAME")]
    resource: String,
    /// The greatest epoch that any lease has really issued for it [default: the register's present one]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(..=Term::MAX_ABOVE))]
    to: Option<u64>,
    /// Why, for audits [default: who ran the command]
    #[arg(long, value_name = "TEXT", value_parser = note)]
    note: Option<String>,
    /// Write JSON
    #[arg(long)]
    json: bool,
    /// The lease whose terms act on the resource [default: leaderElection.leaseName]
    #[arg(id = "LEASE")]
    lease: Option<LeaseName>,
}

pub(super) fn run(command: &FenceCommand, app: &App) -> Result<ExitCode, Failure> {
    match command {
        FenceCommand::Raise(args) => raise(args, app),
        FenceCommand::Lower(args) => lower(args, app),
    }
}

fn raise(args: &Raise, app: &App) -> Result<ExitCode, Failure> {
    let name = super::lease(args.lease.as_ref(), app.settings());
    let note = match &args.note {
        Some(note) => Ok(note.clone()),
        None => app.settings().operator().map(|by| format!("fence raised by {by}")),
    };
    let (name, note, target) = (name, note, Target::of(app)).together()?;
    app.block_on(async {
        let session = target.connect().await?;
        let change = admin::fence_raise(&*session.backend, &name, args.above, &note);
        let written = session.change(change).await?;
        report(&name, &written, args.json, "the fence was raised")?;
        Ok(ExitCode::SUCCESS)
    })
}

fn lower(args: &Lower, app: &App) -> Result<ExitCode, Failure> {
    let settings = app.settings();
    let operator: Operator = settings.block()?;
    let limit = operator.timeout_ms.into();
    let url = operator.fence_database_url.as_ref().map(Secret::expose);
    let (name, database, by, target) = (
        super::lease(args.lease.as_ref(), settings),
        settings.parsed::<Operator, Database>("fenceDatabaseUrl", url),
        settings.operator(),
        Target::of(app),
    )
        .together()?;
    let (resource, note) = (args.resource.as_str(), args.note.clone().unwrap_or_default());
    let failed =
        |error: StoreError| Failure::new(format!("the fence's database ({database}) failed: {error}"));
    app.block_on(async {
        // The mark first: what is admitted after this look moves it, and then nothing is changed.
        let Some(seen) = marks::mark(&database, resource, limit).await.map_err(failed)? else {
            return Err(Failure::new(format!("{database} has no mark of a resource {resource}: nothing to set back")));
        };
        let session = target.connect().await?;
        let register = session.read(session.backend.observe(&name)).await?;
        let record = register.record.ok_or_else(|| {
            Failure::new(format!("there is no lease {name} in this store: nothing says which epochs were issued"))
        })?;
        if let Some(note) = &record.sealed {
            return Err(Failure::new(format!("lease {name} was moved: {note}; name the store that it lives in now")));
        }
        let lowering = Lowering::new(seen, &record, args.to, Grant::random(), by, note)
            .map_err(|error| Failure::new(format!("{resource}, lease {name}: {error}")))?;
        if !marks::lower(&database, resource, &lowering, limit).await.map_err(failed)? {
            return Err(Failure::new(format!("the mark of {resource} has moved meanwhile: look again")));
        }
        let Lowering { seen, to, by, .. } = &lowering;
        if args.json {
            let (from, to) = (seen.epoch, to.epoch);
            line(json!({ "lease": name, "resource": resource, "from": from, "to": to, "by": by }))?;
        } else {
            line(format!(
                "the mark of {resource} was set back from epoch {} to {}: terms of lease {name} are admitted again",
                seen.epoch, to.epoch
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

//! `leasehold revoke`: end a term from outside (H-3).

use std::process::ExitCode;

use lease_core::internal::deadline;
use lease_core::{LeaseName, Observation, admin};
use lease_settings::{App, Failure};
use serde_json::json;

use super::output::{line, note, span};
use super::session::Target;

/// End the present term without asking its holder
///
/// The holder's next renewal is refused and its work stops. Candidates take the lease after watching it for one ttl.
/// Prefer `leasehold step-down` while the holder still answers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  leasehold revoke outbox-forwarder --note 'stuck since 02:40, see INC-77'
  leasehold revoke outbox-forwarder --holder-is-dead --note 'node was powered off'")]
pub(crate) struct Revoke {
    /// Nothing of the holder runs any more (its machine is off, its processes are gone): the lease is free at once.
    /// If this isn't true, two can lead
    #[arg(long)]
    holder_is_dead: bool,
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

pub(super) fn run(args: &Revoke, app: &App) -> Result<ExitCode, Failure> {
    let name = super::lease(args.lease.as_ref(), app.settings())?;
    let note = match &args.note {
        Some(note) => note.clone(),
        None => format!("revoked by {}", app.settings().operator()?),
    };
    let target = Target::of(app)?;
    app.block_on(async {
        let session = target.connect().await?;
        let change = admin::revoke(&*session.backend, &name, args.holder_is_dead, &note);
        let written = session.change(change).await?;
        report(&name, &written, args.json, "the term was ended")?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Prints the lease's state after an operator ended a term.
pub(super) fn report(name: &LeaseName, written: &Observation, json: bool, done: &str) -> Result<(), Failure> {
    let Some(record) = &written.record else { return Ok(()) };
    let free = record.grant.is_none();
    if json {
        return line(json!({
            "lease": name, "epoch": record.epoch, "free": free, "transitions": record.transitions,
            "last_holder": record.holder,
        }));
    }
    let next = if free {
        "the lease is free now".to_owned()
    } else {
        format!("candidates take it after watching it for {}", span(deadline::lengthened(record.ttl())))
    };
    let whose =
        if record.holder.is_empty() { String::new() } else { format!(" (it was {}'s)", record.holder) };
    line(format!("lease {name}{whose}: {done}, every later epoch exceeds {}; {next}", record.epoch))
}

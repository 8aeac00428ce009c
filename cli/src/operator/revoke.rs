//! `leasehold revoke`: end a term from outside (H-3).

use std::process::ExitCode;
use std::time::Duration;

use lease_core::internal::deadline;
use lease_core::{LONGEST_HOLD_OFF, LeaseName, Observation, Revocation, WorkloadId, admin};
use lease_settings::{App, Failure, Together, parse_millis};
use serde_json::json;

use super::output::{line, note, span};
use super::session::Target;

/// End the present term without asking its holder
///
/// The holder's next renewal is refused and its work stops. Candidates take the lease after watching it for one ttl, the
/// one that was revoked after the others. Prefer `leasehold step-down` while the holder still answers.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  leasehold revoke outbox-forwarder --note 'stuck since 02:40, see INC-77'
  leasehold revoke outbox-forwarder --for 1h --note 'leads, and does nothing'
  leasehold revoke outbox-forwarder --except forwarder-7c9-x2 --for 10m
  leasehold revoke outbox-forwarder --holder-is-dead --note 'node was powered off'")]
pub(crate) struct RevokeArgs {
    /// Nothing of the holder runs any more (its machine is off, its processes are gone): the lease is free at once.
    /// If this isn't true, two can lead
    #[arg(long)]
    holder_is_dead: bool,
    /// The workload that comes after the others, by its name [default: the holder whose term ends]
    #[arg(long, value_name = "HOLDER", value_parser = holder)]
    except: Option<String>,
    /// It claims the lease no sooner than so long after it first sees this, by its own clock; at most 168h (7 days)
    #[arg(long = "for", value_name = "TIME", default_value = "0s", value_parser = hold_off, hide_default_value = true,
          allow_hyphen_values = true)]
    hold_off: Duration,
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

pub(super) fn run(args: &RevokeArgs, app: &App) -> Result<ExitCode, Failure> {
    let name = super::lease(args.lease.as_ref(), app.settings());
    let (name, by, target) = (name, app.settings().operator(), Target::of(app)).together()?;
    let note = args.note.clone().unwrap_or_else(|| format!("revoked by {by}"));
    app.block_on(async {
        let session = target.connect().await?;
        let how = admin::Revoke {
            holder_is_dead: args.holder_is_dead,
            by: &by,
            note: &note,
            except: args.except.as_deref(),
            hold_off: args.hold_off,
        };
        let written = session.change(admin::revoke(&*session.backend, &name, how)).await?;
        report(&name, &written, args.json, "the term was ended")?;
        Ok(ExitCode::SUCCESS)
    })
}

fn holder(text: &str) -> Result<String, String> {
    WorkloadId::new(text).map(|id| id.as_str().to_owned()).map_err(|error| error.why)
}

fn hold_off(text: &str) -> Result<Duration, String> {
    let millis = parse_millis(text).and_then(|millis| u64::try_from(millis).ok()).map(Duration::from_millis);
    millis
        .filter(|span| *span <= LONGEST_HOLD_OFF)
        .ok_or_else(|| "use a time with its unit, up to 168h, for example 10m or 1h".to_owned())
}

/// The words about who holds off after a revocation; empty if nobody does.
pub(super) fn held_off(revocation: &Revocation) -> String {
    let Some(except) = &revocation.except else { return String::new() };
    match revocation.for_ms {
        0 => format!("{except} comes after the others"),
        _ => format!("{except} holds off for {} by its own clock", span(revocation.hold_off())),
    }
}

/// Prints the lease's state after an operator ended a term.
pub(super) fn report(name: &LeaseName, written: &Observation, json: bool, done: &str) -> Result<(), Failure> {
    let Some(record) = &written.record else { return Ok(()) };
    let free = record.grant.is_none();
    if json {
        return line(json!({
            "lease": name, "epoch": record.epoch, "free": free, "transitions": record.transitions,
            "last_holder": record.holder, "revocation": Revocation::of(record),
        }));
    }
    let next = if free {
        "the lease is free now".to_owned()
    } else {
        format!("candidates take it after watching it for {}", span(deadline::lengthened(record.ttl())))
    };
    let whose =
        if record.holder.is_empty() { String::new() } else { format!(" (it was {}'s)", record.holder) };
    let then =
        Revocation::of(record).map(|revocation| held_off(&revocation)).filter(|words| !words.is_empty());
    let then = then.map(|words| format!("; {words}")).unwrap_or_default();
    line(format!("lease {name}{whose}: {done}, every later epoch exceeds {}; {next}{then}", record.epoch))
}

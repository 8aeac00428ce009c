//! `leasehold restored`: the store was restored from a backup (T-6).

use std::process::ExitCode;

use lease_core::internal::deadline;
use lease_core::{LeaseName, Observation, Term, admin};
use lease_settings::{App, Failure, Together};
use serde_json::json;

use super::output::{line, note, span};
use super::session::{Session, Target};

/// Say that the store was restored from a backup, before anything is started on it
///
/// A restore forgets the newest acquisitions and beats, and whoever made them acts on until its ttl ends. Processes
/// that lived through the restore know by themselves; one that starts afterwards doesn't. This stamps each lease, so
/// that everybody waits for its maximum ttl before taking it, and lifts its epochs above all that were lost. A holder
/// that lives and still has its lease keeps it. Run it again whenever in doubt.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  leasehold restored                          after each restore, before anything is started
  leasehold restored outbox-forwarder --note 'dump of 02:00, see INC-77'
  leasehold restored --above 844424930131968  an epoch that a fence knows, after a restore of months

Exit code 1 if one of the leases was not stamped: run it again before anything is started. A lease that is not in the
backup is made by `leasehold init` without --new.")]
pub(crate) struct Restored {
    /// Every later epoch exceeds N at least: the greatest that any log or fence knows; at most 2^61
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, allow_negative_numbers = true,
          value_parser = clap::value_parser!(u64).range(..=Term::MAX_ABOVE))]
    above: u64,
    /// Why, for the history [default: who ran the command]
    #[arg(long, value_name = "TEXT", value_parser = note)]
    note: Option<String>,
    /// Write JSON, one line a lease
    #[arg(long)]
    json: bool,
    /// The leases [default: all in the store; of a namespace's Leases those that a Leasehold program has written]
    #[arg(value_name = "LEASE")]
    leases: Vec<LeaseName>,
}

pub(super) fn run(args: &Restored, app: &App) -> Result<ExitCode, Failure> {
    let note = match &args.note {
        Some(note) => Ok(note.clone()),
        None => app.settings().operator().map(|by| format!("the store was restored, says {by}")),
    };
    let (note, target) = (note, Target::of(app)).together()?;
    app.block_on(async {
        let description = target.store.to_string();
        let session = target.connect().await?;
        let mut found = Vec::new();
        for name in &args.leases {
            found.push((name.clone(), session.read(session.backend.observe(name)).await?));
        }
        let (mut left_out, mut unreadable) = (Vec::new(), Vec::new());
        if args.leases.is_empty() {
            for (name, seen) in session.read(session.backend.list("")).await? {
                match seen {
                    Ok(seen) if is_anothers(&session, &seen) => left_out.push((name, seen)),
                    Ok(seen) => found.push((name, seen)),
                    Err(error) => unreadable.push((name, error)),
                }
            }
        }
        tell_left_out(&left_out, args.json)?;
        for (name, error) in &unreadable {
            match args.json {
                true => line(json!({ "lease": name, "error": format!("{error:#}") }))?,
                false => line(format!("lease {name} was not stamped: {error:#}"))?,
            }
        }
        if found.is_empty() && unreadable.is_empty() {
            return Err(Failure::new(format!(
                "there are no leases in {description}: if this is the restored store, the backup is from before they \
                 were made; run `leasehold init` for each, without --new"
            )));
        }
        let mut all = unreadable.is_empty();
        for (name, seen) in &found {
            let stamped = stamp(args, &session, name, seen, &note).await;
            all &= stamped.is_ok();
            match (stamped, args.json) {
                (Ok(said), _) => line(said)?,
                (Err(failure), true) => line(json!({ "lease": name, "error": failure.to_string() }))?,
                (Err(failure), false) => line(format!("lease {name} was not stamped: {failure}"))?,
            }
        }
        Ok(if all { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Another program's Lease, which `list` shows because it is in the same namespace. It isn't ours to change.
#[cfg(feature = "k8s")]
fn is_anothers(session: &Session, seen: &Observation) -> bool {
    session.backend.capabilities().name == "k8s" && !lease_k8s::is_ours(seen)
}

#[cfg(not(feature = "k8s"))]
fn is_anothers(_: &Session, _: &Observation) -> bool {
    false
}

fn tell_left_out(left_out: &[(LeaseName, Observation)], json: bool) -> Result<(), Failure> {
    if json {
        let why = "no Leasehold program has written it";
        let mut names = left_out.iter().map(|(name, _)| name);
        return names.try_for_each(|name| line(json!({ "lease": name, "stamped": false, "left_out": why })));
    }
    if left_out.is_empty() {
        return Ok(());
    }
    let names = left_out.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    line(format!("left out: {} Leases that no Leasehold program has written ({names})", left_out.len()))
}

/// Stamps one lease, and says so.
async fn stamp(
    args: &Restored,
    session: &Session,
    name: &LeaseName,
    seen: &Observation,
    note: &str,
) -> Result<String, Failure> {
    if let Some(why) = seen.record.as_ref().and_then(|record| record.sealed.as_ref()) {
        return Ok(match args.json {
            true => json!({ "lease": name, "stamped": false, "sealed": why }).to_string(),
            false => format!("lease {name} was left alone, since nobody takes it: {why}"),
        });
    }
    let written = session.change(admin::restored(&*session.backend, name, args.above, note)).await?;
    let above = written.next_epoch() - 1;
    let wait =
        written.record.as_ref().map(|record| deadline::lengthened(record.max_ttl())).unwrap_or_default();
    Ok(match args.json {
        true => json!({
            "lease": name, "stamped": true, "epochs_above": above, "waited_out_for_ms": wait.as_millis() as u64,
        })
        .to_string(),
        false => format!(
            "lease {name} was stamped: candidates take it after watching it for {}, and every later epoch exceeds \
             {above}",
            span(wait)
        ),
    })
}

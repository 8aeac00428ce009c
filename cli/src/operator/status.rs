//! `leasehold status`: what each holder last wrote. No verdict: a single look can't tell who is alive.

use std::process::ExitCode;

use lease_core::internal::{deadline, writes};
use lease_core::{LeaseName, Observation, Record, Revocation, Term};
use lease_settings::{App, Failure};
use serde_json::json;

use super::output::{line, span, wall};
use super::revoke::held_off;
use super::session::Target;
use super::{ended_by_operator, state};

/// Show what each holder last wrote; `leasehold watch` judges who is alive
///
/// Times are the holder's own clock's, which may be wrong: nothing in the protocol compares them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  leasehold status
  leasehold status outbox-forwarder --json

Exit code 1 if a lease that was named is not there.")]
pub(crate) struct Status {
    /// Write JSON, one line a lease
    #[arg(long)]
    json: bool,
    /// The leases [default: all in the store]
    #[arg(value_name = "LEASE")]
    leases: Vec<LeaseName>,
}

pub(super) fn run(args: &Status, app: &App) -> Result<ExitCode, Failure> {
    let target = Target::of(app)?;
    app.block_on(async {
        let description = target.store.to_string();
        let session = target.connect().await?;
        let mut seen = Vec::new();
        for name in &args.leases {
            seen.push((name.clone(), session.read(session.backend.observe(name)).await?));
        }
        if args.leases.is_empty() {
            seen = session.read(session.backend.list("")).await?;
            if seen.is_empty() && !args.json {
                line(format!("there are no leases in {description}; `leasehold init` creates one"))?;
            }
        }
        let mut all_there = true;
        for (name, observation) in &seen {
            all_there &= observation.record.is_some();
            if args.json {
                line(as_json(name, observation))?;
            } else {
                let mut lines = as_text(name, observation).into_iter();
                lines.next().map_or(Ok(()), line)?;
                lines.try_for_each(|more| line(format!("  {more}")))?;
            }
        }
        Ok(if all_there { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

fn as_json(name: &LeaseName, observation: &Observation) -> serde_json::Value {
    let state = observation.record.as_ref().map_or("absent", state);
    json!({ "lease": name, "state": state, "store_lineage": observation.lineage, "record": observation.record })
}

fn as_text(name: &LeaseName, seen: &Observation) -> Vec<String> {
    let Some(record) = &seen.record else {
        return vec![format!(
            "{name}: there is no such lease in this store; `leasehold init` creates it, unless this is the wrong store"
        )];
    };
    let mut lines = vec![format!("{name}: {}", headline(record))];
    if record.grant.is_some() && !record.holder.is_empty() && !ended_by_operator(record) {
        lines.push(format!(
            "by the holder's clock: last beat (number {}) at {}, runs out at {}",
            record.beat,
            wall(record.renewed_at),
            wall(record.expires_at)
        ));
    }
    lines.push(format!(
        "epoch {}, transition {}, ttl {}, maximum ttl {}",
        record.epoch,
        record.transitions,
        span(record.ttl()),
        span(record.max_ttl())
    ));
    if record.lineage.is_restored() {
        lines.push(format!(
            "stamped by `leasehold restored`: a holder that lives keeps it, and candidates watch it for {} before they \
             take it",
            span(deadline::lengthened(record.max_ttl()))
        ));
    } else if record.lineage != seen.lineage {
        lines.push(format!(
            "last written under another history of the store ({}, now {}): candidates wait for one maximum ttl",
            record.lineage, seen.lineage
        ));
    }
    if seen.next_epoch() > Term::MAX_EPOCH {
        lines.push(
            "no epoch is left for another term: nobody can lead until the register is repaired".to_owned(),
        );
    }
    let held_off = Revocation::of(record).map(|revocation| (revocation.by.clone(), held_off(&revocation)));
    if let Some((by, words)) = held_off.filter(|(_, words)| !words.is_empty()) {
        let by = if by.is_empty() { "an operator".to_owned() } else { by };
        lines.push(format!("revoked by {by}: {words}"));
    }
    if let Some(request) = writes::pending_request(record) {
        lines.push(format!(
            "{} has asked the holder to step down; no answer yet (request {})",
            request.by, request.id
        ));
    }
    if let Some(work) = record.work() {
        lines.push(format!("its work: {work}"));
    }
    if record.preemptible {
        lines.push("every effect is fenced: the lease may be taken at any moment".to_owned());
    }
    if !record.note.is_empty() {
        lines.push(format!("note: {}", record.note));
    }
    lines
}

fn headline(record: &Record) -> String {
    let region = if record.region.is_empty() { String::new() } else { format!(" ({})", record.region) };
    let holder = format!("{}{region}", record.holder);
    if let Some(note) = &record.sealed {
        return format!("moved to another store: {note}");
    }
    match record.grant {
        None if record.holder.is_empty() => "free; nobody has held it yet".to_owned(),
        None => format!("free; last held by {holder}"),
        Some(_) if record.holder.is_empty() => {
            "closed: created without a holder; candidates take it after watching it for one maximum ttl"
                .to_owned()
        }
        Some(_) if ended_by_operator(record) => {
            format!(
                "ended by an operator; candidates take it after watching it for one ttl (it was {holder}'s)"
            )
        }
        Some(grant) => {
            format!("held by {holder} since {}, grant {grant}", wall(record.acquired_at))
        }
    }
}

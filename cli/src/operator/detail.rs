//! One lease in sentences: what its holder last wrote. No verdict: a single look can't tell who is alive.

use lease_core::internal::{deadline, writes};
use lease_core::{LeaseName, Observation, Record, Revocation, Term};

use super::ended_by_operator;
use super::output::{span, wall};
use super::revoke::held_off;

/// The first line names the lease; those that follow tell more of it.
pub(super) fn as_text(name: &LeaseName, seen: &Observation) -> Vec<String> {
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

//! Judges a run from outside, by what its processes and its store left behind. Pure; one file for each invariant of
//! the protocol, each with known-bad histories that it must reject.

mod epochs;
mod exclusion;
mod fenced;
mod inert;

use std::collections::BTreeMap;
use std::fmt;

use lease_core::{Grant, HistoryRow, Term};
use serde::Serialize;

use crate::trace::{Act, Entry, Nanos, Outcome};

/// One process, from its start to its end: no two have the same number.
pub(crate) type Incarnation = u64;

/// Everything that one lease left behind.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    /// What each process claimed.
    pub(crate) claims: Vec<Claimed>,
    /// The writes of the holders that are known to have been acknowledged.
    pub(crate) writes: Vec<Write>,
    /// The effects in the order of the store that holds them.
    pub(crate) effects: Vec<EffectRow>,
    /// The effects that were acknowledged to somebody, by incarnation and number.
    pub(crate) acknowledged: Vec<(Incarnation, u64)>,
    /// The store's own history, oldest first.
    pub(crate) history: Vec<HistoryRow>,
    /// Reads of the register by an observer of our own, one after the other.
    pub(crate) sightings: Vec<Sighting>,
}

/// The time in which one process claimed to lead in one term.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Claimed {
    pub(crate) incarnation: Incarnation,
    pub(crate) term: Term,
    /// When the term's work began: it led by then.
    pub(crate) from: Nanos,
    /// It may have acted until then: the last known deadline, or when the work returned before it.
    pub(crate) until: Nanos,
}

/// An acknowledged write of a holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Write {
    pub(crate) act: Act,
    pub(crate) epoch: u64,
    pub(crate) sent: Nanos,
    pub(crate) answered: Nanos,
}

/// One row of the effects table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct EffectRow {
    pub(crate) sequence: i64,
    pub(crate) term: Term,
    pub(crate) incarnation: Incarnation,
    pub(crate) number: u64,
    pub(crate) pid: u32,
    pub(crate) before: Nanos,
}

/// What a read of the register showed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Sighting {
    pub(crate) at: Nanos,
    pub(crate) epoch: u64,
    pub(crate) grant: Option<Grant>,
    pub(crate) beat: u64,
}

/// An invariant that doesn't hold, with the rows that show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    pub(crate) lease: String,
    pub(crate) what: String,
    pub(crate) rows: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}: {}", self.rule, self.lease, self.what)?;
        self.rows.iter().try_for_each(|row| write!(f, "\n      {row}"))
    }
}

/// The rules that are judged, with their names.
pub(crate) const RULES: [(&str, &str); 5] = [
    ("L-1", "terms never overlap"),
    ("L-2", "each term's epoch exceeds every earlier term's, and has one grant"),
    ("L-5", "old terms change nothing in the register"),
    ("L-7", "no effect of an epoch after one of a greater"),
    ("durable", "each acknowledged effect is in the store"),
];

/// All violations on one lease.
pub(crate) fn violations(lease: &str, evidence: &Evidence) -> Vec<Violation> {
    let found = [
        exclusion::check(&evidence.claims),
        epochs::check(evidence),
        inert::check(evidence),
        fenced::check(&evidence.effects),
        fenced::check_durable(&evidence.effects, &evidence.acknowledged),
    ];
    let named =
        found.into_iter().flatten().map(|violation| Violation { lease: lease.to_owned(), ..violation });
    named.collect()
}

fn violation(rule: &'static str, what: impl Into<String>, rows: &[&dyn fmt::Debug]) -> Violation {
    let rows = rows.iter().map(|row| format!("{row:?}")).collect();
    Violation { rule, lease: String::new(), what: what.into(), rows }
}

impl Evidence {
    /// Takes in one line of one process's trace.
    pub(crate) fn take(&mut self, incarnation: Incarnation, entry: &Entry) {
        match entry {
            Entry::Begin { at, term } => {
                self.claims.push(Claimed { incarnation, term: *term, from: *at, until: *at });
            }
            Entry::Claim { until, term, .. } => {
                if let Some(claimed) = self.claimed(incarnation, *term) {
                    claimed.until = claimed.until.max(*until);
                }
            }
            // The elector ends a term only after its work has returned: here the claim ends before the deadline.
            Entry::Returned { at, term, leading: true } => {
                if let Some(claimed) = self.claimed(incarnation, *term) {
                    claimed.until = *at;
                }
            }
            Entry::Put { sent, answered, act, epoch, outcome: Outcome::Written, .. } => {
                let (sent, answered) = (*sent, *answered);
                self.writes.push(Write { act: *act, epoch: *epoch, sent, answered });
            }
            Entry::Effect { number, outcome: Outcome::Written, .. } => {
                self.acknowledged.push((incarnation, *number));
            }
            _ => {}
        }
    }

    fn claimed(&mut self, incarnation: Incarnation, term: Term) -> Option<&mut Claimed> {
        let mut claims = self.claims.iter_mut().rev();
        claims.find(|claimed| claimed.incarnation == incarnation && claimed.term == term)
    }
}

/// How often each grant was seen with which epoch: the terms that are known from any side.
fn grants_by_epoch(evidence: &Evidence) -> BTreeMap<u64, Vec<Grant>> {
    let claims = evidence.claims.iter().map(|claimed| (claimed.term.epoch, claimed.term.grant));
    let effects = evidence.effects.iter().map(|effect| (effect.term.epoch, effect.term.grant));
    let sightings = evidence.sightings.iter().filter_map(|seen| seen.grant.map(|grant| (seen.epoch, grant)));
    let mut grants = BTreeMap::<u64, Vec<Grant>>::new();
    for (epoch, grant) in claims.chain(effects).chain(sightings) {
        let known = grants.entry(epoch).or_default();
        if !known.contains(&grant) {
            known.push(grant);
        }
    }
    grants
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_lasts_to_the_last_known_deadline_unless_the_work_returned_while_it_led() {
        let term = Term { epoch: 1, grant: Grant(1) };
        let mut evidence = Evidence::default();
        evidence.take(1, &Entry::Begin { at: 10, term });
        evidence.take(1, &Entry::Claim { from: 11, to: 12, until: 100, term });
        assert_eq!(evidence.claims, [Claimed { incarnation: 1, term, from: 10, until: 100 }]);
        evidence.take(2, &Entry::Returned { at: 40, term, leading: true });
        evidence.take(1, &Entry::Returned { at: 41, term, leading: false });
        assert_eq!(evidence.claims[0].until, 100);
        evidence.take(1, &Entry::Returned { at: 50, term, leading: true });
        assert_eq!(evidence.claims[0].until, 50);
    }
}

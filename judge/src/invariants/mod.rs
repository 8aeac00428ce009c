//! The invariants L-1 … L-10, one pure checker each over a recorded [`History`] of one lease (docs/protocol.md).
//!
//! | id | property | rests on | module |
//! | --- | --- | --- | --- |
//! | L-1 | intervals [granted, D) of different terms never overlap | T-1, T-2, T-3, T-5 | `l01_mutual_exclusion` |
//! | L-2 | each term's epoch exceeds every earlier term's; no epoch has two grants | E-1 | `l02_epoch_monotonicity` |
//! | L-3 | no takeover of a renewing holder before T-2 allows | T-2, T-3 | `l03_no_early_expiry` |
//! | L-4 | a dead holder's lease is taken within ttl·(1+ρ) and one poll, by one | T-2, T-4 | `l04_expiry` |
//! | L-5 | an old term's renew and release change nothing, and aren't sent past D | R-1, T-1 | `l05_old_terms_are_inert` |
//! | L-6 | the old check is false before the successor's grant, and before any release | H-1, T-1 | `l06_false_before_successor` |
//! | L-7 | on a resource, no effect of an epoch after one of a greater | F-1 | `l07_fenced_effects` |
//! | L-8 | a deadline rests on an acknowledged write, counted from its sending; unknown is neither held nor lost | T-1, U-1, U-2 | `l08_unknown` |
//! | L-9 | a holder whose round trips take at most ttl/4 keeps its term | T-4, U-1 | `l09_no_false_loss` |
//! | L-10 | each change of holder leaves exactly one durable, ordered row | R-3 | `l10_history` |

mod l01_mutual_exclusion;
mod l02_epoch_monotonicity;
mod l03_no_early_expiry;
mod l04_expiry;
mod l05_old_terms_are_inert;
mod l06_false_before_successor;
mod l07_fenced_effects;
mod l08_unknown;
mod l09_no_false_loss;
mod l10_history;
#[cfg(test)]
mod story;

use std::fmt;

use serde::Serialize;

use crate::facts::Facts;
use crate::history::History;

/// A history that a correct store and core can't have produced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The invariant: `L-1`.
    pub rule: &'static str,
    /// The events that contradict it.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is violated: {}", self.rule, self.what)
    }
}

/// Returns how many things it has judged, or the first violation.
pub(crate) type Check = fn(&Facts<'_>) -> Result<usize, Violation>;

/// One invariant of the protocol (L-1 … L-10).
pub struct Invariant {
    /// Its id: `L-1`.
    pub rule: &'static str,
    /// It, as a claim.
    pub claim: &'static str,
    /// The things that are judged, in the plural.
    pub judges: &'static str,
    /// The reason, in a history that holds nothing to judge.
    pub unjudged: &'static str,
    pub(crate) check: Check,
}

impl Invariant {
    /// Judges one lease's history. Returns how many things it has judged: none is no evidence.
    ///
    /// # Errors
    /// The first violation.
    pub fn judge(&self, facts: &Facts<'_>) -> Result<usize, Violation> {
        (self.check)(facts)
    }
}

/// Every invariant, in the order of the ids.
pub const ALL: [Invariant; 10] = [
    Invariant {
        rule: "L-1",
        claim: "terms never overlap",
        judges: "terms",
        unjudged: "nobody led",
        check: l01_mutual_exclusion::check,
    },
    Invariant {
        rule: "L-2",
        claim: "each term's epoch exceeds every earlier term's, and has one grant",
        judges: "epochs",
        unjudged: "no grant was seen",
        check: l02_epoch_monotonicity::check,
    },
    Invariant {
        rule: "L-3",
        claim: "nobody takes over before T-2 allows",
        judges: "acquisitions",
        unjudged: "no elector tried to acquire",
        check: l03_no_early_expiry::check,
    },
    Invariant {
        rule: "L-4",
        claim: "a dead holder's lease is taken within ttl·(1+ρ) and one poll",
        judges: "deaths",
        unjudged: "no holder died that a candidate followed without a failed or slow call",
        check: l04_expiry::check,
    },
    Invariant {
        rule: "L-5",
        claim: "old terms change nothing in the register",
        judges: "renewals and releases",
        unjudged: "no renewal or release was acknowledged",
        check: l05_old_terms_are_inert::check,
    },
    Invariant {
        rule: "L-6",
        claim: "the old check is false before the successor's grant, and before any release",
        judges: "acquisitions and releases",
        unjudged: "no term followed another",
        check: l06_false_before_successor::check,
    },
    Invariant {
        rule: "L-7",
        claim: "no effect of an epoch after one of a greater, and each acknowledged one is there",
        judges: "effects",
        unjudged: "there were no effects",
        check: l07_fenced_effects::check,
    },
    Invariant {
        rule: "L-8",
        claim: "a deadline rests on an acknowledged write, and an unknown outcome is neither held nor lost",
        judges: "deadlines and ends",
        unjudged: "nobody led",
        check: l08_unknown::check,
    },
    Invariant {
        rule: "L-9",
        claim: "a holder whose round trips take at most ttl/4 keeps its term",
        judges: "terms",
        unjudged: "nobody led",
        check: l09_no_false_loss::check,
    },
    Invariant {
        rule: "L-10",
        claim: "each change of holder leaves exactly one row",
        judges: "rows",
        unjudged: "the store keeps no history, or nobody led",
        check: l10_history::check,
    },
];

/// Judges one lease's history by every invariant; returns the first violation of each.
pub fn judge(history: &History) -> Vec<Violation> {
    let facts = Facts::of(history);
    ALL.iter().filter_map(|invariant| invariant.judge(&facts).err()).collect()
}

/// Fails with a violation of `rule` unless `holds`.
fn require(rule: &'static str, holds: bool, what: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { rule, what: what() }) }
}

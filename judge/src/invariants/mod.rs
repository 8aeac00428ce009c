//! The invariants L-1 … L-10, one pure checker each over a recorded [`History`] of one lease (docs/protocol.md).
//!
//! | id | property | rests on | module |
//! | --- | --- | --- | --- |
//! | L-1 | intervals [granted, D) of different terms never overlap | T-1, T-2, T-3, T-5 | [`l01_mutual_exclusion`] |
//! | L-2 | each term's epoch exceeds every earlier term's; no epoch has two grants | E-1 | [`l02_epoch_monotonicity`] |
//! | L-3 | no takeover of a renewing holder before T-2 allows | T-2, T-3 | [`l03_no_early_expiry`] |
//! | L-4 | a dead holder's lease is taken within ttl·(1+ρ) and one poll, by one | T-2, T-4 | [`l04_expiry`] |
//! | L-5 | an old term's renew and release change nothing, and aren't sent past D | R-1, T-1 | [`l05_old_terms_are_inert`] |
//! | L-6 | the old check is false before the successor's grant, and before any release | H-1, T-1 | [`l06_false_before_successor`] |
//! | L-7 | on a resource, no effect of an epoch after one of a greater | F-1 | [`l07_fenced_effects`] |
//! | L-8 | a deadline rests on an acknowledged write, counted from its sending; unknown is neither held nor lost | T-1, U-1, U-2 | [`l08_unknown`] |
//! | L-9 | a holder whose round trips take at most ttl/4 keeps its term | T-4, U-1 | [`l09_no_false_loss`] |
//! | L-10 | each change of holder leaves exactly one durable, ordered row | R-3 | [`l10_history`] |

pub mod l01_mutual_exclusion;
pub mod l02_epoch_monotonicity;
pub mod l03_no_early_expiry;
pub mod l04_expiry;
pub mod l05_old_terms_are_inert;
pub mod l06_false_before_successor;
pub mod l07_fenced_effects;
pub mod l08_unknown;
pub mod l09_no_false_loss;
pub mod l10_history;
#[cfg(test)]
mod story;
mod terms;

use std::fmt;

pub use terms::{Span, Write};

use crate::history::History;

/// A history that a correct store and core can't have produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant: `L-1`.
    pub rule: &'static str,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is violated: {}", self.rule, self.what)
    }
}

/// A checker.
pub type Check = fn(&History) -> Result<(), Violation>;

/// Every invariant, by its id.
pub const ALL: [(&str, Check); 10] = [
    ("L-1", l01_mutual_exclusion::check),
    ("L-2", l02_epoch_monotonicity::check),
    ("L-3", l03_no_early_expiry::check),
    ("L-4", l04_expiry::check),
    ("L-5", l05_old_terms_are_inert::check),
    ("L-6", l06_false_before_successor::check),
    ("L-7", l07_fenced_effects::check),
    ("L-8", l08_unknown::check),
    ("L-9", l09_no_false_loss::check),
    ("L-10", l10_history::check),
];

/// Judges one lease's history by every invariant; returns every violation.
pub fn judge(history: &History) -> Vec<Violation> {
    ALL.iter().filter_map(|(_, check)| check(history).err()).collect()
}

/// Fails with a violation of `rule` unless `holds`.
fn require(rule: &'static str, holds: bool, what: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { rule, what: what() }) }
}

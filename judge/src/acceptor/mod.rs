//! The acceptor: replays a recorded [`History`] through a model, and rejects it if no run of the model leaves it.
//!
//! | id | what is replayed | the model | module |
//! | --- | --- | --- | --- |
//! | J-1 | each elector's steps | the step function itself, `lease_core::internal::step` | `elector` |
//! | J-2 | all answers and hints | one register that compares and sets | `register` |
//!
//! The invariants name what must never be; these two say that nothing was but what the protocol does. So they see an
//! event that is missing, doubled, moved or altered, also where no invariant suffers
//! (`docs/decisions/0092-traces-are-replayed.md`).

mod contents;
mod elector;
mod register;

use crate::facts::Facts;
use crate::history::History;
use crate::invariants::{Invariant, Violation};

/// Both models.
pub const ALL: [Invariant; 2] = [
    Invariant {
        rule: "J-1",
        claim: "every elector's events are a run of the step function",
        judges: "steps",
        unjudged: "no elector's steps were recorded",
        check: elector::check,
    },
    Invariant {
        rule: "J-2",
        claim: "all answers are those of one register that compares and sets",
        judges: "answers and hints",
        unjudged: "no answer was recorded",
        check: register::check,
    },
];

/// Replays one lease's history; returns the first event that each model can't explain.
pub fn explain(history: &History) -> Vec<Violation> {
    let facts = Facts::of(history);
    ALL.iter().filter_map(|model| model.judge(&facts).err()).collect()
}

/// Or what the model says instead of an event that can't be.
type Explained = Result<(), String>;

fn require(holds: bool, model: &str) -> Explained {
    if holds { Ok(()) } else { Err(model.to_owned()) }
}

/// This many events before the unexplained one are told.
const TOLD: usize = 12;

/// The event at `place` can't be explained: it, what the model says, and what came before it, as far as `concerns` it.
fn unexplained(
    rule: &'static str,
    (history, place): (&History, usize),
    model: &str,
    concerns: impl Fn(usize) -> bool,
) -> Violation {
    let line = |place: usize| format!("\n    {}", history.line(&history.events[place]));
    let mut before: Vec<_> = (0..place).rev().filter(|place| concerns(*place)).take(TOLD).map(line).collect();
    before.reverse();
    let what = format!(
        "no run of the model leaves this event:{}\n  {model}; before it came:{}",
        line(place),
        before.concat()
    );
    Violation { rule, what }
}

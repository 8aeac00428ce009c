//! Terms and writes, gathered from a history's events.

use lease_core::deadline::shortened;
use lease_core::{Instant, Loss, Term};

use crate::history::{Answer, History, Put, What};

/// One term, as its holder's own check showed it.
#[derive(Clone, Debug)]
pub struct Span {
    /// Who led.
    pub actor: String,
    /// The term.
    pub term: Term,
    /// When `is_leader_now()` turned true.
    pub begun_at: Instant,
    /// Its deadline then.
    pub first_deadline: Instant,
    /// Its last deadline.
    pub deadline: Instant,
    /// When and why it was ended, if it was.
    pub ended: Option<(Instant, Loss)>,
    /// From when on `is_leader_now()` was false: ended, dead, or past the deadline.
    pub false_at: Instant,
    /// Every effect is fenced, so the term may be taken over at any moment (F-3).
    pub preemptible: bool,
}

/// One write, and what its sender learnt of it.
#[derive(Clone, Debug)]
pub struct Write<'a> {
    /// Who sent it.
    pub actor: &'a str,
    /// Names it within its actor.
    pub call: u64,
    /// When it was sent.
    pub sent_at: Instant,
    /// Its event's place in the history.
    pub index: usize,
    /// What was sent.
    pub put: &'a Put,
    /// When and how it was answered; `None` if it never was, or was dropped.
    pub answered: Option<(Instant, &'a Answer)>,
    /// The answer's place in the history.
    pub answered_index: Option<usize>,
}

impl Write<'_> {
    /// The store acknowledged it.
    pub fn is_written(&self) -> bool {
        matches!(self.answered, Some((_, Answer::Written(_))))
    }

    /// It may have been applied.
    pub fn may_be_applied(&self) -> bool {
        !matches!(self.answered, Some((_, Answer::Conflict(_) | Answer::NotApplied)))
    }

    /// Until when it lets its term act, if it is acknowledged (T-1).
    pub fn lasts_until(&self) -> Instant {
        self.sent_at.plus(shortened(self.put.record.ttl()))
    }
}

impl History {
    /// Is it an elector, or what a case writes by hand?
    pub fn is_elector(&self, actor: &str) -> bool {
        let campaigns = |what: &What| matches!(what, What::Campaigning { .. });
        self.events.iter().any(|event| event.actor == actor && campaigns(&event.what))
    }

    /// Every term, ordered by its beginning.
    pub fn spans(&self) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for event in &self.events {
            let mine = |span: &&mut Span| span.actor == event.actor;
            match &event.what {
                What::Begun { term, deadline } => {
                    let preemptible = self.events.iter().any(|event| match &event.what {
                        What::Sent { put: Some(put), .. } => {
                            put.record.term() == Some(*term) && put.record.preemptible
                        }
                        _ => false,
                    });
                    spans.push(Span {
                        actor: event.actor.clone(),
                        term: *term,
                        begun_at: event.at,
                        first_deadline: *deadline,
                        deadline: *deadline,
                        ended: None,
                        false_at: *deadline,
                        preemptible,
                    });
                }
                What::Extended { term, deadline } => {
                    if let Some(span) = spans.iter_mut().rev().filter(mine).find(|span| span.term == *term) {
                        span.deadline = span.deadline.max(*deadline);
                        span.false_at = span.deadline;
                    }
                }
                What::Ended { term, loss } => {
                    if let Some(span) = spans.iter_mut().rev().filter(mine).find(|span| span.term == *term) {
                        span.ended = Some((event.at, *loss));
                        span.false_at = span.false_at.min(event.at);
                    }
                }
                What::Died => {
                    for span in spans.iter_mut().filter(mine) {
                        span.false_at = span.false_at.min(event.at);
                    }
                }
                _ => {}
            }
        }
        spans.sort_by_key(|span| span.begun_at);
        spans
    }

    /// Every write, ordered by its sending.
    pub fn writes(&self) -> Vec<Write<'_>> {
        let mut writes: Vec<Write<'_>> = Vec::new();
        for (index, event) in self.events.iter().enumerate() {
            match &event.what {
                What::Sent { call, put: Some(put) } => writes.push(Write {
                    actor: &event.actor,
                    call: *call,
                    sent_at: event.at,
                    index,
                    put,
                    answered: None,
                    answered_index: None,
                }),
                What::Answered { call, answer } => {
                    let same = |write: &&mut Write<'_>| write.actor == event.actor && write.call == *call;
                    if let Some(write) = writes.iter_mut().rev().find(same) {
                        write.answered = Some((event.at, answer));
                        write.answered_index = Some(index);
                    }
                }
                _ => {}
            }
        }
        writes
    }
}

//! A history's terms, writes and actors, gathered once for all invariants.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use lease_core::internal::deadline::shortened;
use lease_core::{Grant, Instant, Loss, Term};

use crate::history::{Answer, History, HistoryEntry, Put, What};

/// One term, as its holder's own check showed it.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its holder.
    pub actor: String,
    /// The term.
    pub term: Term,
    /// The moment at which `is_leader_now()` turned true.
    pub begun_at: Instant,
    /// Its deadline then.
    pub first_deadline: Instant,
    /// Its last deadline.
    pub deadline: Instant,
    /// Its end and the reason, if it was ended.
    pub ended: Option<(Instant, Loss)>,
    /// From here on `is_leader_now()` was false: the holder ended the term, died, or passed the deadline.
    pub false_at: Instant,
    /// Every effect is fenced, so the term may be taken over at any moment (F-3).
    pub preemptible: bool,
}

/// One write, with its answer.
#[derive(Clone, Debug)]
pub struct Write<'a> {
    /// Its sender.
    pub actor: &'a str,
    /// The moment of sending.
    pub sent_at: Instant,
    /// The place of its sending among the history's events.
    pub index: usize,
    /// The write itself.
    pub put: &'a Put,
    /// The answer; `None` if there never was one, or its future was dropped.
    pub answered: Option<(Instant, &'a Answer)>,
    /// The place of its answer among the history's events.
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

    /// The deadline that it gives its term, if it is acknowledged (T-1).
    pub fn lasts_until(&self) -> Instant {
        self.sent_at.plus(shortened(self.put.record.ttl()))
    }
}

impl History {
    /// Every term, ordered by its beginning.
    pub fn spans(&self) -> Vec<Span> {
        let preemptible: HashSet<Grant> = self.events.iter().filter_map(preemptible_grant).collect();
        let mut spans: Vec<Span> = Vec::new();
        for event in &self.events {
            let of = |span: &&mut Span, term: &Term| span.actor == event.actor && span.term == *term;
            match &event.what {
                What::Begun { term, deadline } => spans.push(Span {
                    actor: event.actor.clone(),
                    term: *term,
                    begun_at: event.at,
                    first_deadline: *deadline,
                    deadline: *deadline,
                    ended: None,
                    false_at: *deadline,
                    preemptible: preemptible.contains(&term.grant),
                }),
                What::Extended { term, deadline } => {
                    if let Some(span) = spans.iter_mut().rev().find(|span| of(span, term)) {
                        span.deadline = span.deadline.max(*deadline);
                        span.false_at = span.deadline;
                    }
                }
                What::Claimed { term, from, until, .. } => {
                    if let Some(span) = spans.iter_mut().rev().find(|span| of(span, term)) {
                        span.deadline = span.deadline.max(*until);
                        // After the end it says no more than that the check was true once it had asked.
                        let true_until = if span.ended.is_none() { *until } else { *from };
                        span.false_at = span.false_at.max(true_until);
                    }
                }
                What::Ended { term, loss } => {
                    if let Some(span) = spans.iter_mut().rev().find(|span| of(span, term)) {
                        span.ended = Some((event.at, *loss));
                        span.false_at = span.false_at.min(event.at);
                    }
                }
                What::Died => {
                    for span in spans.iter_mut().filter(|span| span.actor == event.actor) {
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
        let mut open: HashMap<(&str, u64), usize> = HashMap::new();
        for (index, event) in self.events.iter().enumerate() {
            let actor = event.actor.as_str();
            match &event.what {
                What::Sent { call, put: Some(put) } => {
                    open.insert((actor, *call), writes.len());
                    let (answered, answered_index) = (None, None);
                    writes.push(Write { actor, sent_at: event.at, index, put, answered, answered_index });
                }
                What::Answered { call, answer } => {
                    if let Some(write) = open.get(&(actor, *call)) {
                        writes[*write].answered = Some((event.at, answer));
                        writes[*write].answered_index = Some(index);
                    }
                }
                _ => {}
            }
        }
        writes
    }
}

fn preemptible_grant(event: &HistoryEntry) -> Option<Grant> {
    match &event.what {
        What::Sent { put: Some(put), .. } if put.record.preemptible => put.record.grant,
        _ => None,
    }
}

/// One actor's part of a history.
#[derive(Default)]
struct Part {
    /// The places of its events, in order.
    events: Vec<usize>,
    /// The places of its writes among all writes, in order.
    writes: Vec<usize>,
    campaigns: bool,
}

/// Everything that the invariants ask of a history.
pub struct Facts<'a> {
    /// The history.
    pub history: &'a History,
    /// Every term, ordered by its beginning.
    pub spans: Vec<Span>,
    /// Every write, ordered by its sending.
    pub writes: Vec<Write<'a>>,
    parts: BTreeMap<&'a str, Part>,
    /// By the place of the sending and of the answer.
    write_at: HashMap<usize, usize>,
}

impl<'a> Facts<'a> {
    /// Gathers them.
    pub fn of(history: &'a History) -> Self {
        let (spans, writes) = (history.spans(), history.writes());
        let mut parts: BTreeMap<&str, Part> = BTreeMap::new();
        for (index, event) in history.events.iter().enumerate() {
            let part = parts.entry(&event.actor).or_default();
            part.events.push(index);
            part.campaigns |= matches!(event.what, What::Campaigning { .. });
        }
        let mut write_at = HashMap::new();
        for (number, write) in writes.iter().enumerate() {
            parts.entry(write.actor).or_default().writes.push(number);
            write_at.insert(write.index, number);
            write_at.extend(write.answered_index.map(|index| (index, number)));
        }
        Self { history, spans, writes, parts, write_at }
    }

    /// The names of all actors.
    pub fn actors(&self) -> impl Iterator<Item = &'a str> {
        self.parts.keys().copied()
    }

    /// Whether `actor` is an elector, and not a backend that is used by hand.
    pub fn is_elector(&self, actor: &str) -> bool {
        self.parts.get(actor).is_some_and(|part| part.campaigns)
    }

    /// The events of `actor`, each with its place in the history.
    pub fn events_of(&self, actor: &str) -> impl DoubleEndedIterator<Item = (usize, &'a HistoryEntry)> {
        let places = self.parts.get(actor).map_or(&[][..], |part| &part.events);
        places.iter().map(|place| (*place, &self.history.events[*place]))
    }

    /// The writes of `actor`.
    pub fn writes_of(&self, actor: &str) -> impl Iterator<Item = &Write<'a>> {
        let numbers = self.parts.get(actor).map_or(&[][..], |part| &part.writes);
        numbers.iter().map(|number| &self.writes[*number])
    }

    /// The write that was sent or answered at this place in the history.
    pub fn write_at(&self, place: usize) -> Option<&Write<'a>> {
        self.write_at.get(&place).map(|number| &self.writes[*number])
    }

    /// The last beat of `grant` that `actor` ever saw, and the moment at which it first received it.
    pub fn last_beat_received(&self, actor: &str, grant: Grant) -> Option<(u64, Instant)> {
        let mut last: Option<(u64, Instant)> = None;
        for (_, event) in self.events_of(actor) {
            let Some(record) = event.what.view().and_then(|view| view.record.as_ref()) else { continue };
            if record.grant == Some(grant) && last.is_none_or(|(beat, _)| beat != record.beat) {
                last = Some((record.beat, event.at));
            }
        }
        last
    }

    /// Whether `actor` ran all the time in between, and no call of its failed or took more than ttl/4.
    pub fn is_healthy(&self, actor: &str, (from, to): (Instant, Instant), ttl: Duration) -> bool {
        let limit = ttl / 4;
        let (mut healthy, mut claimed) = (true, None);
        let mut sent: HashMap<u64, Instant> = HashMap::new();
        let during = self.events_of(actor).map(|(_, event)| event);
        for event in during.filter(|event| event.at >= from && event.at <= to) {
            match &event.what {
                What::Sent { call, .. } => drop(sent.insert(*call, event.at)),
                What::Answered { call, answer } => {
                    let failed = matches!(answer, Answer::NotApplied | Answer::Unknown);
                    let slow = sent.remove(call).is_some_and(|at| event.at.since(at) > limit);
                    healthy &= !failed && !slow;
                }
                What::Claimed { gap_ms, .. } => {
                    healthy &= Duration::from_millis(*gap_ms) <= limit;
                    claimed = Some(event.at);
                }
                What::Dropped { .. } | What::Paused | What::Died | What::Left => healthy = false,
                _ => {}
            }
        }
        // Its other thread had asked for the last time long before the end: it stood still.
        let stood_still = claimed.is_some_and(|at| to.since(at) > limit);
        healthy && !stood_still && sent.values().all(|at| to.since(*at) <= limit)
    }
}

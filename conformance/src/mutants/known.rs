//! Wrong cores, stores and fences with faults that this field really had (`docs/known-faults.md`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::future::BoxFuture;
use lease_core::fence;
use lease_core::internal::deadline::Deadline;
use lease_core::internal::step::{Action, CallId, CallRequest, Event, Reply};
use lease_core::internal::writes;
use lease_core::{
    BackendError, Capabilities, Change, Grant, Hints, HistoryEvent, HistoryRow, Instant, LeaseBackend,
    LeaseName, Listed, Loss, Observation, PutOutcome, Record, Term,
};
use lease_judge::{EffectError, FencedResource};

use super::views::{core, free, look_instead_of_beating, mutant, right, sees_record};
use super::{Kind, Mutant, WrongStore};
use crate::step::Core;

const fn store(name: &'static str, make: fn() -> WrongStore, killers: &'static [&'static str]) -> Mutant {
    Mutant { name, killers, kind: Kind::Store(make), losing: false }
}

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "begins a term that is over by the time it hears of it",
        begins_late,
        &["unknown::an_acquisition_acknowledged_too_late_begins_no_term"],
    ),
    mutant(
        "leads from the sending of its acquisition",
        leads_before_the_answer,
        &["unknown::an_acquisition_that_never_arrived_is_not_held"],
    ),
    mutant("releases after its deadline", releases_late, &["outage::local_false_by_the_deadline"]),
    mutant(
        "starts the wait anew with every look",
        every_look_is_a_beat,
        &["expiry::a_dead_holder_is_followed_by_one"],
    ),
    mutant(
        "sends no beat while it drains",
        no_beats_in_the_drain,
        &["handover::releases_only_after_the_work_has_returned"],
    ),
    mutant(
        "releases before its check is false",
        releases_before_it_is_false,
        &["release::hands_over_without_waiting_for_the_ttl"],
    ),
    mutant(
        "takes its own standstill for the holder's death",
        standstill_is_death,
        // A trial can't make one elector stand still in a process with others; the fleets show it.
        &[],
    ),
    mutant(
        "leaves no room for clocks that differ",
        no_room_for_clocks,
        &["expiry::a_dead_holder_is_followed_by_one"],
    ),
    store(
        "acknowledges beats that it loses, and no new grant",
        || wrong(Wrong::LosesBeats),
        &["renew::keeps_the_term_for_many_ttls"],
    ),
    store(
        "names a takeover an acquisition",
        || wrong(Wrong::HidesTakeovers),
        &["history::names_takeovers_also_after_a_release"],
    ),
    Mutant {
        name: "asks only at a term's first effect",
        killers: &["fence::a_paused_holders_late_effect_is_refused"],
        kind: Kind::Fence(|| Arc::<Gate>::default()),
        losing: false,
    },
];

// === cores ===

/// The acquisitions that were sent and not answered.
type Acquiring = BTreeMap<CallId, Term>;

fn acquiring(actions: &[Action], sent: &mut Acquiring) -> Option<Term> {
    let acquired = actions.iter().find_map(|action| match action {
        Action::Send(id, CallRequest::Put { record, change: Change::Acquire, .. }) => {
            record.term().map(|term| (*id, term))
        }
        _ => None,
    });
    let (id, term) = acquired?;
    sent.insert(id, term);
    Some(term)
}

fn begins_late() -> Core {
    core(|sent: &mut Acquiring, state, at, event, jitter| {
        let acknowledged = match &event {
            Event::Reply(id, Reply::Put(PutOutcome::Written(_))) => sent.remove(id),
            _ => None,
        };
        let (state, mut actions) = right(state, at, event, jitter);
        acquiring(&actions, sent);
        // It waits for as long as the answer takes.
        actions.retain(|action| !matches!(action, Action::Drop(id) if sent.contains_key(id)));
        if let Some(term) = acknowledged
            && state.leads(at.now).is_none()
        {
            actions.push(Action::Begin(term, Deadline::of_acknowledged(at.now, at.ttl)));
        }
        (state, actions)
    })
}

fn leads_before_the_answer() -> Core {
    core(|sent: &mut Acquiring, state, at, event, jitter| {
        let (state, mut actions) = right(state, at, event, jitter);
        if let Some(term) = acquiring(&actions, sent) {
            actions.push(Action::Begin(term, Deadline::of_acknowledged(at.now, at.ttl)));
        }
        (state, actions)
    })
}

/// When its work has returned at last.
fn releases_late() -> Core {
    core(|over: &mut Option<Observation>, state, at, event, jitter| {
        let last = state.observation().cloned();
        let returned = matches!(event, Event::WorkReturned).then(|| over.take()).flatten();
        let (state, mut actions) = right(state, at, event, jitter);
        if actions.iter().any(|action| matches!(action, Action::End(Loss::Expired))) {
            *over = last;
        }
        if let Some(last) = returned
            && let Some(before) = &last.record
        {
            let record = writes::release(&last, before, at.fresh);
            let release = CallRequest::Put { expected: last.clone(), record, change: Change::Release };
            actions.push(Action::Send(CallId::MAX, release));
        }
        (state, actions)
    })
}

fn every_look_is_a_beat() -> Core {
    sees_record(|at, record| {
        if at.is_others(record) {
            record.beat = at.now.0;
        }
    })
}

fn no_beats_in_the_drain() -> Core {
    core(|draining: &mut bool, state, at, event, jitter| {
        let (state, mut actions) = right(state, at, event, jitter);
        for action in &actions {
            match action {
                Action::TellStop(_) => *draining = true,
                Action::Begin(..) => *draining = false,
                _ => {}
            }
        }
        if *draining {
            look_instead_of_beating(&mut actions);
        }
        (state, actions)
    })
}

fn releases_before_it_is_false() -> Core {
    core(|_: &mut (), state, at, event, jitter| {
        let (state, mut actions) = right(state, at, event, jitter);
        let release = |action: &Action| {
            matches!(action, Action::Send(_, CallRequest::Put { change: Change::Release, .. }))
        };
        if let Some(place) = actions.iter().position(release) {
            let release = actions.remove(place);
            actions.insert(0, release);
        }
        (state, actions)
    })
}

/// Once it has run late by a ttl, whoever held the lease must be dead.
fn standstill_is_death() -> Core {
    core(|(last, dead): &mut (Option<Instant>, Option<Grant>), state, at, mut event, jitter| {
        let stood_still = last.replace(at.now).is_some_and(|last| at.now.since(last) > at.ttl);
        if stood_still {
            *dead = state.observation().and_then(Observation::grant);
        }
        if let Event::Reply(_, Reply::Seen(seen) | Reply::Put(PutOutcome::Conflict(seen))) = &mut event
            && dead.is_some()
            && let Some(record) = seen.record.as_mut().filter(|record| record.grant == *dead)
            && at.is_others(record)
        {
            free(record);
        }
        right(state, at, event, jitter)
    })
}

/// Dates back what it sees, as if by a clock that is ahead: it waits for less than a ttl.
fn no_room_for_clocks() -> Core {
    core(|_: &mut (), state, at, event, jitter| {
        let seen = match &event {
            Event::Reply(_, Reply::Seen(_) | Reply::Put(PutOutcome::Conflict(_))) => true,
            event => matches!(event, Event::Shown(_)),
        };
        let now = if seen && !at.leads() { at.now.minus(at.ttl / 5) } else { at.now };
        lease_core::internal::step::step(state, now, event, at.fresh, jitter)
    })
}

// === stores ===

#[derive(Clone, Copy, PartialEq)]
enum Wrong {
    LosesBeats,
    HidesTakeovers,
}

struct Store {
    inner: Arc<dyn LeaseBackend>,
    wrong: Wrong,
    /// The last beat that this connection lost, which it goes on to show.
    lost: Mutex<Option<Observation>>,
}

fn wrong(wrong: Wrong) -> WrongStore {
    Arc::new(move |inner| Arc::new(Store { inner, wrong, lost: Mutex::default() }))
}

#[async_trait]
impl LeaseBackend for Store {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        let seen = self.inner.observe(name).await?;
        let lost = self.lost.lock().expect("not poisoned").clone();
        Ok(lost.filter(|lost| lost.grant() == seen.grant()).unwrap_or(seen))
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        if self.wrong == Wrong::LosesBeats && change == Change::Renew && record.beat > 1 {
            let beat = Observation { record: Some(record.clone()), ..expected.clone() };
            *self.lost.lock().expect("not poisoned") = Some(beat.clone());
            return Ok(PutOutcome::Written(beat));
        }
        let outcome = self.inner.put_if(name, expected, record, change).await?;
        if self.wrong == Wrong::LosesBeats {
            if matches!(change, Change::Acquire | Change::Revoke) {
                return Err(BackendError::unknown("the answer was lost"));
            }
            // The holder's own next write is told nothing of the beats that are missing.
            if let PutOutcome::Conflict(present) = &outcome
                && expected.grant().is_some()
                && present.grant() == expected.grant()
            {
                return self.inner.put_if(name, present, record, change).await;
            }
        }
        Ok(outcome)
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        self.inner.list(prefix).await
    }

    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        self.inner.watch(prefix).await
    }

    async fn history(&self, name: &LeaseName, limit: u32) -> Result<Vec<HistoryRow>, BackendError> {
        let mut rows = self.inner.history(name, limit).await?;
        if self.wrong == Wrong::HidesTakeovers {
            rows.iter_mut()
                .filter(|row| row.event_type == HistoryEvent::TakenOver)
                .for_each(|row| row.event_type = HistoryEvent::Acquired);
        }
        Ok(rows)
    }
}

// === fences ===

/// Lets a term in once, as a promotion does, and then believes it.
#[derive(Default)]
struct Gate(Mutex<Passed>);

#[derive(Default)]
struct Passed {
    mark: Option<Term>,
    terms: Vec<Term>,
    effects: Vec<(u64, String)>,
}

#[async_trait]
impl FencedResource for Gate {
    async fn effect(&self, term: Term, id: &str) -> Result<(), EffectError> {
        let mut gate = self.0.lock().expect("not poisoned");
        if !gate.terms.contains(&term) {
            gate.mark = Some(fence::admit(gate.mark, term)?);
            gate.terms.push(term);
        }
        gate.effects.push((term.epoch, id.to_owned()));
        Ok(())
    }

    async fn late_effect(
        &self,
        (term, id): (Term, &str),
        meanwhile: BoxFuture<'_, (Term, String)>,
    ) -> Result<(), EffectError> {
        let (successor, its) = meanwhile.await;
        self.effect(successor, &its).await?;
        self.effect(term, id).await
    }

    async fn effects(&self) -> Result<Vec<(u64, String)>, EffectError> {
        Ok(self.0.lock().expect("not poisoned").effects.clone())
    }
}

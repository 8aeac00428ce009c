//! Building blocks of wrong cores: they change the step function's input, or its output.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lease_core::internal::StepFn;
use lease_core::internal::step::{Action, CallRequest, Event, Jitter, Reply, State, step};
use lease_core::internal::writes::Fresh;
use lease_core::{Change, Instant, Observation, PutOutcome, Record};

use super::{Kind, Mutant};
use crate::step::Core;

/// An elector at one of its steps, as its mutant sees it.
pub(super) struct At<'a> {
    pub(super) state: &'a State,
    pub(super) now: Instant,
    pub(super) fresh: &'a Fresh,
    pub(super) holder: &'a str,
    pub(super) ttl: Duration,
}

impl At<'_> {
    pub(super) fn leads(&self) -> bool {
        self.state.leads(self.now).is_some()
    }

    /// Does somebody of another name hold it?
    pub(super) fn is_others(&self, record: &Record) -> bool {
        record.grant.is_some() && record.holder != self.holder
    }
}

/// A core whose step function is `wrong` around the real one, with a memory of its own.
pub(super) fn core<M, F>(wrong: F) -> Core
where
    M: Default + Send + 'static,
    F: Fn(&mut M, State, &At<'_>, Event, Jitter) -> (State, Vec<Action>) + Clone + Send + Sync + 'static,
{
    Arc::new(move |holder, ttl| {
        let (wrong, holder, memory) = (wrong.clone(), holder.to_owned(), Mutex::new(M::default()));
        let step: StepFn = Arc::new(move |state, now, event, fresh, jitter| {
            let before = state.clone();
            let at = At { state: &before, now, fresh, holder: &holder, ttl };
            wrong(&mut memory.lock().expect("not poisoned"), state, &at, event, jitter)
        });
        step
    })
}

/// The real step.
pub(super) fn right(state: State, at: &At<'_>, event: Event, jitter: Jitter) -> (State, Vec<Action>) {
    step(state, at.now, event, at.fresh, jitter)
}

/// Sees registers otherwise than they are: in reads' answers and in conflicts.
pub(super) fn sees(wrong: fn(&At<'_>, &mut Observation)) -> Core {
    core(move |_: &mut (), state, at, mut event, jitter| {
        if let Event::Reply(_, Reply::Seen(seen) | Reply::Put(PutOutcome::Conflict(seen))) = &mut event {
            wrong(at, seen);
        }
        right(state, at, event, jitter)
    })
}

/// Sees records otherwise than they are.
pub(super) fn sees_record(wrong: fn(&At<'_>, &mut Record)) -> Core {
    core(move |_: &mut (), state, at, mut event, jitter| {
        if let Event::Reply(_, Reply::Seen(seen) | Reply::Put(PutOutcome::Conflict(seen))) = &mut event
            && let Some(record) = &mut seen.record
        {
            wrong(at, record);
        }
        right(state, at, event, jitter)
    })
}

/// Writes other records than the protocol says.
pub(super) fn writes(wrong: fn(&Observation, &mut Record, Change)) -> Core {
    core(move |_: &mut (), state, at, event, jitter| {
        let (state, mut actions) = right(state, at, event, jitter);
        for action in &mut actions {
            if let Action::Send(_, CallRequest::Put { expected, record, change }) = action {
                wrong(expected, record, *change);
            }
        }
        (state, actions)
    })
}

/// Leaves out some of what it should do.
pub(super) fn omits(wrong: fn(&Action) -> bool) -> Core {
    core(move |_: &mut (), state, at, event, jitter| {
        let (state, mut actions) = right(state, at, event, jitter);
        actions.retain(|action| !wrong(action));
        (state, actions)
    })
}

/// A read in the place of each renewal: the step function has its answer, and the deadline stays where it is.
pub(super) fn look_instead_of_beating(actions: &mut [Action]) {
    for action in actions {
        if let Action::Send(_, request @ CallRequest::Put { change: Change::Renew, .. }) = action {
            *request = CallRequest::Observe;
        }
    }
}

/// As a release leaves it: the same beat without its grant would count as a restore.
pub(super) fn free(record: &mut Record) {
    record.grant = None;
    record.beat += 1;
}

pub(super) const fn mutant(
    name: &'static str,
    make: fn() -> Core,
    killers: &'static [&'static str],
) -> Mutant {
    Mutant { name, killers, kind: Kind::Core(make), losing: false }
}

pub(super) const fn losing(
    name: &'static str,
    make: fn() -> Core,
    killers: &'static [&'static str],
) -> Mutant {
    Mutant { name, killers, kind: Kind::Core(make), losing: true }
}

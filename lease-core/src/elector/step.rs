//! The protocol as a pure function: state and event in, state and actions out.
//!
//! Production, the tests and the model checker run this very function. It reads no clock, draws no random number
//! and knows no store: `now`, fresh bits and replies come in with each event. Every await of the driver lies between
//! two steps, so nothing here can be interrupted.
//!
//! [`step`] first lets time pass (`expire`), then takes the event in (`take`, both in `step/events.rs`),
//! then decides what to send (`advance`, in `step/sends.rs`). At most one call is under way that isn't overdue, and at
//! most two in all (U-5).

mod events;
mod sends;

use std::sync::Arc;

pub use super::messages::{Action, CallId, CallRequest, Event, Jitter, Note, Reply, Rules};
use crate::clock::Instant;
use crate::deadline::{Claim, Deadline, Known, Sighting, lengthened, silent_at};
use crate::record::{Grant, Lineage, Observation, Record, Tag, Term};
use crate::revocation::Revocation;
use crate::writes::Fresh;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Observe,
    Init,
    Acquire(Grant),
    Confirm,
    Beat,
    Release,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Call {
    id: CallId,
    kind: Kind,
    /// The knowledge that it was sent with (T-6).
    known: Known,
    sent_at: Instant,
    overdue_at: Instant,
    drop_at: Instant,
    overdue: bool,
}

/// An acquisition whose outcome is unknown (U-2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending {
    grant: Grant,
    expected: Tag,
    deadline: Deadline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Working,
    Draining,
    Releasing,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Tenure {
    term: Term,
    deadline: Deadline,
    stage: Stage,
    /// When the work last reported progress; the term's beginning counts as a report.
    progressed_at: Instant,
    /// The work was silent for too long: no renewal is sent any more.
    silent: bool,
    /// The first call sent after the grant was acknowledged: only it and later ones can show a loss.
    first_witness: CallId,
    /// The lineage under which a release was first tried.
    released_under: Option<Lineage>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Role {
    Candidate,
    Leader(Tenure),
    /// The term is over and its work has not returned: no campaign until it has.
    Ousted,
    Stopped,
}

/// Everything that one elector knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    rules: Rules,
    role: Role,
    sighting: Option<(CallId, Sighting)>,
    pending: Option<Pending>,
    /// A register of ours vanished: its epoch, and until when we may make it anew (T-5).
    heal: Option<(u64, Deadline)>,
    calls: Vec<Call>,
    next_call: CallId,
    /// When the next beat or poll is due.
    due_at: Instant,
    /// No call before this moment, after a failure.
    not_before: Instant,
    /// No claim before this moment, after a step-down.
    hold_off_until: Instant,
    /// The revocation that the register shows, and when it was first seen (H-3).
    revocation: Option<(Revocation, Instant)>,
    watching: bool,
    hinted: bool,
    holder_is_dead: bool,
    stopping: bool,
    noted: Option<Note>,
}

impl State {
    /// A candidate that has seen nothing yet.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            role: Role::Candidate,
            sighting: None,
            pending: None,
            heal: None,
            calls: Vec::new(),
            next_call: 1,
            due_at: Instant::ZERO,
            not_before: Instant::ZERO,
            hold_off_until: Instant::ZERO,
            revocation: None,
            watching: false,
            hinted: false,
            holder_is_dead: false,
            stopping: false,
            noted: None,
        }
    }

    /// The settings that it runs by.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The term that may be acted on at `now`.
    pub fn leads(&self, now: Instant) -> Option<Term> {
        match &self.role {
            Role::Leader(t) if t.stage != Stage::Releasing && t.deadline.allows(now) => Some(t.term),
            _ => None,
        }
    }

    /// Has it ended for good?
    pub fn is_stopped(&self) -> bool {
        self.role == Role::Stopped
    }

    /// The latest observation.
    pub fn observation(&self) -> Option<&Observation> {
        self.sighting.as_ref().map(|(_, sighting)| sighting.observation())
    }

    /// When the latest observation's beat was first received; a candidate's wait counts from there (T-2).
    pub fn beat_at(&self) -> Option<Instant> {
        self.sighting.as_ref().map(|(_, sighting)| sighting.since())
    }

    /// When the next [`Event::Tick`] is due, at the latest.
    pub fn wake_at(&self) -> Option<Instant> {
        let calls = self.calls.iter().map(|call| if call.overdue { call.drop_at } else { call.overdue_at });
        let tenure = match &self.role {
            Role::Leader(t) if t.stage == Stage::Working => Some(t.deadline.stop_at(self.rules.stop_grace)),
            Role::Leader(t) => Some(t.deadline.at()),
            Role::Stopped => return None,
            _ => None,
        };
        let tenure = tenure.into_iter().chain(self.silent_at());
        let send = self.may_send().then(|| self.send_at()).flatten();
        calls.chain(tenure).chain(send).min()
    }

    fn may_send(&self) -> bool {
        self.calls.len() < 2 && self.calls.iter().all(|call| call.overdue)
    }

    /// When `advance` has something to send.
    fn send_at(&self) -> Option<Instant> {
        let at = match &self.role {
            Role::Stopped => return None,
            Role::Ousted if self.heal.is_none() => return None,
            Role::Ousted => Instant::ZERO,
            Role::Leader(t) if t.stage == Stage::Releasing || self.hinted => Instant::ZERO,
            Role::Leader(t) if t.silent => return None,
            Role::Leader(_) => self.due_at,
            Role::Candidate if self.hinted || self.heal.is_some() || self.shows_pending() => Instant::ZERO,
            Role::Candidate => match self.claim_at() {
                Some(at) => at.min(self.due_at),
                None => self.due_at,
            },
        };
        Some(at.max(self.not_before))
    }

    /// When the present term's work counts as silent, unless it does already (H-4).
    fn silent_at(&self) -> Option<Instant> {
        let Role::Leader(tenure) = &self.role else { return None };
        let max_silence =
            self.rules.max_silence.filter(|_| !tenure.silent && tenure.stage != Stage::Releasing);
        max_silence.map(|max_silence| silent_at(tenure.progressed_at, max_silence))
    }

    /// Does the register show the grant of an acquisition whose outcome was unknown?
    fn shows_pending(&self) -> bool {
        self.pending
            .as_ref()
            .is_some_and(|p| self.observation().and_then(Observation::grant) == Some(p.grant))
    }

    /// From when on the register as last seen may be taken.
    fn claim_at(&self) -> Option<Instant> {
        if self.others_work().is_some() {
            return None;
        }
        match self.claim()? {
            Claim::At(at) => Some(self.held_off(at.max(self.hold_off_until))),
            Claim::Absent if self.rules.creates_registers => Some(self.hold_off_until),
            Claim::AfterALook | Claim::Absent | Claim::Sealed | Claim::Exhausted => None,
        }
    }

    /// The work that the lease is for, if it isn't this candidate's (W-1).
    fn others_work(&self) -> Option<&str> {
        let record = self.observation()?.record.as_ref()?;
        record.work().filter(|_| !record.is_for(self.rules.who.work.as_deref()))
    }

    fn claim(&self) -> Option<Claim> {
        let (_, sighting) = self.sighting.as_ref()?;
        let who = &self.rules.who;
        Some(sighting.claim(who.ttl, who.max_ttl, self.holder_is_dead))
    }

    /// When this candidate may claim what anybody else may claim from `at` on (H-3). The time counts from the first
    /// sight of the revocation, by this process's own clock.
    fn held_off(&self, at: Instant) -> Instant {
        let Some((revocation, since)) = &self.revocation else { return at };
        if revocation.except.as_ref() != Some(&self.rules.who.holder) {
            return at;
        }
        let ended_last = |record: &Record| revocation.ended_the_last_term(record);
        // Others come first, also if they only poll.
        let behind = match self.observation().and_then(|seen| seen.record.as_ref()).is_some_and(ended_last) {
            true => at.max(*since).plus(self.rules.retry_every * 2),
            false => at,
        };
        match revocation.for_ms {
            0 => behind,
            _ => behind.max(since.plus(lengthened(revocation.hold_off()))),
        }
    }

    /// Has the revocation had its effect on everybody, as far as this process's clock can tell?
    fn revocation_is_over(&self, now: Instant) -> bool {
        self.revocation.as_ref().is_some_and(|(revocation, since)| {
            revocation.for_ms == 0 || now >= since.plus(lengthened(revocation.hold_off()))
        })
    }
}

/// The step function of an elector; replaced only by the conformance suite's mutants.
pub type StepFn = Arc<dyn Fn(State, Instant, Event, &Fresh, Jitter) -> (State, Vec<Action>) + Send + Sync>;

/// One step of the protocol. `jitter` is in 0.0 … 1.0 and only spreads retries and polls.
pub fn step(
    mut state: State,
    now: Instant,
    event: Event,
    fresh: &Fresh,
    jitter: Jitter,
) -> (State, Vec<Action>) {
    if let Event::Progressed(at) = event {
        if let Role::Leader(tenure) = &mut state.role {
            tenure.progressed_at = tenure.progressed_at.max(at);
        }
        return (state, Vec::new());
    }
    let mut stepper = Stepper { state: &mut state, now, fresh, jitter, actions: Vec::new() };
    stepper.expire();
    stepper.take(event);
    stepper.advance();
    let actions = stepper.actions;
    (state, actions)
}

struct Stepper<'a> {
    state: &'a mut State,
    now: Instant,
    fresh: &'a Fresh,
    jitter: Jitter,
    actions: Vec<Action>,
}

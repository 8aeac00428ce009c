//! The protocol as a pure function: state and event in, state and actions out.
//!
//! Production, the tests and the model checker run this very function. It reads no clock, draws no random number
//! and knows no store: `now`, fresh bits and replies come in with each event. Every await of the driver lies between
//! two steps, so nothing here can be interrupted.
//!
//! How to read it: [`step`] first lets time pass (`expire`), then takes the event in, then decides what to send
//! (`advance`). At most one call is under way that isn't overdue, and at most two in all (U-5).

pub use super::messages::{Action, CallId, Event, Jitter, Loss, Note, Reply, Request, Rules, StopReason};
use crate::backend::{Change, PutOutcome};
use crate::clock::Instant;
use crate::deadline::{Claim, Deadline, SHORTEST_ATTEMPT, Sighting};
use crate::error::Certainty;
use crate::record::{Grant, Lineage, Observation, Record, RequestId, Tag, Term};
use crate::writes::{self, Fresh};

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
            watching: false,
            hinted: false,
            holder_is_dead: false,
            stopping: false,
            noted: None,
        }
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

    /// When the next [`Event::Tick`] is due, at the latest.
    pub fn wake_at(&self) -> Option<Instant> {
        let calls = self.calls.iter().map(|call| if call.overdue { call.drop_at } else { call.overdue_at });
        let tenure = match &self.role {
            Role::Leader(t) if t.stage == Stage::Working => Some(t.deadline.stop_at(self.rules.stop_grace)),
            Role::Leader(t) => Some(t.deadline.at()),
            Role::Stopped => return None,
            _ => None,
        };
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
            Role::Leader(_) => self.due_at,
            Role::Candidate if self.hinted || self.heal.is_some() || self.shows_pending() => Instant::ZERO,
            Role::Candidate => match self.claim_at() {
                Some(at) => at.min(self.due_at),
                None => self.due_at,
            },
        };
        Some(at.max(self.not_before))
    }

    /// Does the register show the grant of an acquisition whose outcome was unknown?
    fn shows_pending(&self) -> bool {
        self.pending
            .as_ref()
            .is_some_and(|p| self.observation().and_then(Observation::grant) == Some(p.grant))
    }

    /// From when on the register as last seen may be taken.
    fn claim_at(&self) -> Option<Instant> {
        let (_, sighting) = self.sighting.as_ref()?;
        let who = &self.rules.who;
        match sighting.claim(who.ttl, who.max_ttl, self.holder_is_dead) {
            Claim::At(at) => Some(at.max(self.hold_off_until)),
            Claim::Absent if self.rules.creates_registers => Some(self.hold_off_until),
            Claim::Absent | Claim::Sealed => None,
        }
    }
}

/// One step of the protocol. `jitter` is in 0.0 … 1.0 and only spreads retries and polls.
pub fn step(
    mut state: State,
    now: Instant,
    event: Event,
    fresh: &Fresh,
    jitter: Jitter,
) -> (State, Vec<Action>) {
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

impl Stepper<'_> {
    // === what time alone does ===

    fn expire(&mut self) {
        if let Role::Leader(tenure) = &self.state.role
            && !tenure.deadline.allows(self.now)
        {
            self.end(Loss::Expired);
        }
        let now = self.now;
        let mut newly_overdue = false;
        for call in &mut self.state.calls {
            newly_overdue |= !call.overdue && now >= call.overdue_at;
            call.overdue |= now >= call.overdue_at;
        }
        for call in self.state.calls.extract_if(.., |call| now >= call.drop_at) {
            self.actions.push(Action::Drop(call.id));
        }
        if newly_overdue {
            // The attempt has used up its pause already; the next one goes beside it (U-1).
            self.state.due_at = now;
        }
    }

    // === what events do ===

    fn take(&mut self, event: Event) {
        match event {
            Event::Tick => {}
            Event::Reply(id, reply) => {
                let Some(index) = self.state.calls.iter().position(|call| call.id == id) else { return };
                let call = self.state.calls.swap_remove(index);
                match reply {
                    Reply::Seen(observation) => self.saw(id, observation),
                    Reply::Put(PutOutcome::Written(observation)) => self.wrote(call, observation),
                    Reply::Put(PutOutcome::Conflict(observation)) => {
                        self.saw(id, observation);
                        // Whoever may still write does so at once, on what it has just seen (T-2, U-1).
                        self.state.due_at = self.now;
                    }
                    Reply::Failed(certainty) => self.failed(call, certainty),
                }
            }
            Event::Hint => self.state.hinted = true,
            Event::Shown(observation) => self.shown(observation),
            Event::Watching(live) => self.state.watching = live,
            Event::HolderIsDead => self.state.holder_is_dead = true,
            Event::FenceRefused(term) => {
                if self.tenure().is_some_and(|tenure| tenure.term == term) {
                    self.end(Loss::FenceRefused);
                }
            }
            Event::WorkReturned => match &mut self.state.role {
                Role::Leader(tenure) if tenure.stage != Stage::Releasing => {
                    // H-1: local false first, then the release, which no slow beat may hold up for long.
                    tenure.stage = Stage::Releasing;
                    self.state.not_before = self.now;
                    let soon = self.now.plus(SHORTEST_ATTEMPT);
                    self.state.calls.iter_mut().for_each(|call| call.overdue_at = call.overdue_at.min(soon));
                    self.actions.push(Action::End(Loss::Returned));
                }
                Role::Ousted => self.campaign_again(),
                _ => {}
            },
            Event::Shutdown => {
                self.state.stopping = true;
                self.tell_stop(StopReason::Shutdown);
            }
            Event::Abandon => {
                self.end(Loss::Abandoned);
                self.stop();
            }
        }
    }

    /// A linearizable answer shows the register. It never moves a deadline (T-1).
    fn saw(&mut self, id: CallId, observation: Observation) {
        let newest = self.state.sighting.as_ref().is_none_or(|(newest, _)| id > *newest);
        let before_our_term = self.tenure().is_some_and(|tenure| id < tenure.first_witness);
        if !newest || before_our_term {
            return; // An older call's answer came late; it proves nothing about now.
        }
        let record = observation.record.clone();
        if let Some((newest, sighting)) = &mut self.state.sighting {
            *newest = id;
            sighting.update(observation, self.now);
        } else {
            self.state.sighting = Some((id, Sighting::new(observation, self.now)));
        }
        if record.is_some() {
            self.state.heal = None;
        }
        match self.tenure() {
            Some(tenure) => {
                let mine = record.as_ref().is_some_and(|record| record.term() == Some(tenure.term));
                match record {
                    Some(record) if mine => self.heed_request(&record),
                    Some(record) if tenure.stage == Stage::Releasing && record.released(tenure.term) => {
                        self.released(record.answered);
                    }
                    Some(_) => self.end(Loss::Superseded),
                    None => {
                        self.state.heal = Some((tenure.term.epoch, tenure.deadline));
                        self.end(Loss::RegisterGone);
                    }
                }
            }
            None => self.saw_as_candidate(record.as_ref()),
        }
    }

    /// What a watch shows may be old, so it says nothing about a term or an acquisition of our own. A candidate may
    /// take it for what it last saw: old news starts its wait anew (T-2), and a write on it is compared
    /// (`docs/decisions/0007-hints-that-show.md`).
    fn shown(&mut self, observation: Observation) {
        let term = observation.record.as_ref().and_then(Record::term);
        let asked = observation.record.as_ref().is_some_and(|record| record.request.is_some());
        match (&self.state.role, &self.state.pending, &mut self.state.sighting) {
            // Our own writes come back.
            (Role::Leader(tenure), ..) if term == Some(tenure.term) && !asked => {}
            (Role::Candidate, Some(pending), _) if term.map(|term| term.grant) == Some(pending.grant) => {}
            (Role::Candidate, None, Some((_, sighting))) if observation.record.is_some() => {
                let record = observation.record.clone();
                sighting.update(observation, self.now);
                self.saw_as_candidate(record.as_ref());
            }
            _ => self.state.hinted = true,
        }
    }

    /// The register was given up; whoever asked for it comes first, also if it only polls.
    fn released(&mut self, answered: Option<RequestId>) {
        self.state.role = Role::Candidate;
        self.actions.push(Action::Note(Note::Released { answered }));
        if answered.is_some() {
            self.state.hold_off_until = self.now.plus(self.state.rules.retry_every * 2);
        }
    }

    fn saw_as_candidate(&mut self, record: Option<&Record>) {
        if self.state.shows_pending() {
            return;
        }
        if let Some(pending) = &self.state.pending {
            let may_yet_apply = record.is_some_and(|record| record.tag == pending.expected);
            if !may_yet_apply {
                self.state.pending = None;
            }
        }
        let note = match record {
            None => Some(Note::RegisterAbsent),
            Some(record) => match &record.sealed {
                Some(why) => Some(Note::Sealed(why.clone())),
                None => record.term().map(Note::Following),
            },
        };
        if self.state.noted != note {
            self.state.noted.clone_from(&note);
            self.actions.extend(note.map(Action::Note));
        }
    }

    fn wrote(&mut self, call: Call, observation: Observation) {
        match call.kind {
            Kind::Beat => {
                let ttl = self.state.rules.who.ttl;
                if let Role::Leader(tenure) = &mut self.state.role
                    && call.id >= tenure.first_witness
                {
                    tenure.deadline.extend(call.sent_at, ttl);
                    if tenure.stage != Stage::Releasing {
                        self.actions.push(Action::Extend(tenure.deadline));
                        self.actions.push(Action::Note(Note::Renewed));
                    }
                }
                self.saw(call.id, observation);
            }
            Kind::Acquire(_) | Kind::Confirm => {
                let term = observation.record.as_ref().and_then(Record::term);
                let wanted = match call.kind {
                    Kind::Acquire(grant) => grant,
                    _ => self.state.pending.as_ref().map_or(Grant(0), |pending| pending.grant),
                };
                // A late acknowledgement counts only while nothing newer has been seen.
                let newest = self.state.sighting.as_ref().is_none_or(|(newest, _)| call.id > *newest);
                let pending = self.state.pending.as_ref().is_some_and(|pending| pending.grant == wanted);
                self.saw(call.id, observation.clone());
                if let Some(term) = term.filter(|term| term.grant == wanted && (newest || pending)) {
                    if let Some((_, sighting)) = &mut self.state.sighting
                        && sighting.observation().grant() != Some(wanted)
                    {
                        // The later call was answered from before the acquisition.
                        sighting.update(observation, self.now);
                    }
                    self.begin(term, call.sent_at);
                }
            }
            Kind::Release => {
                let answered = observation.record.as_ref().and_then(|record| record.answered);
                if self.tenure().is_some_and(|tenure| tenure.stage == Stage::Releasing) {
                    self.released(answered);
                }
                self.saw(call.id, observation);
            }
            Kind::Init | Kind::Observe => self.saw(call.id, observation),
        }
    }

    fn failed(&mut self, call: Call, certainty: Certainty) {
        let pause = self.jitter.of(self.state.rules.retry_every);
        self.state.not_before = self.now.plus(pause);
        if matches!(call.kind, Kind::Acquire(_))
            && certainty == Certainty::NotApplied
            && self.no_acquire_under_way()
        {
            self.state.pending = None;
        }
        if self.tenure().is_some() {
            self.state.due_at = self.state.not_before;
        }
    }

    fn no_acquire_under_way(&self) -> bool {
        !self.state.calls.iter().any(|call| matches!(call.kind, Kind::Acquire(_)))
    }

    fn tenure(&self) -> Option<Tenure> {
        match &self.state.role {
            Role::Leader(tenure) => Some(tenure.clone()),
            _ => None,
        }
    }

    // === how terms begin and end ===

    fn begin(&mut self, term: Term, sent_at: Instant) {
        let deadline = Deadline::of_acknowledged(sent_at, self.state.rules.who.ttl);
        self.state.pending = None;
        if !deadline.allows(self.now) || self.state.role != Role::Candidate {
            return; // Acknowledged too late: it begins no term, and is waited out like anybody's (T-1).
        }
        let stage = if self.state.stopping { Stage::Releasing } else { Stage::Working };
        let first_witness = self.state.next_call;
        self.state.role = Role::Leader(Tenure { term, deadline, stage, first_witness, released_under: None });
        self.state.due_at = sent_at.plus(self.state.rules.renew_every);
        self.state.not_before = self.now;
        // Nothing that was sent before can tell us anything now: it holds up no beat.
        self.state.calls.iter_mut().for_each(|call| call.overdue = true);
        self.state.holder_is_dead = false;
        self.state.noted = None;
        if stage == Stage::Working {
            self.actions.push(Action::Begin(term, deadline));
        }
    }

    fn end(&mut self, loss: Loss) {
        let Role::Leader(tenure) = &self.state.role else { return };
        if tenure.stage == Stage::Releasing {
            self.actions.push(Action::Note(Note::ReleaseAbandoned));
            self.state.role = Role::Candidate;
        } else {
            self.actions.push(Action::End(loss));
            self.state.role = Role::Ousted;
        }
        self.state.due_at = self.now;
    }

    fn tell_stop(&mut self, reason: StopReason) {
        if let Role::Leader(tenure) = &mut self.state.role
            && tenure.stage == Stage::Working
        {
            tenure.stage = Stage::Draining;
            self.actions.push(Action::TellStop(reason));
        }
    }

    fn heed_request(&mut self, record: &Record) {
        if let Some(request) = writes::pending_request(record) {
            self.tell_stop(StopReason::StepDown { id: request.id, by: request.by.clone() });
        }
    }

    fn campaign_again(&mut self) {
        self.state.role = Role::Candidate;
        self.state.due_at = self.now;
    }

    fn stop(&mut self) {
        if self.state.role != Role::Stopped {
            self.state.role = Role::Stopped;
            for call in self.state.calls.drain(..) {
                self.actions.push(Action::Drop(call.id));
            }
            self.actions.push(Action::Stopped);
        }
    }

    // === what is sent next ===

    fn advance(&mut self) {
        if let Role::Leader(tenure) = &self.state.role
            && self.now >= tenure.deadline.stop_at(self.state.rules.stop_grace)
        {
            self.tell_stop(StopReason::Expiring);
        }
        if self.state.stopping && self.state.role == Role::Candidate && !self.acquire_may_be_answered() {
            self.stop();
        }
        if !self.state.may_send() || self.state.send_at().is_none_or(|at| self.now < at) {
            return;
        }
        match &self.state.role {
            Role::Candidate => self.advance_candidate(),
            Role::Leader(tenure) => match tenure.stage {
                Stage::Releasing => self.write_own(Kind::Release),
                _ if self.now >= self.state.due_at => self.write_own(Kind::Beat),
                _ => self.observe(),
            },
            Role::Ousted => self.heal_register(),
            Role::Stopped => {}
        }
    }

    /// While stopping: might an acquisition under way still make us the holder, so that we should release?
    fn acquire_may_be_answered(&self) -> bool {
        self.state
            .calls
            .iter()
            .any(|call| !call.overdue && matches!(call.kind, Kind::Acquire(_) | Kind::Confirm))
    }

    fn advance_candidate(&mut self) {
        let Some((_, sighting)) = &self.state.sighting else { return self.observe() };
        let observation = sighting.observation().clone();
        let Some(record) = observation.record.clone() else {
            if self.state.heal.is_some() {
                self.heal_register();
            } else if self.state.rules.creates_registers && !self.state.hinted {
                let new = writes::init(&observation, self.state.rules.who.max_ttl, 0, None, self.fresh);
                self.put(Kind::Init, observation, new, Change::Init);
            } else {
                self.observe();
            }
            return;
        };
        if let Some(pending) = &self.state.pending {
            let applied = record.grant == Some(pending.grant);
            if applied && pending.deadline.allows(self.now) {
                // U-2: seeing one's own grant proves nothing; a renewal that is acknowledged does.
                let beat = writes::renew(&observation, &record, self.fresh);
                return self.put(Kind::Confirm, observation, beat, Change::Renew);
            }
            if applied {
                self.state.pending = None;
            }
        }
        let unread = self.state.pending.is_some() && self.now >= self.state.due_at;
        let claimable = self.state.claim_at().is_some_and(|at| self.now >= at);
        if !claimable || self.state.hinted || unread {
            return self.observe();
        }
        // The same grant for every attempt on one tag: whichever attempt applies, it is this acquisition. The time in
        // which it may be confirmed counts from the first one, from which others wait it out.
        let (grant, deadline) = match &self.state.pending {
            Some(pending) if pending.expected == record.tag => (pending.grant, pending.deadline),
            _ => (self.fresh.grant, Deadline::of_acknowledged(self.now, self.state.rules.who.ttl)),
        };
        let term = writes::acquire(&observation, &record, &self.state.rules.who, grant, self.fresh);
        self.state.pending = Some(Pending { grant, expected: record.tag, deadline });
        self.put(Kind::Acquire(grant), observation, term, Change::Acquire);
        // If no answer comes, look before trying again.
        self.state.due_at = self.now;
    }

    /// A beat or the release of the present term, on the register as last seen.
    fn write_own(&mut self, kind: Kind) {
        let Some((_, sighting)) = &self.state.sighting else { return };
        let observation = sighting.observation().clone();
        let Some(record) = observation.record.clone() else { return };
        if kind == Kind::Beat {
            self.state.due_at = self.now.plus(self.state.rules.renew_every);
            let beat = writes::renew(&observation, &record, self.fresh);
            self.put(kind, observation, beat, Change::Renew);
        } else {
            let mut free = writes::release(&observation, &record, self.fresh);
            if let Role::Leader(tenure) = &mut self.state.role {
                // The first try may have been applied, and lost by a failover together with whoever acquired on it. So
                // it is free in the eyes of that lineage only (T-3).
                free.lineage =
                    tenure.released_under.get_or_insert_with(|| observation.lineage.clone()).clone();
            }
            self.put(kind, observation, free, Change::Release);
        }
    }

    /// T-5: an accident heals: closed, above our own epoch, and only before our own deadline.
    fn heal_register(&mut self) {
        let Some((epoch, until)) = self.state.heal else { return };
        match self.state.observation() {
            Some(gone) if gone.record.is_none() && until.allows(self.now) => {
                let gone = gone.clone();
                let closed = writes::init(
                    &gone,
                    self.state.rules.who.max_ttl,
                    epoch,
                    Some(self.fresh.grant),
                    self.fresh,
                );
                self.put(Kind::Init, gone, closed, Change::Init);
            }
            _ => {
                self.state.heal = None;
                if self.state.role == Role::Candidate {
                    self.observe();
                }
            }
        }
    }

    fn observe(&mut self) {
        self.state.hinted = false;
        if self.tenure().is_none() {
            self.state.due_at = self.now.plus(match self.state.watching {
                true => self.state.rules.renew_every,
                false => self.jitter.of(self.state.rules.retry_every),
            });
        }
        self.send(Kind::Observe, Request::Observe);
    }

    fn put(&mut self, kind: Kind, expected: Observation, record: Record, change: Change) {
        self.send(kind, Request::Put { expected, record, change });
    }

    fn send(&mut self, kind: Kind, request: Request) {
        let id = self.state.next_call;
        self.state.next_call += 1;
        let limit = match &self.state.role {
            Role::Leader(tenure) => tenure.deadline.attempt_limit(self.now),
            _ => Deadline::of_acknowledged(self.now, self.state.rules.who.ttl).attempt_limit(self.now),
        };
        let overdue_at = self.now.plus(limit);
        self.state.calls.push(Call {
            id,
            kind,
            sent_at: self.now,
            overdue_at,
            drop_at: overdue_at.plus(limit),
            overdue: false,
        });
        self.actions.push(Action::Send(id, request));
    }
}

//! The effect of time, of each event, and the beginning and end of terms.

use super::{Action, Call, CallId, Event, Kind, Note, Reply, Role, Stage, Stepper, Tenure};
use crate::backend::PutOutcome;
use crate::clock::Instant;
use crate::deadline::{Claim, Deadline, Known, SHORTEST_ATTEMPT, Seen, Sighting};
use crate::error::Certainty;
use crate::reasons::{Loss, StopReason};
use crate::record::{Grant, Lineage, Observation, Record, RequestId, Term};
use crate::revocation::Revocation;
use crate::writes;

impl Stepper<'_> {
    // === the effect of time ===

    pub(super) fn expire(&mut self) {
        if let Role::Leader(tenure) = &self.state.role
            && !tenure.deadline.allows(self.now)
        {
            self.end(if tenure.silent { Loss::Silent } else { Loss::Expired });
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
            self.interrupted();
        }
        // A candidate that stood still saw nothing meanwhile, as in an outage (T-2).
        let stood_still = |due: Instant| now > due.plus(self.state.rules.renew_every);
        if self.state.role == Role::Candidate
            && self.state.calls.is_empty()
            && self.state.send_at().is_some_and(stood_still)
        {
            self.interrupted();
        }
    }

    // === the effect of events ===

    pub(super) fn take(&mut self, event: Event) {
        match event {
            Event::Tick | Event::Progressed(_) => {}
            Event::Reply(id, reply) => {
                let Some(index) = self.state.calls.iter().position(|call| call.id == id) else { return };
                let call = self.state.calls.swap_remove(index);
                match reply {
                    Reply::Seen(observation) => self.read(&call, observation),
                    Reply::Put(PutOutcome::Written(observation)) => self.wrote(call, observation),
                    Reply::Put(PutOutcome::Conflict(observation)) => {
                        self.read(&call, observation);
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
            Event::StoreGone => {
                self.end(Loss::StoreGone);
                self.stop();
            }
        }
    }

    /// A linearizable read shows the register.
    fn read(&mut self, call: &Call, observation: Observation) {
        self.saw(call.id, observation, |sighting, shown, now| sighting.read(call.known, shown, now));
    }

    /// The store has applied a write, and shows the register with it.
    fn applied(&mut self, id: CallId, observation: Observation) {
        self.saw(id, observation, Sighting::wrote);
    }

    /// An answer shows the register. It never moves a deadline (T-1).
    fn saw(
        &mut self,
        id: CallId,
        observation: Observation,
        update: impl Fn(&mut Sighting, Observation, Instant) -> Seen,
    ) {
        let newest = self.state.sighting.as_ref().is_none_or(|(newest, _)| id > *newest);
        let before_our_term = self.tenure().is_some_and(|tenure| id < tenure.first_witness);
        if !newest || before_our_term {
            return; // An older call's answer came late; it proves nothing about now.
        }
        let record = observation.record.clone();
        let grant = self.state.observation().map(Observation::grant);
        let mut seen = Seen::Present;
        if let Some((newest, sighting)) = &mut self.state.sighting {
            seen = update(sighting, observation, self.now);
            if seen == Seen::Overtaken {
                return;
            }
            *newest = id;
        } else {
            self.state.sighting = Some((id, Sighting::new(observation, self.now)));
        }
        // The caller's word was about the holder that was seen then; another one is alive (F-3).
        self.state.holder_is_dead &= grant.is_none_or(|known| known == record_grant(record.as_ref()));
        if let Seen::Rewound(lost) = seen {
            self.rewound(lost);
        }
        if record.is_some() {
            self.state.heal = None;
        }
        self.saw_revocation(record.as_ref());
        match self.tenure() {
            Some(tenure) => {
                let mine = record.as_ref().is_some_and(|record| record.term() == Some(tenure.term));
                match record {
                    Some(record) if mine => self.heed_request(&record),
                    Some(record) if tenure.stage == Stage::Releasing && record.released(tenure.term) => {
                        self.released(record.answered);
                    }
                    Some(record) => {
                        let revoked = Revocation::of(&record).is_some_and(|by| by.epoch > tenure.term.epoch);
                        self.end(if revoked { Loss::Revoked } else { Loss::Superseded });
                    }
                    None => {
                        self.state.heal = Some((tenure.term.epoch, tenure.deadline));
                        self.end(Loss::RegisterGone);
                    }
                }
            }
            None => self.saw_as_candidate(record.as_ref()),
        }
    }

    /// The store was restored behind what was seen (T-6).
    fn rewound(&mut self, lost: Known) {
        let shows = self.state.sighting.as_ref().map(|(_, sighting)| sighting.known()).unwrap_or_default();
        self.actions.push(Action::Note(Note::Rewound { lost, shows }));
        // If it is applied once more, others may have led since: it is waited out like anybody's.
        self.state.pending = None;
        // The first try of a release may be among what was lost, with an acquisition on it (U-3).
        if let Role::Leader(tenure) = &mut self.state.role
            && tenure.released_under.is_some()
        {
            tenure.released_under = Some(Lineage::restored(self.fresh.tag));
        }
    }

    /// A call failed, or has had no answer in its time.
    fn interrupted(&mut self) {
        if let Some((_, sighting)) = &mut self.state.sighting {
            sighting.interrupted();
        }
    }

    /// A register that a watch shows may be old, so it says nothing about a term or an acquisition of our own. A
    /// candidate takes it for what it last saw if it goes on from there; else it looks
    /// (`docs/decisions/0007-hints-that-show.md`).
    fn shown(&mut self, observation: Observation) {
        let term = observation.record.as_ref().and_then(Record::term);
        let asked = observation.record.as_ref().is_some_and(|record| record.request.is_some());
        match (&self.state.role, &self.state.pending, &mut self.state.sighting) {
            // Our own writes come back.
            (Role::Leader(tenure), ..) if term == Some(tenure.term) && !asked => {}
            (Role::Candidate, Some(pending), _) if term.map(|term| term.grant) == Some(pending.grant) => {}
            (Role::Candidate, None, Some((_, sighting))) => {
                let record = observation.record.clone();
                let work = self.state.rules.who.work.as_deref();
                if record.as_ref().is_some_and(|record| !record.is_for(work)) {
                    // It may be old, and would be final (W-1).
                    self.state.hinted = true;
                    return;
                }
                let grant = sighting.observation().grant();
                if sighting.heard(observation, self.now) {
                    self.state.holder_is_dead &= grant == record_grant(record.as_ref());
                    self.saw_revocation(record.as_ref());
                    self.saw_as_candidate(record.as_ref());
                } else {
                    self.state.hinted = true;
                }
            }
            _ => self.state.hinted = true,
        }
    }

    /// A hold-off counts from the first sight of its revocation.
    fn saw_revocation(&mut self, record: Option<&Record>) {
        let shown = record.and_then(Revocation::of);
        if self.state.revocation.as_ref().map(|(known, _)| known) != shown.as_ref() {
            self.state.revocation = shown.map(|shown| (shown, self.now));
        }
    }

    /// The register was given up; whoever asked for it comes first, also if it only polls. So does anybody whose work
    /// gets on better (H-4).
    fn released(&mut self, answered: Option<RequestId>) {
        let silent = self.tenure().is_some_and(|tenure| tenure.silent);
        self.state.role = Role::Candidate;
        self.actions.push(Action::Note(Note::Released { answered }));
        if answered.is_some() || silent {
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
        if self.state.role == Role::Candidate
            && let Some(theirs) = self.state.others_work()
        {
            let note = Note::OthersWork(theirs.to_owned());
            self.actions.push(Action::Note(note));
            return self.stop();
        }
        let note = match record {
            None => Some(Note::RegisterAbsent),
            Some(record) => match &record.sealed {
                Some(why) => Some(Note::Sealed(why.clone())),
                None if self.state.claim() == Some(Claim::Exhausted) => {
                    Some(Note::EpochsExhausted(record.epoch))
                }
                None => self.revoked(record).or_else(|| record.term().map(Note::Following)),
            },
        };
        if self.state.noted != note {
            self.state.noted.clone_from(&note);
            self.actions.extend(note.map(Action::Note));
        }
    }

    /// The news of a revocation that ended the last term, or that keeps this candidate off.
    fn revoked(&self, record: &Record) -> Option<Note> {
        let (revocation, _) = self.state.revocation.as_ref()?;
        let excepted = revocation.except.as_ref() == Some(&self.state.rules.who.holder);
        let kept_off = excepted && !self.state.revocation_is_over(self.now);
        (revocation.ended_the_last_term(record) || kept_off).then(|| Note::Revoked {
            by: revocation.by.clone(),
            note: record.note.clone(),
            hold_off: excepted.then(|| revocation.hold_off()),
        })
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
                self.applied(call.id, observation);
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
                self.applied(call.id, observation.clone());
                if let Some(term) = term.filter(|term| term.grant == wanted && (newest || pending)) {
                    if let Some((_, sighting)) = &mut self.state.sighting
                        && sighting.observation().grant() != Some(wanted)
                        // The later call was answered from before the acquisition, or after others led.
                        && sighting.wrote(observation, self.now) == Seen::Overtaken
                    {
                        return;
                    }
                    self.begin(term, call.sent_at);
                }
            }
            Kind::Release => {
                let answered = observation.record.as_ref().and_then(|record| record.answered);
                if self.tenure().is_some_and(|tenure| tenure.stage == Stage::Releasing) {
                    self.released(answered);
                }
                self.applied(call.id, observation);
            }
            Kind::Init | Kind::Observe => self.applied(call.id, observation),
        }
    }

    fn failed(&mut self, call: Call, certainty: Certainty) {
        let pause = self.jitter.of(self.state.rules.retry_every);
        self.state.not_before = self.now.plus(pause);
        // A wait that has to start anew starts as soon as it can.
        self.state.due_at = self.state.due_at.min(self.state.not_before);
        self.interrupted();
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

    pub(super) fn tenure(&self) -> Option<Tenure> {
        match &self.state.role {
            Role::Leader(tenure) => Some(tenure.clone()),
            _ => None,
        }
    }

    // === the beginning and end of terms ===

    fn begin(&mut self, term: Term, sent_at: Instant) {
        let deadline = Deadline::of_acknowledged(sent_at, self.state.rules.who.ttl);
        self.state.pending = None;
        if !deadline.allows(self.now) || self.state.role != Role::Candidate {
            return; // Acknowledged too late: it begins no term, and is waited out like anybody's (T-1).
        }
        let stage = if self.state.stopping { Stage::Releasing } else { Stage::Working };
        let first_witness = self.state.next_call;
        self.state.role = Role::Leader(Tenure {
            term,
            deadline,
            stage,
            progressed_at: self.now,
            silent: false,
            first_witness,
            released_under: None,
        });
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

    pub(super) fn tell_stop(&mut self, reason: StopReason) {
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

    /// While its work went on it looked at nothing (T-2).
    fn campaign_again(&mut self) {
        self.state.role = Role::Candidate;
        self.state.due_at = self.now;
        self.interrupted();
    }

    pub(super) fn stop(&mut self) {
        if self.state.role != Role::Stopped {
            self.state.role = Role::Stopped;
            for call in self.state.calls.drain(..) {
                self.actions.push(Action::Drop(call.id));
            }
            self.actions.push(Action::Stopped);
        }
    }
}

fn record_grant(record: Option<&Record>) -> Option<Grant> {
    record.and_then(|record| record.grant)
}

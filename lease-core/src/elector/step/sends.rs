//! The choice of the next call.

use super::{Action, Call, CallRequest, Kind, Pending, Role, Stage, Stepper};
use crate::backend::Change;
use crate::deadline::Deadline;
use crate::reasons::StopReason;
use crate::record::{Observation, Record};
use crate::revocation::Revocation;
use crate::writes;

impl Stepper<'_> {
    pub(super) fn advance(&mut self) {
        if let Role::Leader(tenure) = &self.state.role
            && self.now >= tenure.deadline.stop_at(self.state.rules.stop_grace)
        {
            self.tell_stop(StopReason::Expiring);
        }
        if self.state.silent_at().is_some_and(|at| self.now >= at) {
            self.fall_silent();
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
                _ if self.now >= self.state.due_at && !tenure.silent => self.write_own(Kind::Beat),
                _ => self.observe(),
            },
            Role::Ousted => self.heal_register(),
            Role::Stopped => {}
        }
    }

    /// H-4: the work is told to stop, and no renewal is sent from here on, also if it comes back to life.
    fn fall_silent(&mut self) {
        if let Role::Leader(tenure) = &mut self.state.role {
            tenure.silent = true;
        }
        self.tell_stop(StopReason::Silent(self.state.rules.max_silence.unwrap_or_default()));
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
        let latest_beat = sighting.latest_beat();
        let Some(record) = observation.record.clone() else {
            if self.state.heal.is_some() {
                self.heal_register();
            } else if self.state.claim_at().is_some_and(|at| self.now >= at) && !self.state.hinted {
                // One that the store has forgotten may be held yet, so it is made closed (T-6).
                let grant = sighting.is_rewound().then_some(self.fresh.grant);
                let new = writes::init(&observation, self.state.rules.who.max_ttl, 0, grant, self.fresh);
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
                let beat = writes::renew(&observation, &above(record, latest_beat), self.fresh);
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
        let mut term = writes::acquire(&observation, &record, &self.state.rules.who, grant, self.fresh);
        self.forget_a_revocation(&mut term);
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
        let record = above(record, sighting.latest_beat());
        if kind == Kind::Beat {
            self.state.due_at = self.now.plus(self.state.rules.renew_every);
            let beat = writes::renew(&observation, &record, self.fresh);
            self.put(kind, observation, beat, Change::Renew);
        } else {
            let mut free = writes::release(&observation, &record, self.fresh);
            self.forget_a_revocation(&mut free);
            if let Role::Leader(tenure) = &mut self.state.role {
                // The first try may have been applied, and lost by a failover together with whoever acquired on it. So
                // it is free in the eyes of that lineage only (T-3).
                free.lineage =
                    tenure.released_under.get_or_insert_with(|| observation.lineage.clone()).clone();
            }
            self.put(kind, observation, free, Change::Release);
        }
    }

    /// Its hold-off ends with it, also for a process that has not seen it yet.
    fn forget_a_revocation(&self, record: &mut Record) {
        if self.state.revocation_is_over(self.now) {
            Revocation::forget(record);
        }
    }

    /// T-5: an accident heals: closed, above our own epoch, and only before our own deadline.
    fn heal_register(&mut self) {
        let Some((epoch, until)) = self.state.heal else { return };
        match self.state.observation() {
            Some(gone) if gone.record.is_none() && until.allows(self.now) => {
                let gone = gone.clone();
                let mut closed = writes::init(
                    &gone,
                    self.state.rules.who.max_ttl,
                    epoch,
                    Some(self.fresh.grant),
                    self.fresh,
                );
                closed.keep_work(self.state.rules.who.work.as_deref());
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
        self.send(Kind::Observe, CallRequest::Observe);
    }

    fn put(&mut self, kind: Kind, expected: Observation, record: Record, change: Change) {
        self.send(kind, CallRequest::Put { expected, record, change });
    }

    fn send(&mut self, kind: Kind, request: CallRequest) {
        let id = self.state.next_call;
        self.state.next_call += 1;
        let limit = match &self.state.role {
            Role::Leader(tenure) => tenure.deadline.attempt_limit(self.now),
            _ => Deadline::of_acknowledged(self.now, self.state.rules.who.ttl).attempt_limit(self.now),
        };
        let overdue_at = self.now.plus(limit);
        let known = self.state.sighting.as_ref().map(|(_, sighting)| sighting.known()).unwrap_or_default();
        self.state.calls.push(Call {
            id,
            kind,
            known,
            sent_at: self.now,
            overdue_at,
            drop_at: overdue_at.plus(limit),
            overdue: false,
        });
        self.actions.push(Action::Send(id, request));
    }
}

/// The holder's own record, whose next beat exceeds every one that was seen of it (T-6).
fn above(record: Record, latest_beat: u64) -> Record {
    Record { beat: record.beat.max(latest_beat), ..record }
}

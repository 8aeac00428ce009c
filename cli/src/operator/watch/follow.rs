//! Turns observations into happenings: pure. Beats are judged by the watcher's own clock alone.

use std::time::Duration;

use lease_core::internal::deadline::{Claim, Sighting};
use lease_core::internal::writes;
use lease_core::{Instant, Observation, Record};
use serde::Serialize;

use super::super::{ended_by_operator, state};

/// Something that people want to know about a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Happening {
    /// The lease is there, and this is how it was first seen.
    Seen { state: &'static str, holder: String, epoch: u64 },
    /// There is no such lease.
    Absent,
    /// The register was deleted.
    Deleted { holder: String, epoch: u64 },
    /// A new term.
    Acquired { holder: String, epoch: u64, from: String, unseen_changes: u64 },
    /// A beat: a sign of life.
    Beat { holder: String, epoch: u64, beat: u64 },
    /// No beat for longer than half a ttl.
    Silent { holder: String, epoch: u64, silent_ms: u64, ttl_ms: u64 },
    /// A beat after a silence.
    BeatingAgain { holder: String, epoch: u64, silent_ms: u64 },
    /// No beat for so long that a candidate may take the lease (T-2).
    MayBeTaken { holder: String, epoch: u64, silent_ms: u64 },
    /// The holder gave the lease up; `asked` if an operator or a successor had asked it to.
    Released { holder: String, epoch: u64, asked: bool },
    /// An operator ended the term.
    Revoked { holder: String, epoch: u64, free: bool, note: String },
    /// Somebody asked the holder to step down.
    StepDownAsked { holder: String, epoch: u64, by: String },
    /// The lease was moved to another store.
    Sealed { note: String },
}

/// The last judgement of the present holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Liveness {
    /// It beats, or there is nobody to beat.
    Fine,
    Silent,
    MayBeTaken,
}

/// One lease, as it was seen so far.
#[derive(Debug, Default)]
pub(super) struct Follower {
    sighting: Option<Sighting>,
    liveness: Option<Liveness>,
    looked: bool,
}

impl Follower {
    /// Takes in an observation that was received at `now`.
    pub(super) fn observe(&mut self, observation: Observation, now: Instant) -> Vec<Happening> {
        let mut happened = Vec::new();
        let before = self.sighting.as_ref().and_then(|sighting| sighting.observation().record.clone());
        let silent_ms = self.age(now).map_or(0, millis);
        match (&before, &observation.record) {
            (None, Some(record)) => happened.push(seen(record)),
            (Some(before), Some(record)) => changed(before, record, &mut happened),
            (Some(before), None) => {
                happened.push(Happening::Deleted { holder: before.holder.clone(), epoch: before.epoch });
            }
            (None, None) if !self.looked => happened.push(Happening::Absent),
            (None, None) => {}
        }
        // Of a term that is seen for the first time, too: nothing else would ever tell of it.
        if let Some(record) = &observation.record
            && let Some(request) = writes::pending_request(record)
            && before.as_ref().and_then(|before| before.request.as_ref()) != Some(request)
        {
            let (holder, epoch) = (record.holder.clone(), record.epoch);
            happened.push(Happening::StepDownAsked { holder, epoch, by: request.by.clone() });
        }
        self.looked = true;
        Sighting::read_in_turn(&mut self.sighting, observation, now);
        let (holder, epoch) = self.holder();
        if self.age(now).is_some_and(|age| age.is_zero()) && self.liveness != Some(Liveness::Fine) {
            let was_silent = self.liveness.replace(Liveness::Fine).is_some();
            if was_silent && happened.iter().any(|what| matches!(what, Happening::Beat { .. })) {
                happened.push(Happening::BeatingAgain { holder, epoch, silent_ms });
            }
        }
        happened.extend(self.judge(now));
        happened
    }

    /// Judges the silence since the last beat.
    pub(super) fn judge(&mut self, now: Instant) -> Option<Happening> {
        let sighting = self.sighting.as_ref()?;
        let record = sighting.observation().record.as_ref()?;
        record.grant?;
        let age = now.since(sighting.since());
        let nobody = record.holder.is_empty() || ended_by_operator(record);
        let claim = sighting.claim(record.ttl(), record.max_ttl(), false);
        let liveness = match claim {
            Claim::At(at) if at <= now => Liveness::MayBeTaken,
            Claim::At(_) if age > record.ttl() / 2 && !nobody => Liveness::Silent,
            _ => Liveness::Fine,
        };
        if self.liveness.replace(liveness) == Some(liveness) {
            return None;
        }
        let (holder, epoch) = (if nobody { String::new() } else { record.holder.clone() }, record.epoch);
        match liveness {
            Liveness::Fine => None,
            Liveness::Silent => {
                Some(Happening::Silent { holder, epoch, silent_ms: millis(age), ttl_ms: record.ttl_ms })
            }
            Liveness::MayBeTaken => Some(Happening::MayBeTaken { holder, epoch, silent_ms: millis(age) }),
        }
    }

    /// The time since the present beat was first seen.
    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.sighting.as_ref().map(|sighting| now.since(sighting.since()))
    }

    /// The record as it was seen last.
    pub(super) fn record(&self) -> Option<&Record> {
        self.sighting.as_ref().and_then(|sighting| sighting.observation().record.as_ref())
    }

    fn holder(&self) -> (String, u64) {
        self.record().map_or_else(Default::default, |record| (record.holder.clone(), record.epoch))
    }
}

fn millis(span: Duration) -> u64 {
    span.as_millis().try_into().unwrap_or(u64::MAX)
}

fn seen(record: &Record) -> Happening {
    Happening::Seen { state: state(record), holder: record.holder.clone(), epoch: record.epoch }
}

fn changed(before: &Record, now: &Record, happened: &mut Vec<Happening>) {
    let (holder, epoch) = (now.holder.clone(), now.epoch);
    if let Some(note) = &now.sealed
        && before.sealed.is_none()
    {
        happened.push(Happening::Sealed { note: note.clone() });
        return;
    }
    if now.grant == before.grant && now.transitions == before.transitions {
        if now.beat != before.beat && now.grant.is_some() {
            happened.push(Happening::Beat { holder, epoch, beat: now.beat });
        }
        return;
    }
    // A release keeps the transitions; a grant, also one that nobody holds, raises them.
    let released = now.grant.is_none() && now.beat > 0;
    if now.transitions > before.transitions {
        if ended_by_operator(now) || (now.grant.is_none() && !released) {
            let free = now.grant.is_none();
            happened.push(Happening::Revoked { holder: holder.clone(), epoch, free, note: now.note.clone() });
        } else {
            let unseen_changes = now.transitions - before.transitions - 1;
            let from = before.holder.clone();
            happened.push(Happening::Acquired { holder: holder.clone(), epoch, from, unseen_changes });
        }
    }
    if released {
        happened.push(Happening::Released { holder, epoch, asked: now.answered.is_some() });
    }
}

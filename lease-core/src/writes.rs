//! Each change as a new record (E-1, T-5, H-2, H-3): pure, and the only place that builds one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::record::{EPOCHS_ABOVE, Grant, Lineage, Observation, Record, Request, RequestId, Tag, WallTime};
use crate::revocation::Revocation;

/// A write's inputs from outside the protocol: fresh random bits, and the time of day for people.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fresh {
    /// The write attempt's tag.
    pub tag: Tag,
    /// A grant, should this write need one.
    pub grant: Grant,
    /// For people.
    pub wall: WallTime,
}

impl Fresh {
    /// From the operating system.
    pub fn random() -> Self {
        Self { tag: Tag::random(), grant: Grant::random(), wall: WallTime::now() }
    }
}

/// A candidate for a lease, and the settings of its terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// The workload instance, for people.
    pub holder: String,
    /// The region, for people.
    pub region: String,
    /// The ttl of a term.
    pub ttl: Duration,
    /// The candidate's idea of the lease's maximum ttl.
    pub max_ttl: Duration,
    /// Mark the record pre-emptible (F-3).
    pub preemptible: bool,
    /// The work that it wants the lease for (W-1).
    pub work: Option<String>,
}

fn millis(span: Duration) -> u64 {
    span.as_millis().try_into().unwrap_or(u64::MAX)
}

/// One more grant. Stops at what every store's integers hold, so that a count spoiled by hand stops nobody.
pub fn one_more(transitions: u64) -> u64 {
    transitions.saturating_add(1).min(i64::MAX as u64)
}

/// The beat after this one: another number (T-2), and one that every store's integers hold.
fn next_beat(beat: u64) -> u64 {
    if beat < i64::MAX as u64 { beat + 1 } else { 0 }
}

/// A register that nobody has held: closed if `grant`, else free. `above` raises the epoch beyond the floor (T-5).
pub fn init(
    expected: &Observation,
    max_ttl: Duration,
    above: u64,
    grant: Option<Grant>,
    fresh: &Fresh,
) -> Record {
    Record {
        tag: fresh.tag,
        grant,
        epoch: expected.floor.max(above).saturating_add(grant.is_some().into()),
        beat: 0,
        holder: String::new(),
        ttl_ms: millis(max_ttl),
        max_ttl_ms: millis(max_ttl),
        lineage: expected.lineage.clone(),
        transitions: u64::from(grant.is_some()),
        preemptible: false,
        sealed: None,
        request: None,
        answered: None,
        acquired_at: fresh.wall,
        renewed_at: fresh.wall,
        expires_at: if grant.is_some() { fresh.wall.plus(max_ttl) } else { fresh.wall },
        region: String::new(),
        note: String::new(),
        extra: Default::default(),
    }
}

/// A new term for `candidate` on the register that `expected` shows (E-1).
pub fn acquire(
    expected: &Observation,
    before: &Record,
    who: &Candidate,
    grant: Grant,
    fresh: &Fresh,
) -> Record {
    let mut extra = before.extra.clone();
    extra.remove(RESERVED_FOR);
    extra.remove(EPOCHS_ABOVE);
    let mut acquired = Record {
        tag: fresh.tag,
        grant: Some(grant),
        epoch: expected.next_epoch(),
        beat: 0,
        holder: who.holder.clone(),
        ttl_ms: millis(who.ttl),
        max_ttl_ms: before.max_ttl_ms.max(millis(who.max_ttl)),
        lineage: expected.lineage.clone(),
        transitions: one_more(before.transitions),
        preemptible: who.preemptible,
        sealed: None,
        request: None,
        answered: None,
        acquired_at: fresh.wall,
        renewed_at: fresh.wall,
        expires_at: fresh.wall.plus(who.ttl),
        region: who.region.clone(),
        note: String::new(),
        extra,
    };
    if let Some(work) = &who.work {
        acquired.keep_work(Some(work));
    }
    acquired
}

/// The next beat of the present term.
pub fn renew(expected: &Observation, before: &Record, fresh: &Fresh) -> Record {
    Record {
        tag: fresh.tag,
        beat: next_beat(before.beat),
        lineage: expected.lineage.clone(),
        renewed_at: fresh.wall,
        expires_at: fresh.wall.plus(before.ttl()),
        ..before.clone()
    }
}

/// The present term gives the register up; a pending request for it is answered (H-2). If that request reserves the
/// register, it is left closed: a grant that nobody holds, which candidates wait out as ever (T-2).
pub fn release(expected: &Observation, before: &Record, fresh: &Fresh) -> Record {
    let answered = pending_request(before).map(|request| request.id);
    let closed = answered.is_some() && reserved_for(before) == answered;
    let mut released = Record {
        tag: fresh.tag,
        grant: closed.then_some(fresh.grant),
        epoch: if closed { expected.next_epoch() } else { before.epoch },
        beat: next_beat(before.beat),
        lineage: expected.lineage.clone(),
        transitions: if closed { one_more(before.transitions) } else { before.transitions },
        answered,
        request: None,
        renewed_at: fresh.wall,
        expires_at: if closed { fresh.wall.plus(before.ttl()) } else { fresh.wall },
        ..before.clone()
    };
    released.extra.remove(RESERVED_FOR);
    released
}

/// In [`Record::extra`]: the request whose answer leaves the register closed.
const RESERVED_FOR: &str = "reserved_for";

fn reserved_for(record: &Record) -> Option<RequestId> {
    record.extra.get(RESERVED_FOR)?.as_str()?.parse().ok()
}

/// A request whose answer leaves the register closed, so that whoever asked can go on with it before any candidate
/// does: a move's seal (M-1). If it never does, a candidate takes the register after T-2's wait.
pub fn reserving_request(before: &Record, grant: Grant, id: RequestId, by: &str, fresh: &Fresh) -> Record {
    let mut asked = request(before, grant, id, by, fresh);
    asked.extra.insert(RESERVED_FOR.to_owned(), id.to_string().into());
    asked
}

/// Asks the present holder to step down (H-2). Leaves grant and beat alone.
pub fn request(before: &Record, grant: Grant, id: RequestId, by: &str, fresh: &Fresh) -> Record {
    Record { tag: fresh.tag, request: Some(Request { id, grant, by: by.to_owned() }), ..before.clone() }
}

/// Ends the present term from outside, with an epoch above `above` too (H-3, F-4): a grant that nobody holds, or
/// `free` if it is certain that nothing unfenced of the old holder's can happen any more. The last holder holds off.
pub fn revoke(
    expected: &Observation,
    before: &Record,
    above: u64,
    free: bool,
    note: &str,
    fresh: &Fresh,
) -> Record {
    let mut revoked = Record {
        tag: fresh.tag,
        grant: (!free).then_some(fresh.grant),
        epoch: expected.next_epoch().max(above.saturating_add(1)),
        beat: 0,
        transitions: one_more(before.transitions),
        request: None,
        answered: None,
        renewed_at: fresh.wall,
        expires_at: if free { fresh.wall } else { fresh.wall.plus(before.ttl()) },
        note: note.to_owned(),
        ..before.clone()
    };
    let except = Some(before.holder.clone()).filter(|holder| !holder.is_empty());
    Revocation { epoch: revoked.epoch, by: String::new(), except, for_ms: 0 }.keep_in(&mut revoked);
    revoked
}

/// An epoch above all that a restore may have lost, as far as anybody can know: the milliseconds since 2026, 32 to each.
/// So what follows a second restore of one backup exceeds what followed the first, also where processes lifted epochs by
/// themselves (T-6). It stays below the next timeline of a Postgres (2^46 epochs each): a failover may lose it, and what
/// was acquired on it, and what is acquired on the new timeline must exceed that.
pub fn epochs_lost(seen: &Observation, wall: WallTime) -> u64 {
    const TIMELINE: u64 = 1 << 46;
    let next = seen.next_epoch();
    const YEAR_2026: i64 = 1_767_225_600_000;
    let since = wall.0.saturating_sub(YEAR_2026).max(0).unsigned_abs();
    let by_time = since.saturating_mul(32).min(TIMELINE - 1); // until 2095
    (next / TIMELINE * TIMELINE).saturating_add(by_time).max(next.saturating_add(1 << 20))
}

/// The register of a store that was restored: under a stamp that is no store's, so that whoever sees it waits out what
/// is forgotten, and with later epochs above `above` (T-6). Leaves grant and beat alone: a holder that lives stamps it
/// again with its next beat.
pub fn restored(before: &Record, above: u64, note: &str, fresh: &Fresh) -> Record {
    let mut restored = Record {
        tag: fresh.tag,
        lineage: Lineage::restored(fresh.tag),
        note: note.to_owned(),
        ..before.clone()
    };
    restored.extra.insert(EPOCHS_ABOVE.to_owned(), above.into());
    restored
}

/// The register for whichever work comes next (W-1). Leaves grant and beat alone.
pub fn forget_work(before: &Record, fresh: &Fresh) -> Record {
    let mut anybodys = Record { tag: fresh.tag, ..before.clone() };
    anybodys.keep_work(None);
    anybodys
}

/// The record's pending request, if it is meant for the present grant.
pub fn pending_request(record: &Record) -> Option<&Request> {
    record.request.as_ref().filter(|request| record.grant == Some(request.grant))
}

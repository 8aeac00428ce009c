//! The only place that decides *may I still act?* (T-1) and *may I take over?* (T-2, T-3, T-5).
//!
//! Both answers come from one process's own clock. ρ bounds how far each machine's clock rate is off: a holder
//! counts its ttl short by it, a candidate long, so the two never overlap whatever the wall clocks say.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Instant;
use crate::record::{Grant, Lineage, Observation};

/// ρ as a divisor: 1/500, far beyond what a working quartz or NTP's slewing (1/2000) can do.
pub const RHO_DIVISOR: u32 = 500;

/// ttl·(1−ρ): how long a holder trusts a beat, counted from its sending.
pub fn shortened(ttl: Duration) -> Duration {
    ttl - ttl / RHO_DIVISOR
}

/// ttl·(1+ρ), rounded up: how long a candidate waits without a beat, counted from when it received the last one.
pub fn lengthened(ttl: Duration) -> Duration {
    ttl + ttl / RHO_DIVISOR + Duration::from_nanos(1)
}

/// Until when a term may be acted on (T-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Deadline(Instant);

impl Deadline {
    /// `sent_at` is the clock **just before** a write of the term was sent that the store has **acknowledged**.
    pub fn of_acknowledged(sent_at: Instant, ttl: Duration) -> Self {
        Self(sent_at.plus(shortened(ttl)))
    }

    /// May the term still be acted on, renewed, confirmed or released?
    pub fn allows(self, now: Instant) -> bool {
        now < self.0
    }

    /// Another acknowledged write of the same term. Never moves the deadline back.
    pub fn extend(&mut self, sent_at: Instant, ttl: Duration) {
        self.0 = self.0.max(Self::of_acknowledged(sent_at, ttl).0);
    }

    /// The moment itself: acting is allowed strictly before it.
    pub fn at(self) -> Instant {
        self.0
    }

    /// When the work is told to stop, so that it has stopped before the deadline.
    pub fn stop_at(self, stop_grace: Duration) -> Instant {
        self.0.minus(stop_grace)
    }

    /// The time limit of one attempt to move the deadline, after which another is made beside it (U-1).
    pub fn attempt_limit(self, now: Instant) -> Duration {
        (self.0.since(now) / 2).max(SHORTEST_ATTEMPT)
    }
}

/// From this moment on, work that has reported nothing since `progressed_at` is silent: its term is renewed no more, and
/// ends at its own deadline (H-4).
pub fn silent_at(progressed_at: Instant, max_silence: Duration) -> Instant {
    progressed_at.plus(max_silence)
}

/// A deadline that one thread moves while others ask; `is_leader_now()` reads it.
#[derive(Debug)]
pub struct AtomicDeadline(AtomicU64);

impl AtomicDeadline {
    /// Starts at `deadline`.
    pub fn new(deadline: Deadline) -> Self {
        Self(AtomicU64::new(deadline.0.0))
    }

    /// The present deadline.
    #[inline]
    pub fn load(&self) -> Deadline {
        Deadline(Instant(self.0.load(Ordering::Acquire)))
    }

    /// May the term still be acted on?
    #[inline]
    pub fn allows(&self, now: Instant) -> bool {
        self.load().allows(now)
    }

    /// Moves the deadline, unless it was cleared: a term that is over never comes back.
    pub fn extend(&self, deadline: Deadline) {
        let later = |present| (present != 0).then_some(deadline.0.0.max(present));
        let _ = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, later);
    }

    /// The term is over, at once and for good.
    pub fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// No attempt is cut sooner than this (U-1).
pub const SHORTEST_ATTEMPT: Duration = Duration::from_millis(100);

/// A candidate's knowledge of the present holder, and the time of its last sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sighting {
    observation: Observation,
    since: Instant,
}

/// The verdict of T-2, T-3 and T-5 on a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// May be taken from this moment on, by a `put_if` on the sighting's observation.
    At(Instant),
    /// There is no register; nobody acquires from absence (T-5).
    Absent,
    /// Final: never (M-1).
    Sealed,
}

impl Sighting {
    /// The first observation of a register, received at `received_at`.
    pub fn new(observation: Observation, received_at: Instant) -> Self {
        Self { observation, since: received_at }
    }

    /// A newer observation. If it shows the same lineage, grant and beat, the wait goes on; else it starts anew (T-2).
    pub fn update(&mut self, observation: Observation, received_at: Instant) {
        if Self::beat(&self.observation) != Self::beat(&observation) {
            self.since = received_at;
        }
        self.observation = observation;
    }

    /// The latest observation: what the next `put_if` compares.
    pub fn observation(&self) -> &Observation {
        &self.observation
    }

    /// When the present beat was first received.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Do both show the same holder at the same beat?
    fn beat(observation: &Observation) -> (&Lineage, Option<(Option<Grant>, u64)>) {
        (&observation.lineage, observation.record.as_ref().map(|record| (record.grant, record.beat)))
    }

    /// When may somebody with this `ttl` and this idea of the lease's `max_ttl` take the register over?
    ///
    /// Under a foreign stamp a failover may have lost an acquisition, whose ttl can be anything up to the maximum:
    /// free or held, such a register is waited out at the maximum (T-3, `docs/decisions/0002-foreign-stamp.md`).
    ///
    /// `holder_is_dead` is the caller's word, and counts only if the holder had marked its record pre-emptible (F-3).
    pub fn claim(&self, ttl: Duration, max_ttl: Duration, holder_is_dead: bool) -> Claim {
        let Some(record) = &self.observation.record else { return Claim::Absent };
        if record.sealed.is_some() {
            return Claim::Sealed;
        }
        let wait = if record.lineage != self.observation.lineage {
            record.max_ttl().max(max_ttl)
        } else if record.grant.is_none() || (record.preemptible && holder_is_dead) {
            return Claim::At(Instant::ZERO);
        } else {
            record.ttl().max(ttl)
        };
        Claim::At(self.since.plus(lengthened(wait)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;
    use crate::writes::{self, Fresh};

    const TTL: Duration = Duration::from_secs(15);

    fn at(secs: u64) -> Instant {
        Instant::ZERO.plus(Duration::from_secs(secs))
    }

    fn seen(grant: Option<u128>, beat: u64, stamp: &str, present: &str) -> Observation {
        let empty =
            Observation { record: None, lineage: Lineage(stamp.into()), floor: 0, version: String::new() };
        let free = writes::init(&empty, Duration::from_secs(60), 7, None, &Fresh::random());
        let record = Record { grant: grant.map(Grant), beat, ttl_ms: 15_000, ..free };
        Observation { record: Some(record), lineage: Lineage(present.into()), ..empty }
    }

    fn claim_of(observation: Observation) -> Claim {
        Sighting::new(observation, at(100)).claim(TTL, TTL, false)
    }

    #[test]
    fn a_deadline_counts_from_the_sending_and_never_moves_back() {
        let mut deadline = Deadline::of_acknowledged(at(100), TTL);
        assert_eq!(deadline.at(), at(100).plus(TTL - TTL / 500));
        assert!(deadline.allows(at(114)) && !deadline.allows(deadline.at()));
        deadline.extend(at(90), TTL);
        assert_eq!(deadline, Deadline::of_acknowledged(at(100), TTL));
    }

    #[test]
    fn a_held_register_is_waited_out_at_the_longer_ttl() {
        let observation = seen(Some(1), 3, "a", "a");
        assert_eq!(claim_of(observation.clone()), Claim::At(at(100).plus(lengthened(TTL))));
        let patient = Sighting::new(observation, at(100)).claim(TTL * 2, TTL * 2, false);
        assert_eq!(patient, Claim::At(at(100).plus(lengthened(TTL * 2))));
    }

    #[test]
    fn a_new_beat_starts_the_wait_anew_but_a_request_does_not() {
        let mut sighting = Sighting::new(seen(Some(1), 3, "a", "a"), at(100));
        sighting.update(seen(Some(1), 3, "a", "a"), at(105));
        assert_eq!(sighting.since(), at(100), "same beat under a new tag: a request or a note");
        sighting.update(seen(Some(1), 4, "a", "a"), at(106));
        assert_eq!(sighting.since(), at(106));
        sighting.update(seen(Some(1), 4, "a", "b"), at(107));
        assert_eq!(sighting.since(), at(107), "a failover starts the wait anew");
    }

    #[test]
    fn free_is_taken_at_once_only_under_the_present_lineage() {
        assert_eq!(claim_of(seen(None, 3, "a", "a")), Claim::At(Instant::ZERO));
        let maximum = Claim::At(at(100).plus(lengthened(Duration::from_secs(60))));
        assert_eq!(claim_of(seen(None, 3, "a", "b")), maximum);
        assert_eq!(claim_of(seen(Some(1), 3, "a", "b")), maximum, "a lost acquisition may have had any ttl");
    }

    #[test]
    fn neither_absence_nor_a_seal_is_ever_claimed() {
        let mut gone = seen(None, 0, "a", "a");
        gone.record = None;
        assert_eq!(claim_of(gone), Claim::Absent);
        let mut sealed = seen(None, 0, "a", "a");
        sealed.record.as_mut().unwrap().sealed = Some("elsewhere".into());
        assert_eq!(claim_of(sealed), Claim::Sealed);
    }

    #[test]
    fn only_a_record_marked_preemptible_is_taken_on_the_callers_word() {
        let wait = Claim::At(at(100).plus(lengthened(TTL)));
        let mut observation = seen(Some(1), 3, "a", "a");
        assert_eq!(Sighting::new(observation.clone(), at(100)).claim(TTL, TTL, true), wait);
        observation.record.as_mut().unwrap().preemptible = true;
        assert_eq!(Sighting::new(observation.clone(), at(100)).claim(TTL, TTL, false), wait);
        assert_eq!(Sighting::new(observation, at(100)).claim(TTL, TTL, true), Claim::At(Instant::ZERO));
    }
}

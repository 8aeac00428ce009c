//! The only place that decides *may I still act?* (T-1) and *may I take over?* (T-2, T-3, T-5, T-6).
//!
//! Both answers come from one process's own clock. ρ bounds how far each machine's clock rate is off: a holder
//! counts its ttl short by it, a candidate long, so the two never overlap whatever the wall clocks say.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Instant;
use crate::record::{Grant, Observation, Record, Term};

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

/// How far a process has seen a register go, and the store with it: the knowledge from before a call, which its answer
/// can't be behind of in one history of the store (T-6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Known {
    /// The register's epoch,
    epoch: u64,
    /// its beat in that epoch,
    beat: u64,
    /// and the grant, of which an epoch has one.
    grant: Option<Grant>,
    /// The store's floor, or what the record says was issued.
    floor: u64,
}

impl Known {
    /// What one answer shows.
    pub fn of(observation: &Observation) -> Self {
        let (epoch, beat) = position(observation).unwrap_or_default();
        Self { epoch, beat, grant: observation.grant(), floor: issued(observation) }
    }

    /// Has the store forgotten some of it, to judge by the answer to a call that was sent afterwards?
    fn is_beyond(self, shown: &Observation) -> bool {
        let issued = issued(shown);
        match position(shown) {
            Some(at) if at == (self.epoch, self.beat) && shown.grant() != self.grant => true,
            Some(at) => at < (self.epoch, self.beat) || issued < self.floor,
            None => issued < self.floor.max(self.epoch),
        }
    }
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}, beat {}, floor {}", self.epoch, self.beat, self.floor)
    }
}

/// Two that show the same lineage, holder, beat and stamp show no sign of life.
fn shows_the_same(one: &Observation, other: &Observation) -> bool {
    let same_beat = match (&one.record, &other.record) {
        (Some(one), Some(other)) => {
            (one.grant, one.beat, &one.lineage) == (other.grant, other.beat, &other.lineage)
        }
        (None, None) => true,
        _ => false,
    };
    one.lineage == other.lineage && same_beat
}

/// What no renewal, request or release of a term changes.
fn lasting(record: &Record) -> impl PartialEq {
    let Record { ttl_ms, max_ttl_ms, preemptible, sealed, lineage, .. } = record;
    (record.issued(), *ttl_ms, *max_ttl_ms, *preemptible, sealed.clone(), lineage.clone())
}

fn issued(observation: &Observation) -> u64 {
    observation.record.as_ref().map_or(0, Record::issued).max(observation.floor)
}

fn position(observation: &Observation) -> Option<(u64, u64)> {
    observation.record.as_ref().map(|record| (record.epoch, record.beat))
}

/// A candidate's knowledge of the present holder, and the time of its last sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sighting {
    /// Its floor is at least every epoch that was seen, and every floor.
    observation: Observation,
    since: Instant,
    known: Known,
    rewind: Option<Rewind>,
    interrupted: bool,
}

/// The store has gone back behind what was seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Rewind {
    /// When that was last found.
    at: Instant,
    /// The last epoch that was lost, and its beat.
    lost: (u64, u64),
    /// The greatest maximum ttl among what was lost.
    max_ttl: Duration,
}

/// The number of epochs that a store is taken to have issued at most after what was seen last, and lost in a restore.
const UNSEEN_EPOCHS: u64 = 1 << 20;

/// An answer, compared with what was known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The register as it is, as far as anybody can know.
    Present,
    /// Another call's answer, which was here before, is newer: this one says nothing about now.
    Overtaken,
    /// The store has forgotten this much (T-6).
    Rewound(Known),
}

/// The verdict of T-2, T-3, T-5 and T-6 on a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// May be taken from this moment on, by a `put_if` on the sighting's observation.
    At(Instant),
    /// A call failed or had no answer in time: nobody claims before the next answer, which starts the wait anew (T-2).
    AfterALook,
    /// There is no register; nobody acquires from absence (T-5).
    Absent,
    /// Final: never (M-1).
    Sealed,
    /// The next epoch would be above the ceiling (E-1): not before an operator has repaired the register.
    Exhausted,
}

impl Sighting {
    /// The first observation of a register, received at `received_at`.
    pub fn new(observation: Observation, received_at: Instant) -> Self {
        let known = Known::of(&observation);
        Self { observation, since: received_at, known, rewind: None, interrupted: false }
    }

    /// The knowledge that a call is sent with.
    pub fn known(&self) -> Known {
        self.known
    }

    /// The answer to a linearizable read that was sent with the knowledge `before`.
    ///
    /// If it shows the same lineage, grant and beat, the wait goes on; else it starts anew (T-2), and also if the store
    /// went back, or if a call in between failed.
    pub fn read(&mut self, before: Known, shown: Observation, received_at: Instant) -> Seen {
        let rewound = before.is_beyond(&shown);
        if rewound {
            self.rewind(received_at);
            self.known = Known { floor: 0, ..self.known };
            self.interrupted = true;
        } else if self.is_behind(&shown) {
            return Seen::Overtaken;
        }
        self.known.floor = self.known.floor.max(issued(&shown));
        self.take(shown, received_at);
        if rewound { Seen::Rewound(before) } else { Seen::Present }
    }

    /// The answer to a reader whose calls never overlap.
    pub fn read_in_turn(sighting: &mut Option<Self>, shown: Observation, received_at: Instant) {
        match sighting {
            Some(sighting) => {
                sighting.read(sighting.known, shown, received_at);
            }
            none => *none = Some(Self::new(shown, received_at)),
        }
    }

    /// The answer to a write that was applied. It compared what the register had, so it can't be behind; and its floor
    /// may be the one that the write was based on.
    pub fn wrote(&mut self, shown: Observation, received_at: Instant) -> Seen {
        if self.is_behind(&shown) {
            return Seen::Overtaken;
        }
        self.take(shown, received_at);
        Seen::Present
    }

    /// A hint, which may be old, of a history that was lost, or forged: it counts if it goes on from what was seen, in
    /// the same epoch and lineage; a new term is looked at. What lasts as long as an epoch decides how long others are
    /// waited for and whether at all, and no write compares it; so a hint that shows it otherwise is looked at, too.
    /// False if it says nothing.
    pub fn heard(&mut self, shown: Observation, received_at: Instant) -> bool {
        let goes_on = position(&shown).is_some_and(|at| {
            at.0 == self.known.epoch
                && at.1 >= self.known.beat
                && self.rewind.as_ref().is_none_or(|rewind| at > rewind.lost)
        });
        let lasts = match (&shown.record, &self.observation.record) {
            (Some(shown), Some(seen)) => lasting(shown) == lasting(seen),
            _ => false,
        };
        let counts = goes_on && lasts && !self.interrupted && shown.lineage == self.observation.lineage;
        if counts {
            self.take(Observation { floor: 0, ..shown }, received_at);
        }
        counts
    }

    /// A call failed, or has had no answer in its time. Whatever the store is restored to meanwhile, down to the very
    /// beat that was seen last, is waited out from the next answer (T-2).
    pub fn interrupted(&mut self) {
        self.interrupted = true;
    }

    /// Has the store gone back behind what was seen (T-6)?
    pub fn is_rewound(&self) -> bool {
        self.rewind.is_some()
    }

    /// The latest observation: what the next `put_if` compares.
    pub fn observation(&self) -> &Observation {
        &self.observation
    }

    /// When the present beat was first received.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The beat that the next one of the present epoch must exceed, also if the store has forgotten it: else a
    /// candidate could take two different beats for one.
    pub fn latest_beat(&self) -> u64 {
        let lost = self.rewind.as_ref().map(|rewind| rewind.lost);
        // Beats begin anew after the last number: what was lost there is exceeded by none.
        let lost = lost.filter(|(epoch, beat)| *epoch == self.known.epoch && *beat < i64::MAX as u64);
        lost.map_or(0, |(_, beat)| beat).max(self.known.beat)
    }

    fn is_behind(&self, shown: &Observation) -> bool {
        position(shown).is_some_and(|shown| shown < (self.known.epoch, self.known.beat))
    }

    fn rewind(&mut self, at: Instant) {
        let max_ttl = self.observation.record.as_ref().map_or(Duration::ZERO, Record::max_ttl);
        let lost = (self.known.epoch, self.known.beat);
        let rewind = self.rewind.get_or_insert(Rewind { at, lost, max_ttl });
        *rewind = Rewind { at, lost: rewind.lost.max(lost), max_ttl: rewind.max_ttl.max(max_ttl) };
        let unseen = self.known.epoch.max(self.known.floor).saturating_add(UNSEEN_EPOCHS);
        if unseen < Term::MAX_EPOCH {
            self.observation.floor = self.observation.floor.max(unseen);
        } else {
            // No term can follow what was seen (E-1): an operator has repaired the register, and the epochs begin there.
            (self.observation.floor, self.known.epoch) = (0, 0);
        }
    }

    fn take(&mut self, shown: Observation, received_at: Instant) {
        if self.interrupted || !shows_the_same(&self.observation, &shown) {
            self.since = received_at;
        }
        self.interrupted = false;
        // Epochs rise above everything that was seen (E-1), whatever the store still knows of it.
        let floor = shown.floor.max(self.observation.floor);
        if let Some((epoch, beat)) = position(&shown) {
            self.known = Known { epoch, beat, grant: shown.grant(), ..self.known };
        }
        self.observation = Observation { floor, ..shown };
    }

    /// When may somebody with this `ttl` and this idea of the lease's `max_ttl` take the register over?
    ///
    /// Under a foreign stamp a failover may have lost an acquisition, whose ttl can be anything up to the maximum:
    /// free or held, such a register is waited out at the maximum (T-3, `docs/decisions/0002-foreign-stamp.md`). The
    /// same after a restore, from when it was found, whatever the register shows by then (T-6).
    ///
    /// `holder_is_dead` is the caller's word, and counts only if the holder had marked its record pre-emptible (F-3).
    pub fn claim(&self, ttl: Duration, max_ttl: Duration, holder_is_dead: bool) -> Claim {
        if self.interrupted {
            return Claim::AfterALook;
        }
        let Some(record) = &self.observation.record else { return Claim::Absent };
        if record.sealed.is_some() {
            return Claim::Sealed;
        }
        if self.observation.next_epoch() > Term::MAX_EPOCH {
            return Claim::Exhausted;
        }
        let max_ttl = record.max_ttl().max(max_ttl);
        let forgotten = self
            .rewind
            .as_ref()
            .map_or(Instant::ZERO, |rewind| rewind.at.plus(lengthened(max_ttl.max(rewind.max_ttl))));
        let at = if record.lineage != self.observation.lineage {
            self.since.plus(lengthened(max_ttl))
        } else if record.grant.is_none() || (record.preemptible && holder_is_dead) {
            Instant::ZERO
        } else {
            self.since.plus(lengthened(record.ttl().max(ttl)))
        };
        Claim::At(at.max(forgotten))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Lineage;
    use crate::writes::{self, Fresh};

    const TTL: Duration = Duration::from_secs(15);

    fn at(secs: u64) -> Instant {
        Instant::ZERO.plus(Duration::from_secs(secs))
    }

    fn seen(grant: Option<u128>, beat: u64, stamp: &str, present: &str) -> Observation {
        let empty =
            Observation { record: None, lineage: Lineage(stamp.into()), floor: 7, version: String::new() };
        let free = writes::init(&empty, Duration::from_secs(60), 7, None, &Fresh::random());
        let record = Record { grant: grant.map(Grant), beat, ttl_ms: 15_000, ..free };
        Observation { record: Some(record), lineage: Lineage(present.into()), ..empty }
    }

    fn seen_in(epoch: u64, grant: Option<u128>, beat: u64, stamp: &str) -> Observation {
        let mut seen = seen(grant, beat, stamp, stamp);
        seen.record.as_mut().unwrap().epoch = epoch;
        seen
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
        let mut sighting = Some(Sighting::new(seen(Some(1), 3, "a", "a"), at(100)));
        let mut since = |shown, secs| {
            Sighting::read_in_turn(&mut sighting, shown, at(secs));
            sighting.as_ref().unwrap().since()
        };
        assert_eq!(
            since(seen(Some(1), 3, "a", "a"), 105),
            at(100),
            "the same beat under a new tag: a request"
        );
        assert_eq!(since(seen(Some(1), 4, "a", "a"), 106), at(106));
        assert_eq!(since(seen(Some(1), 4, "a", "b"), 107), at(107), "a failover starts the wait anew");
        assert_eq!(
            since(seen(Some(1), 4, "restored", "b"), 108),
            at(108),
            "an operator tells of a restore (T-6)"
        );
    }

    #[test]
    fn what_the_store_has_forgotten_is_waited_out_at_the_maximum_whatever_follows() {
        let maximum = |secs| Claim::At(at(secs).plus(lengthened(Duration::from_secs(60))));
        let floor = |floor, seen| Observation { floor, ..seen };
        for forgotten in [
            floor(20, seen(Some(1), 3, "a", "a")), // an earlier beat
            floor(19, seen(Some(1), 4, "a", "a")), // the same beat, and an earlier floor
            floor(20, seen_in(6, None, 9, "a")),   // an earlier term
            floor(20, seen(Some(2), 4, "a", "a")), // the same beat of another term: an epoch has one grant
        ] {
            let mut sighting = Sighting::new(floor(20, seen(Some(1), 4, "a", "a")), at(100));
            let lost = sighting.known();
            assert_eq!(sighting.read(lost, forgotten.clone(), at(105)), Seen::Rewound(lost));
            assert_eq!(sighting.claim(TTL, TTL, false), maximum(105));
            // Somebody who saw less takes it, and gives it up.
            let free = floor(20, seen_in(8, None, 1, "a"));
            assert_eq!(sighting.read(sighting.known(), free, at(106)), Seen::Present);
            assert_eq!(sighting.claim(TTL, TTL, false), maximum(105));
        }
    }

    #[test]
    fn epochs_and_beats_exceed_what_was_seen_and_not_only_what_the_store_still_knows() {
        let mut sighting = Sighting::new(seen_in(40, Some(1), 9, "a"), at(100));
        sighting.read(sighting.known(), seen_in(40, Some(1), 5, "a"), at(101));
        assert_eq!(sighting.latest_beat(), 9);
        sighting.read(sighting.known(), seen_in(8, None, 2, "a"), at(102));
        assert_eq!(sighting.latest_beat(), 2, "of another term");
        let next = sighting.observation().next_epoch();
        assert!(next > 40 + 1000, "{next}: other terms may have followed the one that was seen");
    }

    #[test]
    fn an_answer_is_compared_with_the_knowledge_from_before_its_call_was_sent() {
        let mut sighting = Sighting::new(seen(Some(1), 3, "a", "a"), at(100));
        let slow = sighting.known();
        sighting.read(sighting.known(), seen(Some(1), 5, "a", "a"), at(101));
        let overtaken = sighting.read(slow, seen(Some(1), 4, "a", "a"), at(102));
        assert_eq!(
            (overtaken, sighting.since()),
            (Seen::Overtaken, at(101)),
            "no restore: it was served before"
        );
        assert_eq!(sighting.known(), Known::of(&seen(Some(1), 5, "a", "a")));
    }

    #[test]
    fn a_call_that_failed_bars_every_claim_until_an_answer_starts_the_wait_anew() {
        let mut sighting = Sighting::new(seen(Some(1), 3, "a", "a"), at(100));
        sighting.interrupted();
        assert_eq!(sighting.claim(TTL, TTL, false), Claim::AfterALook);
        assert!(!sighting.heard(seen(Some(1), 4, "a", "a"), at(104)), "a hint may be from before");
        assert_eq!(sighting.read(sighting.known(), seen(Some(1), 3, "a", "a"), at(105)), Seen::Present);
        assert_eq!(sighting.claim(TTL, TTL, false), Claim::At(at(105).plus(lengthened(TTL))));
    }

    #[test]
    fn a_hint_counts_only_if_it_goes_on_from_what_was_seen() {
        let mut sighting = Sighting::new(seen(Some(1), 3, "a", "a"), at(100));
        assert!(sighting.heard(seen(None, 4, "a", "a"), at(101)), "a release");
        for (why, hint) in [
            ("it is old", seen(Some(1), 3, "a", "a")),
            ("another term is looked at", seen_in(9, Some(2), 5, "a")),
            ("another history is looked at", seen(Some(1), 5, "a", "b")),
        ] {
            assert!(!sighting.heard(hint, at(102)), "{why}");
        }
        let lost = sighting.known();
        assert_eq!(sighting.read(lost, seen(Some(1), 2, "a", "a"), at(103)), Seen::Rewound(lost));
        assert!(!sighting.heard(seen(Some(1), 3, "a", "a"), at(104)), "of the history that was lost");
        assert!(sighting.heard(seen(Some(1), 5, "a", "a"), at(104)));
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
    fn no_term_is_claimed_above_the_ceiling_of_epochs() {
        let at_epoch = |epoch, floor| {
            let mut observation = seen(None, 3, "a", "a");
            observation.record.as_mut().unwrap().epoch = epoch;
            claim_of(Observation { floor, ..observation })
        };
        assert_eq!(at_epoch(Term::MAX_EPOCH - 1, 0), Claim::At(Instant::ZERO));
        for (epoch, floor) in [(Term::MAX_EPOCH, 0), (u64::MAX, 0), (7, Term::MAX_EPOCH), (7, u64::MAX)] {
            assert_eq!(at_epoch(epoch, floor), Claim::Exhausted);
        }
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

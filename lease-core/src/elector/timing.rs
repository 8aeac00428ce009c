//! The consequences of an elector's settings for those who operate it, computed by the functions that decide: the
//! bounds of [`deadline`](crate::deadline) and the step function's own pauses.

use std::time::Duration;

use super::Elector;
use super::messages::{Jitter, Rules};
use crate::deadline::{lengthened, shortened};

/// An elector's times, and what follows from them. Round trips to the store come on top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The time that a term lasts without an acknowledged renewal.
    pub ttl: Duration,
    /// The greatest ttl of any candidate.
    pub max_ttl: Duration,
    /// The interval of a leader's writes.
    pub renew_every: Duration,
    /// The longest interval of a candidate's reads without a watch, and the longest pause after a failure.
    pub retry_every: Duration,
    /// The work is told to stop this long before its deadline.
    pub stop_grace: Duration,
    /// The time that the work may drain after shutdown.
    pub stop_budget: Duration,
    /// A holder acts on one acknowledged write for this long (T-1).
    pub acted_on_for: Duration,
    /// A candidate waits this long without a beat (T-2).
    pub waited_out_for: Duration,
    /// The same where nobody knows the last holder's ttl: after `init`, after a failover of the store (T-3, T-5).
    pub unknown_holder_waited_out_for: Duration,
    /// From a crash until another candidate leads, at worst, without a watch (T-4).
    pub failover_polling: Duration,
    /// The same with a watch, which may show nothing of beats, so that a standby looks once a beat.
    pub failover_watching: Duration,
    /// The longest outage of the store, begun at the worst moment, during which the work is not even told to stop.
    /// Calls are taken to fail at once.
    pub outage_unnoticed: Duration,
    /// The longest such outage after which the term is still the same; the work may have been told to stop.
    pub outage_survived: Duration,
    /// A standby's mean pause between two looks without a watch.
    pub polls_every: Duration,
}

impl Timing {
    fn of(rules: &Rules, stop_budget: Duration) -> Self {
        let Rules { who, renew_every, retry_every, stop_grace, .. } = rules;
        let acted_on_for = shortened(who.ttl);
        let waited_out_for = lengthened(who.ttl);
        // The last beat before the outage was just sent when the next one falls into it; after the outage's end the
        // next attempt comes at most one pause later.
        let outage_survived = acted_on_for.saturating_sub(*renew_every + Jitter(u8::MAX).of(*retry_every));
        Self {
            ttl: who.ttl,
            max_ttl: who.max_ttl,
            renew_every: *renew_every,
            retry_every: *retry_every,
            stop_grace: *stop_grace,
            stop_budget,
            acted_on_for,
            waited_out_for,
            unknown_holder_waited_out_for: lengthened(who.max_ttl),
            failover_polling: waited_out_for + *retry_every,
            failover_watching: waited_out_for + *renew_every,
            outage_unnoticed: outage_survived.saturating_sub(*stop_grace),
            outage_survived,
            polls_every: Jitter(1 << 7).of(*retry_every),
        }
    }

    /// A leader's writes, in each second. It reads only when something has changed.
    pub fn leader_writes_per_second(&self) -> f64 {
        self.renew_every.as_secs_f64().recip()
    }

    /// One standby's reads, in each second, while its watch is live.
    pub fn standby_reads_per_second_watching(&self) -> f64 {
        self.renew_every.as_secs_f64().recip()
    }

    /// One standby's reads, in each second, without a watch.
    pub fn standby_reads_per_second_polling(&self) -> f64 {
        self.polls_every.as_secs_f64().recip()
    }
}

impl Elector {
    /// The consequences of this elector's settings, for people who choose them.
    pub fn timing(&self) -> Timing {
        Timing::of(&self.rules, self.stop_budget)
    }

    /// The rules that its step function runs by: for whoever checks the [`timing`](Self::timing).
    #[doc(hidden)]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }
}

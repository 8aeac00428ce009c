//! Settings of an elector, and the arithmetic that they must satisfy.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, broadcast, watch};

use super::step::{self, Rules, StepFn};
use super::{Elector, WorkloadId};
use crate::backend::Connector;
use crate::clock::Clock;
use crate::deadline::shortened;
use crate::error::InvalidSettings;
use crate::printable::is_hidden;
use crate::record::LeaseName;
use crate::work;
use crate::writes::Candidate;

/// Builds an [`Elector`]. Only what differs from the defaults needs to be said.
#[derive(Clone)]
#[must_use]
pub struct ElectorBuilder {
    connector: Arc<dyn Connector>,
    name: LeaseName,
    workload: WorkloadId,
    region: String,
    ttl: Duration,
    max_ttl: Option<Duration>,
    renew_every: Option<Duration>,
    retry_every: Option<Duration>,
    stop_grace: Option<Duration>,
    stop_budget: Duration,
    max_silence: Option<Duration>,
    preemptible: bool,
    work: Option<String>,
    migrate_from: Option<Arc<dyn Connector>>,
    not_moved_yet: bool,
    clock: Clock,
    step: StepFn,
}

/// The longest ttl: a day. A longer one is a mistake in the unit.
const LONGEST_TTL: Duration = Duration::from_secs(86_400);
/// The shortest ttl: below it, scheduling jitter alone loses terms.
const SHORTEST_TTL: Duration = Duration::from_millis(100);

impl ElectorBuilder {
    pub(super) fn new(connector: Arc<dyn Connector>, name: LeaseName, workload: WorkloadId) -> Self {
        Self {
            connector,
            name,
            workload,
            region: String::new(),
            ttl: Duration::from_secs(15),
            max_ttl: None,
            renew_every: None,
            retry_every: None,
            stop_grace: None,
            stop_budget: Duration::from_secs(20),
            max_silence: None,
            preemptible: false,
            work: None,
            migrate_from: None,
            not_moved_yet: false,
            clock: Clock::boot(),
            step: Arc::new(step::step),
        }
    }

    /// The time that a term lasts without an acknowledged renewal. Default 15 s; 100 ms to 1 day.
    ///
    /// The worst failover after a crash takes ttl·(1+1/500) and one poll.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The greatest ttl that any candidate of this lease may use. A register whose last holder nobody knows is waited
    /// out for this long (T-3, T-5). Default: the ttl.
    pub fn max_ttl(mut self, max_ttl: Duration) -> Self {
        self.max_ttl = Some(max_ttl);
        self
    }

    /// The interval of a leader's renewals. Default ttl/3, which is also the longest allowed.
    pub fn renew_every(mut self, every: Duration) -> Self {
        self.renew_every = Some(every);
        self
    }

    /// The interval of a candidate's reads without a watch, and the longest delay before a retry. Default ttl/15, at
    /// most `renew_every`.
    pub fn retry_every(mut self, every: Duration) -> Self {
        self.retry_every = Some(every);
        self
    }

    /// The work is told to stop this long before its deadline. Default ttl/5.
    pub fn stop_grace(mut self, grace: Duration) -> Self {
        self.stop_grace = Some(grace);
        self
    }

    /// The time that the work may drain after shutdown before `run_until` gives up without releasing (H-1). Default
    /// 20 s.
    pub fn stop_budget(mut self, budget: Duration) -> Self {
        self.stop_budget = budget;
        self
    }

    /// The longest time in which the work may report no progress ([`Leadership::report_progress`]). After it the work
    /// is told to stop and the lease isn't renewed any more, so that hung work doesn't keep it for ever (H-4). Default:
    /// none; 100 ms to 1 day.
    ///
    /// [`Leadership::report_progress`]: crate::Leadership::report_progress
    pub fn max_silence(mut self, silence: Duration) -> Self {
        self.max_silence = Some(silence);
        self
    }

    /// The place where this workload runs, for people.
    pub fn region(mut self, region: impl Into<String>) -> Self {
        self.region = region.into();
        self
    }

    /// Says that **every** effect of the holder is fenced (F-1), so that the lease may be taken at any moment (F-3).
    pub fn every_effect_is_fenced(mut self) -> Self {
        self.preemptible = true;
        self
    }

    /// Says what the lease is for: a kind of work, and what tells it from others of its kind, for example
    /// `outbox-forwarder/6f1c…`. The register remembers it, and whoever names another work, or none, never acquires the
    /// lease: its run ends with an error (W-1). Default: none.
    pub fn work(mut self, work: impl Into<String>) -> Self {
        self.work = Some(work.into());
        self
    }

    /// Moves the lease here from another store before campaigning, unless that was done already (M-1): so a fleet
    /// changes its store by a rolling restart, and goes on leading until the last moment in the old one.
    pub fn migrate_from(mut self, connector: impl Connector) -> Self {
        self.migrate_from = Some(Arc::new(connector));
        self
    }

    /// The caller knows that [the move](Self::migrate_from) is still to be done: an open register here is left from an
    /// earlier time. So the old store is asked in any case, and two open registers are refused. Default: an open register
    /// here shows that the move is done.
    pub fn not_moved_yet(mut self) -> Self {
        self.not_moved_yet = true;
        self
    }

    /// Another clock, for tests.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Another protocol: only for the conformance suite, which must see wrong ones fail.
    #[doc(hidden)]
    pub fn step(mut self, step: StepFn) -> Self {
        self.step = step;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// Names the setting, its value and the arithmetic that it breaks.
    pub fn build(self) -> Result<Elector, InvalidSettings> {
        let ttl = self.ttl;
        let renew_every = self.renew_every.unwrap_or(ttl / 3);
        let retry_every = self.retry_every.unwrap_or(ttl / 15);
        let stop_grace = self.stop_grace.unwrap_or(ttl / 5);
        let max_ttl = self.max_ttl.unwrap_or(ttl);
        let refuse = |setting, value: Duration, why: String| -> Result<Elector, InvalidSettings> {
            Err(InvalidSettings { setting, value: format!("{value:?}"), why })
        };
        if ttl < SHORTEST_TTL || ttl > LONGEST_TTL {
            return refuse("ttl", ttl, format!("use {SHORTEST_TTL:?} to {LONGEST_TTL:?}"));
        }
        if max_ttl < ttl || max_ttl > LONGEST_TTL {
            return refuse(
                "max_ttl",
                max_ttl,
                format!("use at least the ttl, {ttl:?}, and at most {LONGEST_TTL:?}"),
            );
        }
        if renew_every.is_zero() || renew_every > ttl / 3 {
            let why =
                format!("use more than 0 and at most ttl/3 = {:?}, so that two renewals may fail", ttl / 3);
            return refuse("renew_every", renew_every, why);
        }
        if retry_every.is_zero() || retry_every > renew_every {
            let why = format!("use more than 0 and at most renew_every = {renew_every:?}");
            return refuse("retry_every", retry_every, why);
        }
        let room = shortened(ttl).saturating_sub(renew_every * 2);
        if stop_grace > room {
            let why = format!(
                "ttl·(1−1/500) − 2·renew_every = {:?} − {:?} leaves {room:?}: use at most that, or a longer ttl, so \
                 that one late renewal doesn't stop the work",
                shortened(ttl),
                renew_every * 2,
            );
            return refuse("stop_grace", stop_grace, why);
        }
        if self.region.contains(is_hidden) {
            let (value, why) =
                (format!("{:?}", self.region), "use no control or hidden characters".to_owned());
            return Err(InvalidSettings { setting: "region", value, why });
        }
        if let Some(work) = &self.work
            && !work::is_valid(work)
        {
            let why = format!("use 1 to {} characters without control or hidden characters", work::MAX_LEN);
            return Err(InvalidSettings { setting: "work", value: format!("{work:?}"), why });
        }
        if let Some(silence) = self.max_silence
            && !(SHORTEST_TTL..=LONGEST_TTL).contains(&silence)
        {
            return refuse("max_silence", silence, format!("use {SHORTEST_TTL:?} to {LONGEST_TTL:?}"));
        }
        let who = Candidate {
            holder: self.workload.0,
            region: self.region,
            ttl,
            max_ttl,
            preemptible: self.preemptible,
            work: self.work,
        };
        Ok(Elector {
            name: self.name,
            rules: Rules {
                who,
                renew_every,
                retry_every,
                stop_grace,
                max_silence: self.max_silence,
                creates_registers: false,
            },
            stop_budget: self.stop_budget,
            clock: self.clock,
            connector: self.connector,
            migrate_from: self.migrate_from,
            not_moved_yet: self.not_moved_yet,
            step: self.step,
            events: broadcast::channel(256).0,
            view: watch::Sender::default(),
            holder_is_dead: Arc::new(Notify::new()),
        })
    }
}

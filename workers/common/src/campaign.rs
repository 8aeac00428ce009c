//! A role that leads gets its mandates from a lease, again and again; or, in mode `disabled`, from one term of the
//! resource's own.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lease_core::admin::AdminError;
use lease_core::internal::repeated::Repeated;
use lease_core::{BackendError, Elector, ElectorBuilder, Leadership, LeaseName, RunError};
use lease_settings::{App, BadSetting, BadSettings, DISABLED, Failure, LeaderElection, LeaseStore, Together};
use metrics::{gauge, histogram};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::database::StoreError;
use crate::eligible::Eligible;
use crate::home::{Home, KnownWork, Settlement};
use crate::lead::{LeaderWork, LedElsewhere, lead};
use crate::lease_gauges::LeaseGauges;
use crate::mandate::Mandate;
use crate::registers;
use crate::store_metrics::measured;

/// Without a lease there are no beats at which the age of a term is observed.
const AGE_EVERY: Duration = Duration::from_secs(5);

/// The longest try to make a register: connecting, looking and writing.
const REGISTER_LIMIT: Duration = Duration::from_secs(10);

/// The settings of a role that leads, checked. Nothing is connected yet.
pub struct Campaign<'a> {
    app: &'a App,
    role: &'static str,
    election: LeaderElection,
    store: Option<LeaseStore>,
    from: Option<LeaseStore>,
    lease: LeaseName,
    gauges: LeaseGauges,
    eligible: Eligible,
}

impl<'a> Campaign<'a> {
    /// Reads the settings. The lease is called as the role is unless they name one.
    ///
    /// # Errors
    /// Settings that can't be used, in mode `disabled` too.
    pub fn new(app: &'a App, role: &'static str) -> Result<Self, BadSettings> {
        let settings = app.settings();
        let (election, store) = (settings.leader_election(), app.store());
        // Where the term comes from a database there is nothing to move, on neither side.
        let from = match election.as_ref().ok().and_then(|election| election.migrate_from.as_deref()) {
            Some(DISABLED) => Ok(None),
            _ if matches!(store, Ok(None)) => app.check_migrate_from().map(|()| None),
            _ => app.migrate_from(),
        };
        let (election, store, from) = (election, store, from).together()?;
        let default = LeaseName::new(role).expect("a role's name is a valid lease's");
        let lease = election.lease_name.clone().unwrap_or(default);
        let (gauges, eligible) = (LeaseGauges::new(lease.clone()), Eligible::default());
        let this = Self { app, role, election, store, from, lease, gauges, eligible };
        let _checked = this.elector(None, true)?;
        Ok(this)
    }

    /// The elector for this work. `at_home`: the work was led in this mode already, so there is nothing to move; else an
    /// open register here is left from an earlier time (M-2).
    fn elector(&self, work: Option<String>, at_home: bool) -> Result<Elector, BadSetting> {
        let refine = |mut builder: ElectorBuilder| {
            if let Some(work) = work {
                builder = builder.work(work);
            }
            if let Some(max_silence) = self.election.max_silence_ms.filter(|_| self.store.is_some()) {
                builder = builder.max_silence(max_silence.into());
            }
            match &self.from {
                Some(from) if !at_home => builder.migrate_from(from.clone()).not_moved_yet(),
                Some(_) | None => builder,
            }
        };
        let settings = self.app.settings();
        match &self.store {
            Some(store) => settings.elector(measured(store.clone()), Some(self.role), refine),
            None => {
                let never = || async { Err(BackendError::refused("mode disabled has no lease store")) };
                settings.elector(never, Some(self.role), refine)
            }
        }
    }

    /// Where this fleet leads, and where it may come from.
    pub fn fleet(&self) -> Settlement {
        let home = Home { mode: self.election.mode.clone(), lease: self.lease.to_string() };
        Settlement { home, from: self.election.migrate_from.clone() }
    }

    /// The lease's name.
    pub fn lease(&self) -> &LeaseName {
        &self.lease
    }

    /// The lease store; `None` in mode `disabled`.
    pub fn store(&self) -> Option<&LeaseStore> {
        self.store.as_ref()
    }

    /// `leaderElection.mode`.
    pub fn mode(&self) -> &str {
        &self.election.mode
    }

    /// The lease's metrics, for each scrape; none in mode `disabled`.
    pub fn gauges(&self) -> Option<LeaseGauges> {
        self.store.as_ref().map(|_| self.gauges.clone())
    }

    /// The time limit of a fenced transaction: it is over well before the ttl is (F-1's advice).
    pub fn transaction_limit(&self) -> Duration {
        Duration::from(self.election.ttl_ms) / 2
    }

    /// The pause after a failure.
    pub fn retry_every(&self) -> Duration {
        self.election.retry_interval_ms.map_or(Duration::from(self.election.ttl_ms) / 15, Duration::from)
    }

    /// Whether this instance may lead.
    pub fn eligible(&self) -> Eligible {
        self.eligible.clone()
    }

    /// Leads whenever it may, until told to stop. Asks the work's database first who leads it (M-2).
    ///
    /// # Errors
    /// Another fleet leads it, which is a setting's fault; the stop budget was used up, and what was abandoned; or the
    /// elector's, which is final.
    pub async fn run(self, work: &impl LeaderWork, stop: CancellationToken) -> Result<(), Failure> {
        let Some(known) = stop.run_until_cancelled(self.known(work)).await else { return Ok(()) };
        self.check_home(&known)?;
        match self.lead_from(&known, work, &stop).await {
            Err(Over::LedElsewhere) => {}
            Err(Over::Failed(failure)) => return Err(failure),
            Ok(()) => return Ok(()),
        }
        // What has changed since the first look: that was passed.
        let Some(known) = stop.run_until_cancelled(self.known(work)).await else { return Ok(()) };
        self.check_home(&known)?;
        Err(Failure::new(
            "the database of this work said that another fleet leads it, and now says that this one may: somebody has \
             changed its home meanwhile; start this again",
        ))
    }

    /// From what the database knew at the start.
    async fn lead_from(
        &self,
        known: &KnownWork,
        work: &impl LeaderWork,
        stop: &CancellationToken,
    ) -> Result<(), Over> {
        let budget = self.election.stop_budget_ms.into();
        let (fleet, eligible) = (self.fleet(), &self.eligible);
        let Some(store) = &self.store else { return alone(work, eligible, stop, budget).await };
        let work_of_ours = format!("{}/{}", self.role, known.id);
        if fleet.from.as_deref() == Some(DISABLED) && !fleet.is_at(known) {
            tokio::select! {
                lifted = self.lift_above(store, known.mark.unwrap_or_default(), &work_of_ours) => lifted?,
                () = stop.cancelled() => return Ok(()),
            }
        }
        let elector = self.elector(Some(work_of_ours), fleet.is_at(known)).map_err(Failure::from)?;
        self.gauges.follow(&elector);
        under_a_lease(elector, work, eligible, stop, budget).await
    }

    async fn known(&self, work: &impl LeaderWork) -> KnownWork {
        let mut failures = Repeated::default();
        loop {
            match work.known().await.map_err(|error| error.to_string()) {
                Ok(known) => {
                    self.eligible.waits(None);
                    return known;
                }
                Err(why) => {
                    if let Some(times) = failures.failed(&why, Instant::now()) {
                        warn!(why, times, "the work's database does not say who leads it; trying again");
                    }
                    self.eligible
                        .waits(Some(format!("the work's database does not say who leads it: {why}")));
                }
            }
            tokio::time::sleep(self.retry_every()).await;
        }
    }

    /// From mode `disabled`: the lease's terms exceed those that the database gave.
    async fn lift_above(&self, store: &LeaseStore, mark: u64, work: &str) -> Result<(), Failure> {
        loop {
            let lifting = registers::lift_above(store, &self.lease, mark, work, self.max_ttl());
            let (lease, failed) =
                (&self.lease, "the lease could not be lifted above the terms without a lease");
            match tokio::time::timeout(REGISTER_LIMIT, lifting).await {
                Ok(Ok(wrote)) => {
                    info!(%lease, mark, wrote, "the lease's terms exceed those without a lease");
                    return Ok(());
                }
                Ok(Err(AdminError::Store(error))) if !error.refused => {
                    warn!(%lease, error = format!("{error:#}"), "{failed}; trying again");
                }
                Ok(Err(error)) => return Err(registers::failure(store, &error)),
                Err(_) => {
                    warn!(%lease, "{failed}: the store did not answer within {REGISTER_LIMIT:?}; trying again")
                }
            }
            tokio::time::sleep(self.retry_every()).await;
        }
    }

    /// Refuses what would make a second fleet (M-2).
    ///
    /// # Errors
    /// The work is at home elsewhere.
    pub fn check_home(&self, known: &KnownWork) -> Result<(), BadSetting> {
        self.fleet().check(known, self.app, self.role)
    }

    /// The greatest ttl of any candidate of the lease.
    pub fn max_ttl(&self) -> Duration {
        self.election.max_ttl_ms.unwrap_or(self.election.ttl_ms).into()
    }
}

/// Why a fleet leads no more, although nobody told it to stop.
enum Over {
    /// The database of the work refused a term, for another fleet leads it (M-2).
    LedElsewhere,
    Failed(Failure),
}

impl From<Failure> for Over {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

async fn under_a_lease(
    elector: Elector,
    work: &impl LeaderWork,
    eligible: &Eligible,
    stop: &CancellationToken,
    budget: Duration,
) -> Result<(), Over> {
    let following = tokio::spawn(work.metrics().follow(elector.events(), eligible.may_lead.clone()));
    let one_term = |leadership: Leadership| async {
        eligible.works_for(Some(leadership.clone()));
        let led = lead(work, &Mandate::lease(leadership), eligible).await;
        eligible.works_for(None);
        led
    };
    let ended = elector.run_until(stop.cancelled(), one_term).await;
    let _ = following.await;
    ended.map(drop).map_err(|error| match error {
        RunError::Work(LedElsewhere) => Over::LedElsewhere,
        RunError::StopBudgetExceeded => {
            let then = format!("{}; the lease was not released and runs out by itself", work.if_abandoned());
            work.under_way().all().abandoned(budget, &then).into()
        }
        error => Failure::new(error.to_string()).into(),
    })
}

/// Mode `disabled`: the resource's own database gives the term, so an accidental second instance fences this one out.
async fn alone(
    work: &impl LeaderWork,
    eligible: &Eligible,
    stop: &CancellationToken,
    budget: Duration,
) -> Result<(), Over> {
    let waits =
        |why: &str| eligible.waits(Some(format!("mode disabled: the work's database gives no term: {why}")));
    waits("it has not answered yet");
    let taking = async {
        let mut failures = Repeated::default();
        loop {
            match work.take_term().await {
                Ok(term) => return Ok(term),
                Err(StoreError::LedElsewhere) => return Err(Over::LedElsewhere),
                Err(error) => {
                    let why = error.to_string();
                    if let Some(times) = failures.failed(&why, Instant::now()) {
                        warn!(why, times, "no term from the database; retrying");
                    }
                    waits(&why);
                }
            }
            tokio::time::sleep(work.retry_every()).await;
        }
    };
    let Some(term) = stop.run_until_cancelled(taking).await else { return Ok(()) };
    let term = term?;
    eligible.waits(None);
    eligible.may_lead.store(true, Ordering::Relaxed);
    let names = work.metrics();
    gauge!(names.is_leader).set(1);
    info!(epoch = term.epoch, grant = %term.grant, "leading: mode disabled, term taken from the database");
    let mandate = Mandate::sole(term, stop.clone());
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(budget).await;
    };
    let began = Instant::now();
    let observe_age = || histogram!(names.leader_age).record(began.elapsed());
    let aging = async {
        loop {
            tokio::time::sleep(AGE_EVERY).await;
            observe_age();
        }
    };
    let led = tokio::select! {
        led = lead(work, &mandate, eligible) => led,
        () = aging => Ok(()),
        () = late => return Err(work.under_way().all().abandoned(budget, work.if_abandoned()).into()),
    };
    observe_age();
    gauge!(names.is_leader).set(0);
    led.map_err(|LedElsewhere| Over::LedElsewhere)?;
    if mandate.loss().is_some() {
        // F-4: taking another term because the fence refused this one would make two instances duel for ever.
        eligible.waits(Some("mode disabled: another instance does this work".to_owned()));
        error!(
            "another instance does this work: this one stays idle until it is stopped; run only one, or choose a mode with leases"
        );
        stop.cancelled().await;
    }
    Ok(())
}

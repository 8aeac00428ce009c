//! A role that leads gets its mandates from a lease, again and again; or, in mode `disabled`, from one term of the
//! resource's own.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use lease_core::{BackendError, Elector, ElectorBuilder, Leadership, LeaseName, RunError};
use lease_settings::{App, BadSettings, Failure, LeaderElection, LeaseStore, Together};
use metrics::{gauge, histogram};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::eligible::Eligible;
use crate::lead::{LeaderWork, lead};
use crate::mandate::Mandate;

/// Without a lease there are no beats at which the age of a term is observed.
const AGE_EVERY: Duration = Duration::from_secs(5);

/// The settings of a role that leads, checked. Nothing is connected yet.
pub struct Campaign {
    elector: Elector,
    election: LeaderElection,
    store: Option<LeaseStore>,
    lease: LeaseName,
    eligible: Eligible,
}

impl Campaign {
    /// Reads the settings. The lease is `default_lease` unless they name one.
    ///
    /// # Errors
    /// Settings that can't be used, in mode `disabled` too.
    pub fn new(app: &App, default_lease: &str) -> Result<Self, BadSettings> {
        let settings = app.settings();
        let (election, store, from) =
            (settings.leader_election(), app.store(), app.migrate_from()).together()?;
        let default = LeaseName::new(default_lease).expect("a role's default lease is a valid name");
        let lease = election.lease_name.clone().unwrap_or(default);
        let elector = match &store {
            Some(store) => {
                let refine = |mut builder: ElectorBuilder| {
                    if let Some(max_silence) = election.max_silence_ms {
                        builder = builder.max_silence(max_silence.into());
                    }
                    match from {
                        Some(from) => builder.migrate_from(from),
                        None => builder,
                    }
                };
                settings.elector(store.clone(), Some(default_lease), refine)?
            }
            None => {
                let never = || async { Err(BackendError::refused("mode disabled has no lease store")) };
                settings.elector(never, Some(default_lease), |builder| builder)?
            }
        };
        Ok(Self { elector, election, store, lease, eligible: Eligible::default() })
    }

    /// The lease's name.
    pub fn lease(&self) -> &LeaseName {
        &self.lease
    }

    /// The lease store; `None` in mode `disabled`.
    pub fn store(&self) -> Option<&LeaseStore> {
        self.store.as_ref()
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

    /// Leads whenever it may, until told to stop.
    ///
    /// # Errors
    /// The stop budget was used up, and what was abandoned; or the elector's, which is final.
    pub async fn run(self, work: &impl LeaderWork, stop: CancellationToken) -> Result<(), Failure> {
        let budget = self.election.stop_budget_ms.into();
        match self.store {
            Some(_) => under_a_lease(self.elector, work, self.eligible, stop, budget).await,
            None => alone(work, self.eligible, stop, budget).await,
        }
    }
}

async fn under_a_lease(
    elector: Elector,
    work: &impl LeaderWork,
    eligible: Eligible,
    stop: CancellationToken,
    budget: Duration,
) -> Result<(), Failure> {
    let following = tokio::spawn(work.metrics().follow(elector.events(), eligible.may_lead.clone()));
    let one_term = |leadership: Leadership| async {
        eligible.works_for(Some(leadership.clone()));
        lead(work, &Mandate::lease(leadership), &eligible).await;
        eligible.works_for(None);
        Ok::<_, std::convert::Infallible>(())
    };
    let ended = elector.run_until(stop.cancelled(), one_term).await;
    let _ = following.await;
    ended.map(drop).map_err(|error| match error {
        RunError::StopBudgetExceeded => {
            let then = format!("{}; the lease was not released and runs out by itself", work.if_abandoned());
            work.under_way().all().abandoned(budget, &then)
        }
        error => Failure::new(error.to_string()),
    })
}

/// Mode `disabled`: the resource's own database gives the term, so an accidental second instance fences this one out.
async fn alone(
    work: &impl LeaderWork,
    eligible: Eligible,
    stop: CancellationToken,
    budget: Duration,
) -> Result<(), Failure> {
    let taking = async {
        let mut said = String::new();
        loop {
            match work.take_term().await.map_err(|why| why.to_string()) {
                Ok(term) => return term,
                // Once, also where only an operator can help.
                Err(why) if why == said => {}
                Err(why) => {
                    warn!(why, "no term from the database; retrying");
                    said = why;
                }
            }
            tokio::time::sleep(work.retry_every()).await;
        }
    };
    let term = tokio::select! {
        term = taking => term,
        () = stop.cancelled() => return Ok(()),
    };
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
    tokio::select! {
        () = lead(work, &mandate, &eligible) => {}
        () = aging => {}
        () = late => return Err(work.under_way().all().abandoned(budget, work.if_abandoned())),
    }
    observe_age();
    gauge!(names.is_leader).set(0);
    if mandate.loss().is_some() {
        // F-4: taking another term because the fence refused this one would make two instances duel for ever.
        eligible.may_lead.store(false, Ordering::Relaxed);
        error!(
            "another instance does this work: this one stays idle until it is stopped; run only one, or choose a mode with leases"
        );
        stop.cancelled().await;
    }
    Ok(())
}

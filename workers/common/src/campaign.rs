//! How a role comes by its mandates: by a lease, again and again; or, in mode `disabled`, by one term of the
//! resource's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use lease_core::{Elector, ElectorBuilder, EventKind, RunError, Term};
use lease_settings::{App, BadSetting, Failure, Store};
use metrics::{gauge, histogram};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::database::StoreError;
use crate::leading;
use crate::mandate::Mandate;
use crate::under_way::Batch;

/// Without a lease there are no beats at which the age of a term is observed.
const AGE_EVERY: Duration = Duration::from_secs(5);

/// Work that one of several instances does.
#[async_trait]
pub trait Work: Send + Sync {
    /// Works for one term: until it is over or the work should stop.
    async fn lead(&self, mandate: Mandate);

    /// Mode `disabled`: a new term from the resource's own mark, admitted at once.
    async fn take_term(&self) -> Result<Term, StoreError>;

    /// How long to pause after a failure.
    fn retry_every(&self) -> Duration;

    /// The batch under way.
    fn batch(&self) -> &Batch;

    /// What becomes of a batch that the process has to leave behind, for people.
    fn if_abandoned(&self) -> &'static str;
}

/// The metrics of leadership, by name.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    /// 1 while this instance leads.
    pub is_leader: &'static str,
    /// How long its terms have lasted.
    pub leader_age: &'static str,
}

/// The elector that the settings ask for, and whether there is a lease at all. Checked before anything starts; also
/// in mode `disabled`, where it is not used.
pub fn elector(app: &App, store: Option<&Store>, default_lease: &str) -> Result<Elector, BadSetting> {
    let never = || async { Err(lease_core::BackendError::refused("mode disabled has no lease store")) };
    let Some(store) = store else {
        return app.settings().elector(never, Some(default_lease), |builder| builder);
    };
    let from = app.migrate_from()?;
    let refine = |builder: ElectorBuilder| match from {
        Some(from) => builder.migrate_from(from),
        None => builder,
    };
    app.settings().elector(store.clone(), Some(default_lease), refine)
}

/// With a lease: leads again and again, until told to stop. `eligible` is set when this instance may lead.
pub async fn campaign(
    elector: Elector,
    work: &dyn Work,
    names: Names,
    eligible: Arc<AtomicBool>,
    stop: CancellationToken,
    budget: Duration,
) -> Result<(), Failure> {
    let following = tokio::spawn(leading::follow(elector.events(), names.is_leader, names.leader_age));
    let mut events = elector.events();
    let connected = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            if event.is_ok_and(|event| matches!(event.kind, EventKind::Connected { .. })) {
                eligible.store(true, Ordering::Relaxed);
            }
        }
    });
    let lead = |leadership| work.lead(Mandate::lease(leadership)).map(Ok::<_, std::convert::Infallible>);
    let ended = elector.run_until(stop.cancelled(), lead).await;
    connected.abort();
    let _ = following.await;
    ended.map(drop).map_err(|error| match error {
        RunError::StopBudgetExceeded => {
            let then = format!("{}; the lease was not released and runs out by itself", work.if_abandoned());
            work.batch().under_way().abandoned(budget, &then)
        }
        error => Failure::new(error.to_string()),
    })
}

/// Mode `disabled`: the resource's own database gives the term, so an accidental second instance fences this one out.
pub async fn alone(
    work: &dyn Work,
    names: Names,
    eligible: Arc<AtomicBool>,
    stop: CancellationToken,
    budget: Duration,
) -> Result<(), Failure> {
    let taking = async {
        loop {
            match work.take_term().await {
                Ok(term) => return term,
                Err(why) => warn!(%why, "no term from the database; trying again"),
            }
            tokio::time::sleep(work.retry_every()).await;
        }
    };
    let term = tokio::select! {
        term = taking => term,
        () = stop.cancelled() => return Ok(()),
    };
    eligible.store(true, Ordering::Relaxed);
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
        () = work.lead(mandate.clone()) => {}
        () = aging => {}
        () = late => return Err(work.batch().under_way().abandoned(budget, work.if_abandoned())),
    }
    observe_age();
    gauge!(names.is_leader).set(0);
    if mandate.loss().is_some() {
        // F-4: taking another term because the fence refused this one would make two instances duel for ever.
        eligible.store(false, Ordering::Relaxed);
        error!(
            "another instance does this work: this one stays idle until it is stopped; run only one, or choose a mode with leases"
        );
        stop.cancelled().await;
    }
    Ok(())
}

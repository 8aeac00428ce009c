//! Keeps the scope by an elector, whose lease is the scope.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use lease_core::{
    BackendError, Connector, Elector, InvalidSettings, Leadership, LeaseBackend, LeaseName, Loss, RunError,
    StopReason, WorkloadId,
};
use lease_worker_common::{lease_gauges::LeaseGauges, store_metrics::measured};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::held::Held;
use super::ledger::{Ledger, LedgerCallError};
use super::scope::{Rival, Scopes, ScopesConfig};
use super::settings::ScopePlan;

/// The words by which runbooks find a sidecar that can't have its scope.
const S4: &str = "S4: acquire fencing lease at startup";

/// The elector at work. Its calls run on the lease thread, on connections of their own: no renewal waits behind
/// requests.
pub(super) struct Keeper {
    plan: ScopePlan,
    /// True from the first term on.
    has_held: watch::Receiver<bool>,
    /// The other sidecar that holds the scope, if any does.
    rival: watch::Receiver<Option<Rival>>,
    gauges: LeaseGauges,
    stop: CancellationToken,
    drained: CancellationToken,
    task: JoinHandle<Result<(), String>>,
}

impl Keeper {
    /// Starts to campaign. From `stop` on it has `budget` to give the scope up, which it does once it is told to.
    pub(super) fn start(
        ledger: Ledger,
        plan: ScopePlan,
        held: Held,
        stop: &CancellationToken,
        budget: Duration,
    ) -> Result<Self, InvalidSettings> {
        let (stop, drained) = (stop.child_token(), CancellationToken::new());
        let (rival, has_held) = (watch::Sender::new(None), watch::Sender::new(false));
        let seen = (has_held.subscribe(), rival.subscribe());
        // For the elector's log lines; a scope may have a name that no lease can have.
        let name = LeaseName::new(plan.scope.replace('/', "."));
        let name = name.unwrap_or_else(|_| LeaseName::new("fencing-scope").expect("a valid name"));
        let store = connector(ledger, plan.clone(), name.clone(), rival);
        let elector = Elector::builder(measured(store), name.clone(), WorkloadId::new(&*plan.instance)?)
            .ttl(plan.ttl())
            .retry_every((plan.ttl() / 15).min(plan.poll_every))
            // Requests look at the deadline itself.
            .stop_grace(Duration::ZERO)
            .stop_budget(budget)
            .every_effect_is_fenced()
            .build()?;
        let gauges = LeaseGauges::new(name);
        gauges.follow(&elector);
        let work = Work { plan: plan.clone(), held, has_held, stop: stop.clone(), drained: drained.clone() };
        let task = tokio::spawn(async move {
            let ended = elector.run_until(work.stop.cancelled(), |term| work.lead(term)).await;
            match ended {
                // Whoever waits for the requests names those that are abandoned.
                Ok(_) | Err(RunError::StopBudgetExceeded) => Ok(()),
                Err(RunError::Refused(refused)) => Err(refused.context),
                Err(ended) => Err(format!("the elector of the fencing scope ended: {ended}")),
            }
        });
        let (has_held, rival) = seen;
        Ok(Self { plan, has_held, rival, gauges, stop, drained, task })
    }

    /// The scope's lease, for each scrape.
    pub(super) fn gauges(&self) -> LeaseGauges {
        self.gauges.clone()
    }

    /// Resolves when the first term has begun, or with the reason why there is none. Only a standby waits for a scope
    /// that another holds, and for a ledger that does not answer. Cancel safe.
    pub(super) async fn first_term(&mut self) -> Result<(), String> {
        let plan = &self.plan;
        let refused = async {
            if plan.standby {
                return pending().await;
            }
            let rival =
                async { self.rival.wait_for(Option::is_some).await.ok()?.as_ref().map(Rival::to_string) };
            match tokio::time::timeout(plan.ttl(), rival).await {
                Ok(Some(rival)) => plan.s4(
                    &rival,
                    "wait until it runs out, stop or revoke that one, or wait as a warm standby by --standby true \
                     (LEASEHOLD_SIDECAR_STANDBY)",
                ),
                // The elector has ended, which says more.
                Ok(None) => pending().await,
                Err(_) => plan.s4(
                    &format!("the ledger did not grant it within {:?}", plan.ttl()),
                    "look at the ledger and at the way to it, then start again",
                ),
            }
        };
        tokio::select! {
            biased;
            held = self.has_held.wait_for(|held| *held) => if held.is_ok() { return Ok(()) },
            why = refused => return Err(why),
        }
        self.ended().await?;
        Err("the elector of the fencing scope ended".to_owned())
    }

    /// Resolves when it has ended: without having been told to only for the reason that it returns. Cancel safe.
    pub(super) async fn ended(&mut self) -> Result<(), String> {
        let ended = (&mut self.task).await;
        ended.unwrap_or_else(|error| Err(format!("the elector of the fencing scope ended: {error}")))
    }

    /// Gives the scope up, if it is held: nothing is under way any more.
    pub(super) async fn give_up(mut self) -> Result<(), String> {
        self.drained.cancel();
        self.stop.cancel();
        self.ended().await
    }
}

impl ScopePlan {
    fn ttl(&self) -> Duration {
        Duration::from_secs(self.ttl_seconds.into())
    }

    fn s4(&self, why: &str, advice: &str) -> String {
        let Self { scope, tenant, .. } = self;
        format!("{S4}: fencing scope {scope} of tenant {tenant} was not acquired: {why}; {advice}")
    }
}

/// Connects to the scope. What waiting can't change ends the start; so does, but for a standby, a ledger that can't be
/// reached.
fn connector(
    ledger: Ledger,
    plan: ScopePlan,
    lease: LeaseName,
    rival: watch::Sender<Option<Rival>>,
) -> impl Connector {
    move || {
        let (plan, lease, rival) = (plan.clone(), lease.clone(), rival.clone());
        let scope = plan.scope.clone();
        let scopes = Scopes::new(ScopesConfig {
            ledger: ledger.clone(),
            tenant: plan.tenant.clone(),
            scope_of: Arc::new(move |_| scope.clone()),
            patience: plan.ttl() / 3,
            run_out_is_free: true,
        });
        async move {
            let scopes = scopes.telling(rival);
            let advice = "look at --ledger-url, at the ledger and at the way to it, then start again";
            match scopes.look(&lease).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    let why = format!("{}: {}", error.code, error.message);
                    return Err(BackendError::refused(plan.s4(&why, "fix what it says, then start again")));
                }
                Err(error @ (LedgerCallError::NotSent(_) | LedgerCallError::Refused(_))) if !plan.standby => {
                    return Err(BackendError::refused(plan.s4(&error.to_string(), advice)));
                }
                Err(error) => return Err(BackendError::not_applied(error.to_string())),
            }
            let backend: Arc<dyn LeaseBackend> = Arc::new(scopes);
            Ok(backend)
        }
    }
}

/// The elector's work while it leads.
struct Work {
    plan: ScopePlan,
    held: Held,
    has_held: watch::Sender<bool>,
    stop: CancellationToken,
    drained: CancellationToken,
}

impl Work {
    /// Shows one term to the requests: until it is over, somebody else asks for the scope, or none is under way after
    /// the stop.
    async fn lead(&self, leadership: Leadership) -> Result<(), Infallible> {
        let (scope, epoch) = (&self.plan.scope, leadership.term().epoch);
        info!(scope, epoch, "holding the fencing scope");
        self.held.begin(leadership.clone());
        self.has_held.send_replace(true);
        let asked = async {
            leadership.stop_requested().await;
            if !leadership.stop_reason().is_some_and(StopReason::is_step_down) {
                pending().await
            }
        };
        let loss = tokio::select! {
            loss = leadership.lost() => Some(loss),
            () = self.drained.cancelled() => None,
            () = asked => None,
        };
        self.held.end();
        if let Some(loss) = loss {
            warn!(scope, epoch, %loss, "fencing lease over; decisions are refused until it is held again");
        }
        if matches!(loss, Some(Loss::Superseded | Loss::Revoked | Loss::FenceRefused)) {
            // F-4: another sidecar comes first. A work that has not returned keeps its elector from campaigning.
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(self.plan.poll_every * 2) => {}
            }
        }
        Ok(())
    }
}

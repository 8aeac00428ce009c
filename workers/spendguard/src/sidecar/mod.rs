//! `sidecar`: one on each node, one of which holds the fencing scope and decides for the pods of its node.
//!
//! It takes its scope **before** it binds its Unix socket, keeps it by an elector whose store is the ledger, and refuses
//! to decide from the moment on in which its own clock says that the lease has run out. A paused sidecar's late writes
//! are refused by the ledger, in the transaction that would have made them.

mod decide;
mod held;
mod http;
mod keeper;
mod ledger;
mod metrics;
mod refusal;
mod scope;
mod settings;
mod socket;

use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use lease_settings::{App, Block, Failure, Section, redacted};
use lease_worker_common::{
    Role,
    health::{self, LAST_ANSWERS, Probe},
    lease_gauges::LeaseGauges,
    server::RoleServer,
    shutdown,
    under_way::UnderWay,
};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{info, warn};

use decide::Decider;
use held::Held;
use keeper::Keeper;
pub use ledger::Ledger;
use ledger::Line;
pub use metrics::{ACQUIRE_ACTION, DENIED, EPOCH, REQUESTS};
pub use scope::{Scopes, ScopesConfig};
use settings::SidecarPlan;
pub use settings::SidecarSettings;

/// Decide for the pods of this node, while holding the fencing scope
#[derive(Debug, clap::Args)]
pub struct SidecarArgs {}

/// The role `sidecar`.
pub struct Sidecar;

impl Role for Sidecar {
    type Arguments = SidecarArgs;
    const NAME: &'static str = "sidecar";
    const SECTIONS: &'static [Section] = &[SidecarSettings::SECTION];

    fn run(&self, _args: &SidecarArgs, app: &App) -> Result<ExitCode, Failure> {
        let plan = SidecarPlan::of(app.settings())?;
        app.block_on(work(plan))
    }
}

async fn work(plan: SidecarPlan) -> Result<ExitCode, Failure> {
    let stop = shutdown::token().map_err(|error| Failure::new(format!("cannot watch signals: {error}")))?;
    let pages = health::metrics(Sidecar::NAME, "ledger")?;
    metrics::start();
    let held = Held::new(plan.scope.clone());
    let ledger = plan.ledger.clone();
    let (listener, address) = health::listen(&plan.listen, "--listen").await?;
    let (scope, tenant) = (&plan.scope.scope, &plan.scope.tenant);
    info!(%address, ledger = redacted(&plan.ledger_url), scope, tenant, "sidecar started");
    let budget = plan.stop_budget;
    let mut keeper = Keeper::start(ledger.clone(), plan.scope.clone(), held.clone(), &stop, budget)
        .map_err(|error| Failure::new(error.to_string()))?;
    let probe = Arc::new(Health { held: held.clone(), lease: keeper.gauges() });
    let pages = RoleServer::start(listener, health::router(pages, probe, stop.clone()));
    tokio::select! {
        biased;
        () = stop.cancelled() => return given_up(keeper).await,
        first = keeper.first_term() => first.map_err(Failure::new)?,
    };
    // Only now: a pod that finds the socket finds somebody who may decide.
    let (listener, socket) = match socket::bind(&plan.socket, plan.socket_mode).await {
        Ok(bound) => bound,
        Err(error) => {
            let _ = tokio::time::timeout(budget, given_up(keeper)).await;
            return Err(Failure::new(error.to_string()));
        }
    };
    let under_way = UnderWay::default();
    let api = http::PodApi {
        decider: Decider {
            held,
            tenant: plan.scope.tenant.clone(),
            line: Line::new(ledger.clone(), plan.call_limit),
            call_limit: plan.call_limit,
        },
        permits: Semaphore::new(plan.max_requests),
        under_way: under_way.clone(),
    };
    let mut server = RoleServer::start(listener, http::router(Arc::new(api)));
    info!(socket = %plan.socket.display(), "serving");
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        ended = keeper.ended() => {
            ended.map_err(Failure::new)?;
            return Err(Failure::new("the elector of the fencing scope ended"));
        }
    }

    // H-1: stop accepting, finish what has begun, and only then release the scope; one budget for all of it.
    let give_up_at = Instant::now() + budget;
    drop(socket);
    server.accept_no_more();
    under_way.close();
    let then = "repeat them with their idempotency keys; the scope was not released and runs out by itself";
    if let Err(abandoned) = under_way.drained(budget, then).await {
        // The elector abandons the scope at the same moment; dropped before, it would release it.
        let _ = keeper.ended().await;
        return Err(abandoned);
    }
    // Nothing can begin any more, so answers still on their way out hold up no successor.
    let last_answers = give_up_at.saturating_duration_since(Instant::now()).min(LAST_ANSWERS);
    let (ended, ()) = tokio::join!(given_up(keeper), server.close(last_answers));
    drop(pages);
    info!("sidecar stopped");
    ended
}

/// Gives the scope up, if it is held; at the end of the stop budget it is left to run out.
async fn given_up(keeper: Keeper) -> Result<ExitCode, Failure> {
    if let Err(why) = keeper.give_up().await {
        warn!(why, "the scope runs out by itself");
    }
    Ok(ExitCode::SUCCESS)
}

struct Health {
    held: Held,
    lease: LeaseGauges,
}

#[async_trait]
impl Probe for Health {
    /// Looks at expiry, not at presence.
    async fn ready(&self) -> Result<(), String> {
        let held = self.held.now().is_some();
        held.then_some(()).ok_or_else(|| "the fencing lease is not held, or has run out".to_owned())
    }

    async fn refresh(&self) {
        metrics::epoch(self.held.now().map_or(0, |term| term.term().epoch));
        self.lease.show();
    }
}

//! `sidecar`: one on each node, one of which holds the fencing scope and decides for the pods of its node.
//!
//! It takes its scope **before** it binds its Unix socket, renews it on the lease thread, and refuses to decide from
//! the moment on in which its own clock says that the lease has run out. What a paused sidecar sends too late is
//! refused by the ledger, in the transaction that would have written it.

mod campaign;
mod decide;
mod held;
mod http;
mod keep;
mod keeper;
mod ledger;
mod metrics;
mod refusal;
mod settings;
mod socket;
mod take;

use std::process::ExitCode;
use std::sync::Arc;

use async_trait::async_trait;
use lease_core::Clock;
use lease_settings::{App, Block, Failure, Section, redacted};
use lease_worker_common::{
    Role,
    health::{self, HealthServer, LAST_ANSWERS, Probe},
    shutdown,
    under_way::UnderWay,
};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{info, warn};

use decide::Decider;
use held::Held;
use keeper::{End, Keeper};
use ledger::Ledger;
pub use metrics::{ACQUIRE_ACTION, DENIED, EPOCH, REQUESTS};
pub use settings::Settings;
use settings::SidecarPlan;

/// Decide for the pods of this node, while holding the fencing scope
#[derive(Debug, clap::Args)]
pub struct Args {}

/// The role `sidecar`.
pub struct Sidecar;

impl Role for Sidecar {
    type Arguments = Args;
    const NAME: &'static str = "sidecar";
    const SECTIONS: &'static [Section] = &[Settings::SECTION];

    fn run(&self, _args: &Args, app: &App) -> Result<ExitCode, Failure> {
        let plan = SidecarPlan::of(app.settings())?;
        app.block_on(work(plan))
    }
}

async fn work(plan: SidecarPlan) -> Result<ExitCode, Failure> {
    let stop = shutdown::token().map_err(|error| Failure::new(format!("cannot watch signals: {error}")))?;
    let pages = health::metrics()?;
    metrics::start();
    let clock = Clock::boot();
    let held = Held::new(clock.clone(), plan.scope.clone());
    let ledger = Ledger::new(&plan.ledger)?;
    let (listener, address) = health::listen(&plan.listen, "--listen").await?;
    let (scope, tenant) = (&plan.scope.scope, &plan.scope.tenant);
    info!(%address, ledger = redacted(&plan.ledger.url), scope, tenant, "sidecar started");
    let probe = Arc::new(Health(held.clone()));
    let pages = HealthServer::start(listener, health::router(pages, probe, stop.clone()));

    let mut keeper = Keeper::start(ledger.clone(), plan.scope.clone(), clock, held.clone());
    let first = tokio::select! {
        first = keeper.first_term() => first,
        () = stop.cancelled() => return given_up(keeper, &plan, Instant::now() + plan.stop_budget).await,
    };
    if let Err(end) = first {
        return Err(failure(end));
    }
    // Only now: a pod that finds the socket finds somebody who may decide.
    let (listener, socket) = match socket::bind(&plan.socket, plan.socket_mode).await {
        Ok(bound) => bound,
        Err(error) => {
            let ended = given_up(keeper, &plan, Instant::now() + plan.stop_budget).await;
            return Err(Failure::new(format!(
                "{error}{}",
                ended.err().map_or_else(String::new, |e| format!("; {e}"))
            )));
        }
    };
    let under_way = UnderWay::default();
    let api = http::Api {
        decider: Decider {
            held,
            tenant: plan.scope.tenant.clone(),
            client: ledger.client(plan.call_limit),
            call_limit: plan.call_limit,
        },
        permits: Semaphore::new(plan.max_requests),
        under_way: under_way.clone(),
    };
    let server = HealthServer::start(listener, http::router(Arc::new(api)));
    info!(socket = %plan.socket.display(), "serving");
    tokio::select! {
        () = stop.cancelled() => {}
        end = keeper.ended() => return Err(failure(end)),
    }

    // H-1: stop accepting, finish what has begun, and only then let the scope go; one budget for all of it.
    let give_up_at = Instant::now() + plan.stop_budget;
    drop(socket);
    server.accept_no_more();
    under_way.close();
    let then = "repeat them with their idempotency keys; the scope was not released and runs out by itself";
    under_way.drained(plan.stop_budget, then).await?;
    // Nothing can begin any more, so answers still on their way out hold up no successor.
    let last_answers = give_up_at.saturating_duration_since(Instant::now()).min(LAST_ANSWERS);
    let (ended, ()) = tokio::join!(given_up(keeper, &plan, give_up_at), server.close(last_answers));
    drop(pages);
    info!("sidecar stopped");
    ended
}

/// Gives the scope up, if it is held, before the stop budget is used up.
async fn given_up(keeper: Keeper, plan: &SidecarPlan, until: Instant) -> Result<ExitCode, Failure> {
    let scope = &plan.scope.scope;
    match tokio::time::timeout_at(until, keeper.give_up()).await {
        Ok(End::GivenUp) => {}
        Ok(End::LeftToExpire(why) | End::Refused(why)) => warn!(scope, why, "the scope runs out by itself"),
        Err(_) => warn!(
            scope,
            "the release was not acknowledged within the stop budget: the scope runs out by itself"
        ),
    }
    Ok(ExitCode::SUCCESS)
}

fn failure(end: End) -> Failure {
    Failure::new(match end {
        End::Refused(why) | End::LeftToExpire(why) => why,
        End::GivenUp => "the keeper of the scope ended".to_owned(),
    })
}

struct Health(Held);

#[async_trait]
impl Probe for Health {
    /// Looks at expiry, not at presence.
    async fn ready(&self) -> Result<(), String> {
        let held = self.0.now().is_some();
        held.then_some(()).ok_or_else(|| "the fencing lease is not held, or has run out".to_owned())
    }

    async fn refresh(&self) {
        metrics::epoch(self.0.now().map_or(0, |term| term.epoch));
    }
}

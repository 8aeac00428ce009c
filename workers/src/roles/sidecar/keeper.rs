//! Keeps the scope: takes it, renews it, gives it up. Runs on the process's lease thread with a connection of its own,
//! so that no renewal ever waits behind the requests' work.

use std::sync::Arc;
use std::time::Duration;

use lease_core::deadline::Deadline;
use lease_core::fence::FENCING_EPOCH_STALE;
use lease_core::{Clock, Instant, lease_thread};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{error, info, warn};

use super::held::{Held, Term, fresh_id};
use super::ledger::{CallError, Ledger, request, within};
use super::metrics;
use super::settings::ScopePlan;
use crate::rpc::ledger::v1::acquire_fencing_lease_response::{Denied, Outcome, Success};
use crate::rpc::ledger::v1::ledger_client::LedgerClient;
use crate::rpc::ledger::v1::release_fencing_lease_response::Outcome as ReleaseOutcome;
use crate::rpc::ledger::v1::{
    AcquireFencingLeaseRequest, AwaitFencingScopeRequest, Error, Fence, ReleaseFencingLeaseRequest,
};

/// What a sidecar that can't have its scope says, so that runbooks find it.
const S4: &str = "S4: acquire fencing lease at startup";

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// At the start: there is no scope to be had, and waiting for it was not asked for.
    Refused(String),
    /// It was given up, or there was nothing to give up.
    GivenUp,
    /// It could not be given up; it runs out by itself.
    LeftToExpire(String),
}

/// The keeper, from outside.
pub(super) struct Keeper {
    /// True from the first term on.
    has_held: watch::Receiver<bool>,
    give_up: CancellationToken,
    task: JoinHandle<End>,
}

impl Keeper {
    /// Starts to campaign.
    pub(super) fn start(ledger: Ledger, plan: ScopePlan, clock: Clock, held: Held) -> Self {
        let (tell, has_held) = watch::channel(false);
        let give_up = CancellationToken::new();
        let stop = give_up.clone();
        let task = lease_thread::handle().spawn(async move {
            let ttl = Duration::from_secs(plan.ttl_seconds.into());
            // Made here, so that the connection is served here.
            let client = ledger.client();
            Campaign { ledger, client, plan, ttl, clock, held, has_held: tell, stop }.run().await
        });
        Self { has_held, give_up, task }
    }

    /// Resolves when the first term has begun, or with how it ended without one. Cancel safe.
    pub(super) async fn first_term(&mut self) -> Result<(), End> {
        if self.has_held.wait_for(|held| *held).await.is_ok() {
            return Ok(());
        }
        // Its end of the channel goes a moment before it does.
        Err(joined((&mut self.task).await))
    }

    /// Resolves only if it ends without having been told to. Cancel safe.
    pub(super) async fn ended(&mut self) -> End {
        joined((&mut self.task).await)
    }

    /// Gives the scope up, if it is held.
    pub(super) async fn give_up(mut self) -> End {
        self.give_up.cancel();
        joined((&mut self.task).await)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Nothing is released then: whoever drops it could not wait for the work.
        self.task.abort();
    }
}

fn joined(ended: Result<End, tokio::task::JoinError>) -> End {
    ended.unwrap_or_else(|error| End::LeftToExpire(format!("the keeper of the scope ended: {error}")))
}

struct Campaign {
    ledger: Ledger,
    client: LedgerClient<Channel>,
    plan: ScopePlan,
    ttl: Duration,
    clock: Clock,
    held: Held,
    has_held: watch::Sender<bool>,
    stop: CancellationToken,
}

/// One acquisition, however often it is sent: the ledger knows it by its id and answers it once.
struct Attempt {
    id: String,
    /// The first sending: whichever of them the ledger did, it is this acquisition.
    sent_at: Instant,
    deadline: Deadline,
}

/// How a term ended.
enum Over {
    /// Nobody acknowledged a renewal in time.
    Expired,
    /// The ledger says that it is over: revoked, or taken after it had run out.
    Superseded,
    /// It had run out at the ledger, which began a new one for us.
    Anew(Arc<Term>, Instant),
    /// We are told to give it up.
    GiveUp,
}

impl Campaign {
    async fn run(mut self) -> End {
        loop {
            let (mut term, mut sent_at) = match self.campaign().await {
                Ok(Some(begun)) => begun,
                Ok(None) => return End::GivenUp,
                Err(why) => return End::Refused(why),
            };
            self.has_held.send_replace(true);
            let over = loop {
                match self.keep(&term, sent_at).await {
                    Over::Anew(anew, at) => (term, sent_at) = (anew, at),
                    over => break over,
                }
            };
            let (scope, epoch) = (&self.plan.scope, term.epoch);
            match over {
                Over::GiveUp => return self.release(&term).await,
                Over::Expired => {
                    self.held.end(&term);
                    warn!(
                        scope,
                        epoch, "fencing lease expired locally; decisions are refused until it is held again"
                    );
                }
                Over::Superseded | Over::Anew(..) => {
                    self.held.end(&term);
                    error!(
                        scope,
                        epoch,
                        code = FENCING_EPOCH_STALE,
                        "the fencing lease is over; decisions are refused"
                    );
                    // F-4: whoever was meant to have it comes first.
                    self.pause(self.plan.poll_every * 2).await;
                }
            }
        }
    }

    // === campaigning ===

    /// Takes the scope; `None` if told to stop first.
    async fn campaign(&mut self) -> Result<Option<(Arc<Term>, Instant)>, String> {
        let patient = self.plan.standby || *self.has_held.borrow();
        let mut attempt = self.attempt();
        let mut noted = None::<String>;
        while !self.stop.is_cancelled() {
            let now = self.clock.now();
            if !attempt.deadline.allows(now) {
                if !patient {
                    return Err(
                        self.s4("no answer from the ledger", "look at the ledger and at the way to it")
                    );
                }
                attempt = self.attempt();
            }
            match self.acquire(&attempt, now).await {
                Ok(Outcome::Success(success)) => {
                    metrics::acquired(&success.action);
                    if attempt.deadline.allows(self.clock.now()) {
                        return Ok(Some(self.begin(success, attempt.deadline, attempt.sent_at)));
                    }
                    // Like anybody's, it must run out (T-1).
                    warn!(
                        scope = self.plan.scope,
                        "the scope was granted too late to be used; waiting until it runs out"
                    );
                    attempt = self.attempt();
                }
                Ok(Outcome::Denied(denied)) => {
                    metrics::denied();
                    if !patient {
                        return Err(self.s4(
                            &who(&denied),
                            "wait until it runs out, stop or revoke that one, or wait as a \
                             warm standby by --standby true (LEASEHOLD_SIDECAR_STANDBY)",
                        ));
                    }
                    if noted.as_ref() != Some(&denied.current_holder_instance_id) {
                        info!(
                            scope = self.plan.scope,
                            holder = denied.current_holder_instance_id,
                            epoch = denied.current_epoch,
                            "standing by"
                        );
                        noted = Some(denied.current_holder_instance_id);
                    }
                    attempt = self.attempt();
                    self.wait_for_scope().await;
                }
                Ok(Outcome::Error(Error { code, message })) if code == FENCING_EPOCH_STALE => {
                    // This very attempt had the scope, and has lost it since.
                    warn!(scope = self.plan.scope, message, "acquiring under a fresh attempt");
                    attempt = self.attempt();
                    self.pause(self.plan.poll_every).await;
                }
                Ok(Outcome::Error(Error { code, message })) => {
                    let why = format!("{code}: {message}");
                    if !*self.has_held.borrow() {
                        return Err(self.s4(&why, "mend what it says, then start again"));
                    }
                    error!(scope = self.plan.scope, why, "the ledger grants no scope; trying again");
                    self.pause(self.plan.poll_every).await;
                }
                Err(failure) => {
                    let may_be_done = matches!(failure, CallError::Unknown(_));
                    if !patient && !may_be_done {
                        let advice =
                            "look at --ledger-url, at the ledger and at the way to it, then start again";
                        return Err(self.s4(&failure.to_string(), advice));
                    }
                    warn!(scope = self.plan.scope, %failure, "no answer to the acquisition; trying again");
                    self.reconnect();
                    self.pause(self.retry_every()).await;
                }
            }
        }
        Ok(None)
    }

    fn attempt(&self) -> Attempt {
        let sent_at = self.clock.now();
        Attempt { id: fresh_id(), sent_at, deadline: Deadline::of_acknowledged(sent_at, self.ttl) }
    }

    fn s4(&self, why: &str, advice: &str) -> String {
        let ScopePlan { scope, tenant, .. } = &self.plan;
        format!("{S4}: fencing scope {scope} of tenant {tenant} was not acquired: {why}; {advice}")
    }

    async fn acquire(&mut self, attempt: &Attempt, now: Instant) -> Result<Outcome, CallError> {
        let limit = attempt.deadline.attempt_limit(now);
        self.ask(limit, &attempt.id, Vec::new()).await
    }

    async fn ask(&mut self, limit: Duration, id: &str, grant: Vec<u8>) -> Result<Outcome, CallError> {
        let message = AcquireFencingLeaseRequest {
            fencing_scope_id: self.plan.scope.clone(),
            tenant_id: self.plan.tenant.clone(),
            workload_instance_id: self.plan.instance.clone(),
            ttl_seconds: self.plan.ttl_seconds,
            force: false,
            audit_event_id: id.to_owned(),
            grant,
        };
        let answer = within(limit, self.client.acquire_fencing_lease(request(message, limit, id))).await?;
        answer.outcome.ok_or_else(|| CallError::Refused("it gave an answer without an outcome".to_owned()))
    }

    fn begin(&self, success: Success, deadline: Deadline, sent_at: Instant) -> (Arc<Term>, Instant) {
        let Success { epoch, grant, action, .. } = success;
        info!(scope = self.plan.scope, epoch, action, "holding the fencing scope");
        (self.held.begin(epoch, grant, deadline), sent_at)
    }

    /// Waits for a hint that the scope is free; it only ever wakes us.
    async fn wait_for_scope(&mut self) {
        let again_at = self.clock.now().plus(self.ttl / 3);
        while self.clock.now() < again_at && !self.stop.is_cancelled() {
            let limit = self.plan.poll_every.min(Duration::from_secs(30));
            let message = AwaitFencingScopeRequest {
                fencing_scope_id: self.plan.scope.clone(),
                tenant_id: self.plan.tenant.clone(),
                limit_ms: limit.as_millis().max(1) as u32,
            };
            let call_limit = limit + Duration::from_secs(2);
            let id = fresh_id();
            let call = within(call_limit, self.client.await_fencing_scope(request(message, call_limit, &id)));
            let answer = tokio::select! {
                () = self.stop.cancelled() => return,
                answer = call => answer,
            };
            match answer {
                Ok(answer) if answer.free => return,
                Ok(_) => {}
                Err(failure) => {
                    warn!(scope = self.plan.scope, %failure, "no hint of the scope; asking for it instead");
                    self.reconnect();
                    return self.pause(self.plan.poll_every).await;
                }
            }
        }
    }

    // === holding ===

    /// Renews until the term is over.
    async fn keep(&mut self, term: &Arc<Term>, sent_at: Instant) -> Over {
        let mut due = sent_at.plus(self.ttl / 3);
        loop {
            let now = self.clock.now();
            let deadline = term.deadline.load();
            if !deadline.allows(now) {
                return self.how_it_ended(term);
            }
            if now < due {
                let clock = self.clock.clone();
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return Over::GiveUp,
                    () = self.held.refused() => {}
                    () = clock.sleep_until(due) => {}
                }
                continue;
            }
            // The limit ends before the deadline does, but for the last 100 ms.
            let limit = deadline.attempt_limit(now);
            let (stop, held, clock) = (self.stop.clone(), self.held.clone(), self.clock.clone());
            let answer = tokio::select! {
                biased;
                () = stop.cancelled() => return Over::GiveUp,
                () = held.refused() => continue,
                answer = self.ask(limit, "", term.grant.clone()) => answer,
                () = clock.sleep_until(deadline.at()) => return Over::Expired,
            };
            match answer {
                Ok(Outcome::Success(success)) => {
                    metrics::acquired(&success.action);
                    let deadline = Deadline::of_acknowledged(now, self.ttl);
                    if success.epoch == term.epoch && success.grant == term.grant {
                        term.deadline.extend(deadline);
                        due = now.plus(self.ttl / 3);
                    } else if deadline.allows(self.clock.now()) {
                        self.held.end(term);
                        let (term, sent_at) = self.begin(success, deadline, now);
                        return Over::Anew(term, sent_at);
                    } else {
                        return Over::Superseded;
                    }
                }
                Ok(Outcome::Denied(_)) => return Over::Superseded,
                Ok(Outcome::Error(error)) if error.code == FENCING_EPOCH_STALE => return Over::Superseded,
                Ok(Outcome::Error(Error { code, message })) => {
                    warn!(
                        scope = self.plan.scope,
                        epoch = term.epoch,
                        code,
                        message,
                        "the renewal failed; trying again"
                    );
                    due = self.clock.now().plus(self.retry_every());
                }
                // Neither held nor lost: the deadline stays where it is (U-1).
                Err(failure) => {
                    warn!(scope = self.plan.scope, epoch = term.epoch, %failure, "the renewal was not acknowledged; trying again");
                    self.reconnect();
                    due = self.clock.now().plus(self.retry_every());
                }
            }
        }
    }

    /// A refused write clears the deadline; else it has passed.
    fn how_it_ended(&self, term: &Term) -> Over {
        if term.deadline.load().at() == Instant::ZERO { Over::Superseded } else { Over::Expired }
    }

    // === giving up ===

    /// Local false first, then the release; nobody waits for it longer than the term would have lasted (U-3).
    async fn release(&mut self, term: &Term) -> End {
        let deadline = term.deadline.load();
        let fence = self.held.fence(term);
        self.held.end(term);
        let (scope, epoch) = (self.plan.scope.clone(), term.epoch);
        loop {
            let now = self.clock.now();
            if !deadline.allows(now) {
                return End::LeftToExpire("its term was over before the release was acknowledged".to_owned());
            }
            match self.send_release(&fence, deadline.attempt_limit(now)).await {
                Ok(ReleaseOutcome::Released(_)) => {
                    info!(scope, epoch, "released the fencing scope");
                    return End::GivenUp;
                }
                Ok(ReleaseOutcome::Error(Error { code, message })) => {
                    return End::LeftToExpire(format!("{code}: {message}"));
                }
                Err(CallError::Refused(why)) => return End::LeftToExpire(why),
                Err(failure) => {
                    warn!(scope, epoch, %failure, "the release was not acknowledged; trying again");
                    self.reconnect();
                    let again = self.clock.now().plus(self.retry_every());
                    self.clock.sleep_until(again).await;
                }
            }
        }
    }

    async fn send_release(&mut self, fence: &Fence, limit: Duration) -> Result<ReleaseOutcome, CallError> {
        let message = ReleaseFencingLeaseRequest { fence: Some(fence.clone()) };
        let call = self.client.release_fencing_lease(request(message, limit, ""));
        let answer = within(limit, call).await?;
        answer.outcome.ok_or_else(|| CallError::Refused("it gave an answer without an outcome".to_owned()))
    }

    // === pauses ===

    fn retry_every(&self) -> Duration {
        (self.ttl / 15).min(self.plan.poll_every)
    }

    /// A connection on which something was cut is not used again.
    fn reconnect(&mut self) {
        self.client = self.ledger.client();
    }

    async fn pause(&self, span: Duration) {
        let until = self.clock.now().plus(span);
        tokio::select! { () = self.stop.cancelled() => {}, () = self.clock.sleep_until(until) => {} }
    }
}

fn who(denied: &Denied) -> String {
    let Denied { current_holder_instance_id: holder, current_epoch: epoch, current_ttl_expires_at: until } =
        denied;
    let until = until.and_then(|at| jiff::Timestamp::new(at.seconds, at.nanos).ok());
    let until = until.map_or_else(String::new, |at| format!(" until {at}"));
    format!("{holder} holds it in epoch {epoch}{until}")
}

//! Taking the scope, or waiting for it.

use std::sync::Arc;
use std::time::Duration;

use lease_core::Instant;
use lease_core::deadline::Deadline;
use lease_core::fence::FENCING_EPOCH_STALE;
use tracing::{error, info, warn};

use super::campaign::Campaign;
use super::held::{Term, fresh_id};
use super::ledger::{CallError, request, within};
use super::metrics;
use super::settings::ScopePlan;
use crate::rpc::ledger::v1::acquire_fencing_lease_response::{Denied, Outcome};
use crate::rpc::ledger::v1::{AwaitFencingScopeRequest, Error};

/// What a sidecar that can't have its scope says, so that runbooks find it.
const S4: &str = "S4: acquire fencing lease at startup";

/// One acquisition, however often it is sent: the ledger knows it by its id and answers it once.
struct Attempt {
    id: String,
    /// The first sending: whichever of them the ledger did, it is this acquisition.
    sent_at: Instant,
    deadline: Deadline,
}

impl Campaign {
    /// Takes the scope; `None` if told to stop first.
    pub(super) async fn campaign(&mut self) -> Result<Option<(Arc<Term>, Instant)>, String> {
        let patient = self.plan.standby || *self.has_held.borrow();
        let mut attempt = self.attempt();
        let mut noted = None::<String>;
        let mut unanswered = false;
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
            let answer = self.acquire(&attempt, now).await;
            unanswered = matches!(answer, Err(CallError::Unknown(_)));
            match answer {
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
                    if !patient && !unanswered {
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
        if unanswered {
            warn!(
                scope = self.plan.scope,
                "told to stop while an acquisition was unanswered: if it was done, the scope runs out by itself"
            );
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
}

fn who(denied: &Denied) -> String {
    let Denied { current_holder_instance_id: holder, current_epoch: epoch, current_ttl_expires_at: until } =
        denied;
    let until = until.and_then(|at| jiff::Timestamp::new(at.seconds, at.nanos).ok());
    let until = until.map_or_else(String::new, |at| format!(" until {at}"));
    format!("{holder} holds it in epoch {epoch}{until}")
}

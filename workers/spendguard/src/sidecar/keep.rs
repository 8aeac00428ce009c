//! Keeping the scope, and giving it up.

use std::sync::Arc;
use std::time::Duration;

use lease_core::Instant;
use lease_core::deadline::Deadline;
use lease_core::fence::FENCING_EPOCH_STALE;
use tracing::{info, warn};

use super::campaign::{Campaign, Over};
use super::held::Term;
use super::keeper::End;
use super::ledger::{CallError, request, within};
use super::metrics;
use crate::rpc::ledger::v1::acquire_fencing_lease_response::Outcome;
use crate::rpc::ledger::v1::release_fencing_lease_response::Outcome as ReleaseOutcome;
use crate::rpc::ledger::v1::{Error, Fence, ReleaseFencingLeaseRequest};

impl Campaign {
    /// Renews until the term is over.
    pub(super) async fn keep(&mut self, term: &Arc<Term>, sent_at: Instant) -> Over {
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

    /// Local false first, then the release; nobody waits for it longer than the term would have lasted (U-3).
    pub(super) async fn release(&mut self, term: &Term) -> End {
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
}

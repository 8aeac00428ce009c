//! The keeper's life: campaign, hold, lose, campaign again; until it is told to give up.

use std::sync::Arc;
use std::time::Duration;

use lease_core::deadline::Deadline;
use lease_core::fence::FENCING_EPOCH_STALE;
use lease_core::{Clock, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{error, info, warn};

use super::held::{Held, Term};
use super::keeper::End;
use super::ledger::{CallError, Ledger, request, within};
use super::settings::ScopePlan;
use crate::rpc::ledger::v1::AcquireFencingLeaseRequest;
use crate::rpc::ledger::v1::acquire_fencing_lease_response::{Outcome, Success};
use crate::rpc::ledger::v1::ledger_client::LedgerClient;

/// The keeper at work: takes the scope (`take`), keeps it (`keep`), and begins anew after a loss.
pub(super) struct Campaign {
    pub(super) ledger: Ledger,
    pub(super) client: LedgerClient<Channel>,
    pub(super) plan: ScopePlan,
    pub(super) ttl: Duration,
    pub(super) clock: Clock,
    pub(super) held: Held,
    pub(super) has_held: watch::Sender<bool>,
    pub(super) stop: CancellationToken,
}

/// How a term ended.
pub(super) enum Over {
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
    pub(super) async fn run(mut self) -> End {
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

    // === what taking and keeping share ===

    pub(super) async fn ask(
        &mut self,
        limit: Duration,
        id: &str,
        grant: Vec<u8>,
    ) -> Result<Outcome, CallError> {
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

    pub(super) fn begin(
        &self,
        success: Success,
        deadline: Deadline,
        sent_at: Instant,
    ) -> (Arc<Term>, Instant) {
        let Success { epoch, grant, action, .. } = success;
        info!(scope = self.plan.scope, epoch, action, "holding the fencing scope");
        (self.held.begin(epoch, grant, deadline), sent_at)
    }

    pub(super) fn retry_every(&self) -> Duration {
        (self.ttl / 15).min(self.plan.poll_every)
    }

    /// A connection on which something was cut is not used again.
    pub(super) fn reconnect(&mut self) {
        self.client = self.ledger.client(self.ttl / 3);
    }

    pub(super) async fn pause(&self, span: Duration) {
        let until = self.clock.now().plus(span);
        tokio::select! { () = self.stop.cancelled() => {}, () = self.clock.sleep_until(until) => {} }
    }
}

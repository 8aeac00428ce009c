//! The gRPC service: requests are checked, asked of the store, and answered.

use std::time::Duration;

use lease_core::Change;
use lease_worker_common::access::{Caller, NotAllowed};
use lease_worker_common::access_table::Right;
use metrics::{counter, gauge};
use prost_types::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Extensions, Request, Response, Status};
use tracing::info;

use super::calls::{Calls, limit_of};
use super::check::{self, ScopeWrite};
use super::metrics::{ACTIONS, CALLERS_REFUSED, REQUESTS, WAITERS};
use super::store::{
    Acquired, LedgerError, LedgerRefusal, LedgerStore, ReservationRow, ScopePut, ScopeState, SeenScope,
};
use super::wake::Wakes;
use crate::rpc::ledger::v1;
use v1::{
    acquire_fencing_lease_response as acquired, observe_fencing_scope_response as observed,
    put_fencing_scope_response as put, release_fencing_lease_response as released,
    reservation_response as reserved, revoke_fencing_lease_response as revoked,
};

/// The longest that a call waits for a scope.
const LONGEST_WAIT_MS: u32 = 30_000;

/// The service, shared by all connections.
pub(super) struct Service {
    pub(super) store: LedgerStore,
    pub(super) calls: Calls,
    /// Connections and places of their own: no scope is lost because writes, of whichever tenant, are stuck.
    pub(super) scopes: LedgerStore,
    pub(super) scope_calls: Calls,
    pub(super) waiters: Calls,
    pub(super) wakes: Wakes,
    pub(super) poll_every: Duration,
    /// The server stops: nobody waits any longer.
    pub(super) stop: CancellationToken,
}

#[tonic::async_trait]
impl v1::ledger_server::Ledger for std::sync::Arc<Service> {
    async fn acquire_fencing_lease(
        &self,
        request: Request<v1::AcquireFencingLeaseRequest>,
    ) -> Result<Response<v1::AcquireFencingLeaseResponse>, Status> {
        let (metadata, extensions, asked) = request.into_parts();
        // To take a scope whoever holds it ends a term of another.
        let right = if asked.force { Right::Operate } else { Right::Sidecar };
        allow(&extensions, right, &asked.tenant_id, &asked.fencing_scope_id)?;
        let work = async { self.scopes.acquire(&check::acquisition(&asked)?).await };
        let answer =
            self.scope_calls.run("AcquireFencingLease", &metadata, &asked.audit_event_id, work).await?;
        let (scope, instance) = (&asked.fencing_scope_id, &asked.workload_instance_id);
        let outcome = match answer {
            Ok(Acquired::Success { action, epoch, grant, expires_us }) => {
                counter!(ACTIONS, "action" => action.clone()).increment(1);
                if action != "renew" {
                    info!(scope, instance, epoch, action, "fencing scope taken");
                }
                acquired::Outcome::Success(v1::acquire_fencing_lease_response::Success {
                    epoch: unsigned(epoch),
                    ttl_expires_at: Some(timestamp(expires_us)),
                    action,
                    grant: grant.0.to_be_bytes().to_vec(),
                })
            }
            Ok(Acquired::Denied { holder, epoch, expires_us }) => {
                counter!(ACTIONS, "action" => "denied").increment(1);
                acquired::Outcome::Denied(v1::acquire_fencing_lease_response::Denied {
                    current_holder_instance_id: holder,
                    current_epoch: unsigned(epoch),
                    current_ttl_expires_at: Some(timestamp(expires_us)),
                })
            }
            Err(refusal) => acquired::Outcome::Error(refusal.into()),
        };
        Ok(Response::new(v1::AcquireFencingLeaseResponse { outcome: Some(outcome) }))
    }

    async fn release_fencing_lease(
        &self,
        request: Request<v1::ReleaseFencingLeaseRequest>,
    ) -> Result<Response<v1::ReleaseFencingLeaseResponse>, Status> {
        let (metadata, extensions, asked) = request.into_parts();
        allow_fence(&extensions, asked.fence.as_ref())?;
        let work = async {
            let fence = check::fence(asked.fence.as_ref())?;
            let epoch = self.scopes.release(&fence).await?;
            info!(scope = fence.scope, instance = fence.instance, epoch, "fencing scope released");
            Ok(epoch)
        };
        let outcome = match self.scope_calls.run("ReleaseFencingLease", &metadata, "", work).await? {
            Ok(epoch) => released::Outcome::Released(v1::release_fencing_lease_response::Released {
                epoch: unsigned(epoch),
            }),
            Err(refusal) => released::Outcome::Error(refusal.into()),
        };
        Ok(Response::new(v1::ReleaseFencingLeaseResponse { outcome: Some(outcome) }))
    }

    async fn revoke_fencing_lease(
        &self,
        request: Request<v1::RevokeFencingLeaseRequest>,
    ) -> Result<Response<v1::RevokeFencingLeaseResponse>, Status> {
        let (metadata, extensions, asked) = request.into_parts();
        let (scope, by) = (&asked.fencing_scope_id, &asked.by);
        allow(&extensions, Right::Operate, &asked.tenant_id, scope)?;
        let work = async {
            check::scope_and_tenant(scope, &asked.tenant_id)?;
            self.scopes.revoke(scope, &asked.tenant_id, &check::remark("by", by)?).await
        };
        let outcome = match self.scope_calls.run("RevokeFencingLease", &metadata, "", work).await? {
            Ok((epoch, previous)) => {
                let previous = previous.unwrap_or_default();
                info!(scope, by, epoch, previous, "fencing scope revoked");
                revoked::Outcome::Revoked(v1::revoke_fencing_lease_response::Revoked {
                    epoch: unsigned(epoch),
                    previous_holder_instance_id: previous,
                })
            }
            Err(refusal) => revoked::Outcome::Error(refusal.into()),
        };
        Ok(Response::new(v1::RevokeFencingLeaseResponse { outcome: Some(outcome) }))
    }

    async fn await_fencing_scope(
        &self,
        request: Request<v1::AwaitFencingScopeRequest>,
    ) -> Result<Response<v1::AwaitFencingScopeResponse>, Status> {
        let (metadata, extensions, asked) = request.into_parts();
        allow_look(&extensions, &asked.tenant_id, &asked.fencing_scope_id)?;
        if !(1..=LONGEST_WAIT_MS).contains(&asked.limit_ms) {
            return Err(Status::invalid_argument(format!("limit_ms: use 1 to {LONGEST_WAIT_MS}")));
        }
        let seen = check::seen(&asked).map_err(|refusal| Status::invalid_argument(refusal.message))?;
        let place = self.waiters.enter()?;
        gauge!(WAITERS).increment(1);
        // Dropped in this order: by the time the gauge falls, the place is free.
        let _waiter = (place, Counted);
        let limit = limit_of(&metadata, Duration::from_millis(asked.limit_ms.into()));
        let scope = tokio::select! {
            scope = self.free_within(&asked, seen, Instant::now() + limit) => scope,
            () = self.stop.cancelled() => Err(Status::unavailable("this ledger stops: ask another")),
        };
        let code = scope.as_ref().map_or_else(|status| format!("{:?}", status.code()), |_| "ok".to_owned());
        counter!(REQUESTS, "method" => "AwaitFencingScope", "code" => code).increment(1);
        let scope = scope?;
        let free = scope.as_ref().is_some_and(|scope| scope.free);
        Ok(Response::new(v1::AwaitFencingScopeResponse { free, scope: scope.map(v1::FencingScope::from) }))
    }

    async fn observe_fencing_scope(
        &self,
        request: Request<v1::ObserveFencingScopeRequest>,
    ) -> Result<Response<v1::ObserveFencingScopeResponse>, Status> {
        let (metadata, extensions, asked) = request.into_parts();
        allow_look(&extensions, &asked.tenant_id, &asked.fencing_scope_id)?;
        let work = async {
            check::scope_and_tenant(&asked.fencing_scope_id, &asked.tenant_id)?;
            self.scopes.observe(&asked.fencing_scope_id, &asked.tenant_id).await
        };
        let outcome = match self.scope_calls.run("ObserveFencingScope", &metadata, "", work).await? {
            Ok(view) => observed::Outcome::Scope(view.into()),
            Err(refusal) => observed::Outcome::Error(refusal.into()),
        };
        Ok(Response::new(v1::ObserveFencingScopeResponse { outcome: Some(outcome) }))
    }

    async fn put_fencing_scope(
        &self,
        request: Request<v1::PutFencingScopeRequest>,
    ) -> Result<Response<v1::PutFencingScopeResponse>, Status> {
        let (metadata, extensions, asked) = request.into_parts();
        let (scope, tenant) = (&asked.fencing_scope_id, &asked.tenant_id);
        allow(&extensions, right_of(&asked), tenant, scope)?;
        let operates = caller(&extensions)?.may(Right::Operate, tenant, scope).is_ok();
        let work = async {
            let ScopeWrite { expected, record, change } = check::scope_write(&asked)?;
            let put =
                self.scopes.put(scope, tenant, expected, &asked.record, &asked.change, operates).await?;
            if let ScopePut::Written(action) = &put {
                let (instance, epoch) = (&record.holder, record.epoch);
                match change {
                    Change::Acquire => info!(scope, instance, epoch, action, "fencing scope taken"),
                    Change::Release => info!(scope, instance, epoch, "fencing scope released"),
                    _ => {}
                }
                if matches!(change, Change::Acquire | Change::Renew) {
                    counter!(ACTIONS, "action" => action.clone()).increment(1);
                }
            }
            Ok(put)
        };
        let outcome = match self.scope_calls.run("PutFencingScope", &metadata, "", work).await? {
            Ok(ScopePut::Written(action)) => {
                put::Outcome::Written(v1::put_fencing_scope_response::Written { action })
            }
            Ok(ScopePut::Conflict(view)) => put::Outcome::Conflict(view.into()),
            Err(refusal) => put::Outcome::Error(refusal.into()),
        };
        Ok(Response::new(v1::PutFencingScopeResponse { outcome: Some(outcome) }))
    }

    async fn reserve(
        &self,
        request: Request<v1::ReserveRequest>,
    ) -> Result<Response<v1::ReservationResponse>, Status> {
        let (metadata, extensions, asked) = request.into_parts();
        allow_fence(&extensions, asked.fence.as_ref())?;
        let work = async {
            let key = check::name("idempotency_key", &asked.idempotency_key)?;
            check::remark("request_id", &asked.request_id)?;
            let fence = check::fence(asked.fence.as_ref())?;
            let check::Amount { minor, currency, ttl_seconds } = check::amount(&asked)?;
            self.store.reserve(&fence, &key, &asked.request_id, minor, &currency, ttl_seconds).await
        };
        Ok(reservation(self.calls.run("Reserve", &metadata, &asked.request_id, work).await?))
    }

    async fn commit(
        &self,
        request: Request<v1::SettleRequest>,
    ) -> Result<Response<v1::ReservationResponse>, Status> {
        self.settle("Commit", true, request).await
    }

    async fn release(
        &self,
        request: Request<v1::SettleRequest>,
    ) -> Result<Response<v1::ReservationResponse>, Status> {
        self.settle("Release", false, request).await
    }
}

impl Service {
    /// Resolves when no call is under way. Cancel safe.
    pub(super) async fn none(&self) {
        tokio::join!(self.calls.none(), self.scope_calls.none(), self.waiters.none());
    }

    /// The number of calls under way.
    pub(super) fn under_way(&self) -> usize {
        [&self.calls, &self.scope_calls, &self.waiters].iter().map(|calls| calls.under_way()).sum()
    }

    async fn settle(
        &self,
        method: &'static str,
        commit: bool,
        request: Request<v1::SettleRequest>,
    ) -> Result<Response<v1::ReservationResponse>, Status> {
        let (metadata, extensions, asked) = request.into_parts();
        allow_fence(&extensions, asked.fence.as_ref())?;
        let work = async {
            let key = check::name("idempotency_key", &asked.idempotency_key)?;
            check::remark("request_id", &asked.request_id)?;
            let fence = check::fence(asked.fence.as_ref())?;
            let id = check::reservation(&asked.reservation_id)?;
            self.store.settle(commit, &fence, &key, &asked.request_id, id).await
        };
        Ok(reservation(self.calls.run(method, &metadata, &asked.request_id, work).await?))
    }

    /// The scope once it is free, or if asked for held, otherwise than `seen`, or `None` at `until`. Looks when its
    /// release is heard of, when its term runs out, and at each poll.
    async fn free_within(
        &self,
        asked: &v1::AwaitFencingScopeRequest,
        seen: Option<SeenScope>,
        until: Instant,
    ) -> Result<Option<ScopeState>, Status> {
        let mut wake = self.wakes.subscribe();
        loop {
            let view = self.scopes.observe(&asked.fencing_scope_id, &asked.tenant_id);
            let limit = self.poll_every.max(Duration::from_secs(1));
            let pause = match tokio::time::timeout(limit, view).await {
                Ok(Ok(view)) if (view.free || asked.any_holder) && view.seen() != seen => {
                    return Ok(Some(view));
                }
                // A millisecond more, since the remaining time is rounded.
                Ok(Ok(view)) if !view.free => view.remaining + Duration::from_millis(1),
                Ok(Err(LedgerError::Refused(refusal))) => {
                    return Err(Status::not_found(format!("{}: {}", refusal.code, refusal.message)));
                }
                // Seen already, or no answer: the caller only wants a hint.
                _ => self.poll_every,
            };
            tokio::select! {
                () = wake.heard(&asked.fencing_scope_id) => {}
                () = tokio::time::sleep(pause.min(self.poll_every)) => {}
                () = tokio::time::sleep_until(until) => return Ok(None),
            }
        }
    }
}

/// Whether the caller, whom the way in has put there, may do this.
fn allow(extensions: &Extensions, right: Right, tenant: &str, scope: &str) -> Result<(), Status> {
    caller(extensions)?.may(right, tenant, scope).map_err(denied)
}

fn caller(extensions: &Extensions) -> Result<&Caller, Status> {
    extensions.get::<Caller>().ok_or_else(|| Status::unauthenticated("the caller is unknown"))
}

fn denied(refused: NotAllowed) -> Status {
    CALLERS_REFUSED.forbidden(&refused);
    Status::permission_denied(refused.to_string())
}

/// A write in the name of a term.
fn allow_fence(extensions: &Extensions, fence: Option<&v1::Fence>) -> Result<(), Status> {
    let (tenant, scope) = fence.map_or(("", ""), |fence| (&fence.tenant_id, &fence.fencing_scope_id));
    allow(extensions, Right::Sidecar, tenant, scope)
}

/// Operators look at scopes too.
fn allow_look(extensions: &Extensions, tenant: &str, scope: &str) -> Result<(), Status> {
    let caller = caller(extensions)?;
    let sidecar = caller.may(Right::Sidecar, tenant, scope);
    sidecar.or_else(|refused| caller.may(Right::Operate, tenant, scope).map_err(|_| refused)).map_err(denied)
}

/// An elector takes, keeps and gives up, and makes its node's scope; everything else is done to the terms of others.
fn right_of(asked: &v1::PutFencingScopeRequest) -> Right {
    match asked.change.as_str() {
        "acquire" | "renew" | "release" => Right::Sidecar,
        // A register that is there has a tag: this is a conflict then.
        "init" if asked.expected_tag.is_empty() => Right::Sidecar,
        _ => Right::Operate,
    }
}

/// One waiter, until it is dropped.
struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        gauge!(WAITERS).decrement(1);
    }
}

impl From<ScopeState> for v1::FencingScope {
    fn from(view: ScopeState) -> Self {
        Self { record: view.record.unwrap_or_default(), run_out: view.run_out }
    }
}

impl From<LedgerRefusal> for v1::Error {
    fn from(refusal: LedgerRefusal) -> Self {
        Self { code: refusal.code, message: refusal.message }
    }
}

fn reservation(answer: Result<ReservationRow, LedgerRefusal>) -> Response<v1::ReservationResponse> {
    let outcome = match answer {
        Ok(row) => reserved::Outcome::Reservation(v1::Reservation {
            reservation_id: row.id.to_string(),
            state: row.state,
            expires_at: Some(timestamp(row.expires_us)),
            fencing_epoch: unsigned(row.epoch),
        }),
        Err(refusal) => reserved::Outcome::Error(refusal.into()),
    };
    Response::new(v1::ReservationResponse { outcome: Some(outcome) })
}

fn timestamp(us: i64) -> Timestamp {
    Timestamp { seconds: us.div_euclid(1_000_000), nanos: us.rem_euclid(1_000_000) as i32 * 1_000 }
}

/// Epochs in the database are never negative.
fn unsigned(epoch: i64) -> u64 {
    epoch.unsigned_abs()
}

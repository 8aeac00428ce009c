//! The term that the sidecar holds, as its requests see it.

use std::sync::{Arc, Mutex, PoisonError};

use lease_core::deadline::{AtomicDeadline, Deadline};
use lease_core::{Clock, Grant};
use tokio::sync::Notify;

use super::settings::ScopePlan;
use crate::rpc::ledger::v1::Fence;

/// One term of the scope. Whether it may be acted on is computed from the clock at each question, so that it is over
/// at its deadline even if every task of the process hangs (T-1).
#[derive(Debug)]
pub(super) struct Term {
    pub(super) epoch: u64,
    pub(super) grant: Vec<u8>,
    pub(super) deadline: AtomicDeadline,
}

/// The slot of the present term. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Held(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    scope: ScopePlan,
    slot: Mutex<Option<Arc<Term>>>,
    /// A write was refused: the keeper need not wait for its next renewal to know.
    refused: Notify,
}

impl Held {
    pub(super) fn new(clock: Clock, scope: ScopePlan) -> Self {
        Self(Arc::new(Inner { clock, scope, slot: Mutex::new(None), refused: Notify::new() }))
    }

    /// The term that may be acted on at this very moment.
    pub(super) fn now(&self) -> Option<Arc<Term>> {
        self.slot().clone().filter(|term| term.deadline.allows(self.0.clock.now()))
    }

    /// The term as it goes into a write.
    pub(super) fn fence(&self, term: &Term) -> Fence {
        Fence {
            fencing_scope_id: self.0.scope.scope.clone(),
            tenant_id: self.0.scope.tenant.clone(),
            workload_instance_id: self.0.scope.instance.clone(),
            epoch: term.epoch,
            grant: term.grant.clone(),
        }
    }

    /// A term begins.
    pub(super) fn begin(&self, epoch: u64, grant: Vec<u8>, deadline: Deadline) -> Arc<Term> {
        let term = Arc::new(Term { epoch, grant, deadline: AtomicDeadline::new(deadline) });
        *self.slot() = Some(term.clone());
        term
    }

    /// The term is over, for every request that still has it in hand too.
    pub(super) fn end(&self, term: &Term) {
        term.deadline.clear();
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(|present| std::ptr::eq(&**present, term)) {
            *slot = None;
        }
    }

    /// The ledger refused a write of this term: it is over (F-4).
    pub(super) fn refuse(&self, term: &Term) {
        self.end(term);
        self.0.refused.notify_one();
    }

    /// Resolves when a write was refused. Cancel safe.
    pub(super) async fn refused(&self) {
        self.0.refused.notified().await;
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<Term>>> {
        self.0.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fresh name for one attempt or one request: 32 hexadecimal digits.
pub(super) fn fresh_id() -> String {
    Grant::random().to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lease_core::ManualClock;

    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    fn held(hand: &ManualClock) -> Held {
        let scope = ScopePlan {
            scope: "s".into(),
            tenant: "t".into(),
            instance: "i".into(),
            ttl_seconds: 30,
            standby: false,
            poll_every: Duration::from_secs(1),
        };
        Held::new(hand.clock(), scope)
    }

    #[test]
    fn a_term_is_over_at_its_deadline_whatever_anybody_does() {
        let hand = ManualClock::new();
        let held = held(&hand);
        assert!(held.now().is_none());
        let term = held.begin(7, vec![1; 16], Deadline::of_acknowledged(hand.clock().now(), TTL));
        hand.advance(TTL - TTL / 500 - Duration::from_nanos(1));
        assert_eq!(held.now().map(|term| term.epoch), Some(7));
        hand.advance(Duration::from_nanos(1));
        assert!(held.now().is_none(), "ttl·(1−1/500) after the sending");
        term.deadline.extend(Deadline::of_acknowledged(hand.clock().now(), TTL));
        assert!(held.now().is_some());
    }

    #[test]
    fn a_refused_term_never_comes_back_and_takes_no_later_one_with_it() {
        let hand = ManualClock::new();
        let held = held(&hand);
        let deadline = Deadline::of_acknowledged(hand.clock().now(), TTL);
        let old = held.begin(7, vec![1; 16], deadline);
        held.refuse(&old);
        old.deadline.extend(deadline);
        assert!(held.now().is_none());
        held.begin(8, vec![2; 16], deadline);
        held.refuse(&old);
        assert_eq!(held.now().map(|term| term.epoch), Some(8));
    }
}

//! The term that the sidecar holds, as its requests see it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lease_core::{Grant, Leadership};

use super::settings::ScopePlan;
use crate::rpc::ledger::v1::Fence;

/// The slot of the present term. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Held(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    scope: ScopePlan,
    slot: Mutex<Option<Leadership>>,
}

impl Held {
    pub(super) fn new(scope: ScopePlan) -> Self {
        Self(Arc::new(Inner { scope, slot: Mutex::new(None) }))
    }

    /// The term that may be acted on at this very moment.
    pub(super) fn now(&self) -> Option<Leadership> {
        self.slot().clone().filter(Leadership::is_leader_now)
    }

    /// The term as it goes into a write.
    pub(super) fn fence(&self, leadership: &Leadership) -> Fence {
        let ScopePlan { scope, tenant, instance, .. } = &self.0.scope;
        let term = leadership.term();
        Fence {
            fencing_scope_id: scope.clone(),
            tenant_id: tenant.clone(),
            workload_instance_id: instance.clone(),
            epoch: term.epoch,
            grant: term.grant.to_bytes().to_vec(),
        }
    }

    pub(super) fn begin(&self, leadership: Leadership) {
        *self.slot() = Some(leadership);
    }

    /// The present term is over.
    pub(super) fn end(&self) {
        *self.slot() = None;
    }

    /// The ledger refused a write of this term: it is over (F-4). A later term is not concerned.
    pub(super) fn refuse(&self, leadership: &Leadership) {
        let slot = self.slot();
        if slot.as_ref().is_some_and(|present| present.term() == leadership.term()) {
            leadership.fence_refused();
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Leadership>> {
        self.0.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A fresh name for one request: 32 hexadecimal digits.
pub(super) fn fresh_id() -> String {
    Grant::random().to_string()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use lease_core::{Elector, Ended, LeaseBackend, LeaseName, Memory, WorkloadId};

    use super::*;

    #[tokio::test]
    async fn a_refused_term_never_comes_back_and_takes_no_later_one_with_it() {
        let scope = ScopePlan {
            scope: "s".into(),
            tenant: "t".into(),
            instance: "i".into(),
            ttl_seconds: 30,
            standby: false,
            poll_every: Duration::from_secs(1),
        };
        let (held, memory) = (Held::new(scope), Memory::new());
        assert!(held.now().is_none());
        let connector = move || {
            let memory: Arc<dyn LeaseBackend> = Arc::new(memory.clone());
            async move { Ok(memory) }
        };
        let name = LeaseName::new("s").expect("a name");
        let elector = Elector::builder(connector, name, WorkloadId::new("i").expect("a name"));
        let elector = elector.ttl(Duration::from_secs(30)).build().expect("good settings");
        let mut old: Option<Leadership> = None;
        let ended = elector.run_until(std::future::pending(), |term| {
            held.begin(term.clone());
            let earlier = old.replace(term.clone());
            let held = &held;
            async move {
                if let Some(earlier) = earlier {
                    held.refuse(&earlier);
                    assert_eq!(held.now().map(|present| present.term()), Some(term.term()));
                } else {
                    held.refuse(&term);
                    assert!(held.now().is_none() && !term.is_leader_now());
                    term.lost().await;
                }
                Ok::<_, Infallible>(())
            }
        });
        let ended = tokio::time::timeout(Duration::from_secs(60), ended).await.expect("in time");
        assert_eq!(ended.expect("it runs"), Ended::Finished);
    }
}

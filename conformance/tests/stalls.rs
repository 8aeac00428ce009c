//! A machine that stands still is no fault of the store's.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use lease_conformance::{Harness, MemoryHarness, PATIENCE, find, real_core};
use lease_core::internal::lease_thread;

#[test]
fn a_term_that_ends_because_no_elector_runs_is_not_blamed_on_the_store() {
    let harness = MemoryHarness::keeping();
    // Three ttls are the longest term in this case.
    let longer_than_a_term = harness.ttl() * 4;
    let (done, ended) = mpsc::channel::<()>();
    let stalls = std::thread::spawn(move || {
        while ended.recv_timeout(longer_than_a_term * 3 / 2) == Err(mpsc::RecvTimeoutError::Timeout) {
            lease_thread::handle().spawn(async move { std::thread::sleep(longer_than_a_term) });
        }
    });
    let case = find("renew::keeps_the_term_for_many_ttls").expect("the case is in the suite");
    let outcome = case.run(Arc::new(harness), real_core(), PATIENCE);
    drop(done);
    stalls.join().expect("it doesn't panic");
    outcome.unwrap();
}

/// The same case on a store whose every renewal gets lost is a failure, as ever.
#[test]
fn a_term_that_ends_while_its_elector_runs_is_a_failure() {
    let case = find("renew::keeps_the_term_for_many_ttls").expect("the case is in the suite");
    let told = case.run(Arc::new(Forgetful::default()), real_core(), PATIENCE).unwrap_err();
    assert!(told.contains("is over while it is renewed"), "{told}");
}

mod forgetful {
    use super::*;
    use async_trait::async_trait;
    use lease_core::{
        BackendError, Capabilities, Change, LeaseBackend, LeaseName, Memory, Observation, PutOutcome, Record,
    };

    #[derive(Default)]
    pub(super) struct Forgetful(Memory);

    #[async_trait]
    impl Harness for Forgetful {
        fn name(&self) -> &str {
            "forgetful"
        }

        async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
            Ok(Arc::new(LosesRenewals(self.0.clone())))
        }

        fn ttl(&self) -> Duration {
            Duration::from_millis(500)
        }
    }

    struct LosesRenewals(Memory);

    #[async_trait]
    impl LeaseBackend for LosesRenewals {
        async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
            self.0.observe(name).await
        }

        async fn put_if(
            &self,
            name: &LeaseName,
            expected: &Observation,
            record: &Record,
            change: Change,
        ) -> Result<PutOutcome, BackendError> {
            match change {
                Change::Renew => Err(BackendError::unknown("renewals get lost here")),
                _ => self.0.put_if(name, expected, record, change).await,
            }
        }

        fn capabilities(&self) -> Capabilities {
            Capabilities { watch: false, list: false, history: false, ..self.0.capabilities() }
        }
    }
}
use forgetful::Forgetful;

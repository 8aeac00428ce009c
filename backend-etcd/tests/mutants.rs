//! The suite over etcd sees wrong cores, stores and fences, as it does over the reference backend.

use std::sync::Arc;
use std::time::Duration;

use harness::EtcdHarness;
use lease_conformance::Harness;
use lease_conformance::mutants;

#[path = "conformance/harness.rs"]
#[allow(dead_code, reason = "no actors' processes here")]
mod harness;
#[path = "conformance/resource.rs"]
mod resource;

/// The time that a trial waits for something that a mutant never does.
const LIMIT: Duration = Duration::from_secs(8);

#[test]
fn every_mutant_is_killed_by_its_named_trials() {
    let harness: Arc<dyn Harness> = Arc::new(EtcdHarness::start(1));
    let fates = mutants::run_all(|mutant| mutant.run_on(harness.clone(), LIMIT));
    let survived: Vec<_> = fates.iter().filter(|fate| !fate.survived.is_empty()).collect();
    assert!(survived.is_empty(), "trials that did not see the mutant they are named for: {survived:#?}");
    let judged = fates.iter().filter(|fate| !fate.killed_by.is_empty()).count();
    assert!(judged * 10 >= fates.len() * 9, "only {judged} of {} could be judged on etcd", fates.len());
}

//! The suite over etcd sees wrong cores, stores and fences, as it does over the reference backend.

use std::sync::Arc;
use std::time::Duration;

use lease_conformance::Harness;
use lease_conformance::mutants::{self, Fate};
use lease_stores::etcd::EtcdStore;
use lease_stores::start;

/// etcd's lineage changes by a restore, which ends the connections: a call fails, and the wait starts anew for that, and
/// no read has one part from before it and another from after it.
const NOT_TOLD_APART: [&str; 2] =
    ["core: waits on across a change of lineage", "store: reads the lineage after the record"];

/// The time that a trial waits for something that a mutant never does.
const LIMIT: Duration = Duration::from_secs(8);

#[test]
fn every_mutant_is_killed_by_its_named_trials() {
    let harness: Arc<dyn Harness> = start(EtcdStore::of_nodes(1)).expect("etcd must start");
    let fates = mutants::run_all(|mutant| mutant.run_on(harness.clone(), LIMIT));
    let survives =
        |fate: &&Fate| !fate.survived.is_empty() && !NOT_TOLD_APART.contains(&fate.mutant.as_str());
    let survived: Vec<_> = fates.iter().filter(survives).collect();
    assert!(survived.is_empty(), "trials that did not see the mutant they are named for: {survived:#?}");
    let judged = fates.iter().filter(|fate| !fate.killed_by.is_empty()).count();
    assert!(judged * 10 >= fates.len() * 9, "only {judged} of {} could be judged on etcd", fates.len());
}

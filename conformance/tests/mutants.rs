//! The suite can tell right from wrong: every wrong core, store and fence is killed by each trial that is named for it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lease_conformance::mutants;
use lease_conformance::{MemoryHarness, Patience, find, real_core};

/// A trial waits this long for what a mutant never does.
const LIMIT: Duration = Duration::from_secs(6);

#[test]
fn every_mutant_is_killed_by_its_named_trials() {
    let fates = mutants::run_all(|mutant| mutant.run(LIMIT));
    assert!(fates.len() >= 60, "only {} mutants", fates.len());
    let survived: Vec<_> = fates.iter().filter(|fate| !fate.survived.is_empty()).collect();
    assert!(survived.is_empty(), "trials that did not see the mutant they are named for: {survived:#?}");
}

/// Otherwise a trial could kill by failing always.
#[test]
fn the_same_trials_pass_with_the_real_core_and_store() {
    let wanted: BTreeSet<(bool, &str)> = mutants::all()
        .flat_map(|mutant| mutant.killers.iter().map(move |id| (id.starts_with("absence::"), *id)))
        .collect();
    let wanted: Vec<_> = wanted.into_iter().collect();
    let failed: Mutex<Vec<String>> = Mutex::default();
    mutants::side_by_side(&wanted, |(losing, id)| {
        let memory = if *losing { MemoryHarness::losing() } else { MemoryHarness::keeping() };
        if let Err(why) = find(id).unwrap().run(Arc::new(memory), real_core(), Patience(LIMIT)) {
            failed.lock().unwrap().push(format!("{id}: {why}"));
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

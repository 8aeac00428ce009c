//! What the suite is worth: every wrong core, store and fence is killed by each trial that is named for it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lease_conformance::mutants::{self, Fate, Mutant};
use lease_conformance::{MemoryHarness, find, real_core};

/// How long a trial waits for what a mutant never does.
const LIMIT: Duration = Duration::from_secs(6);

/// Runs `job` for each item on a few threads: the trials mostly wait.
fn for_each<T: Sync>(items: &[T], job: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    job(item);
                }
            });
        }
    });
}

#[test]
fn every_mutant_is_killed_by_its_named_trials() {
    let mutants: Vec<&Mutant> = mutants::all().collect();
    assert!(mutants.len() >= 20, "only {} mutants", mutants.len());
    let fates: Mutex<Vec<Fate>> = Mutex::default();
    for_each(&mutants, |mutant| {
        let fate = mutant.run(LIMIT);
        fates.lock().unwrap().push(fate);
    });
    let mut fates = fates.into_inner().unwrap();
    fates.sort_by(|a, b| a.mutant.cmp(&b.mutant));
    println!("{} mutants, each with the trials that killed it:", fates.len());
    for fate in &fates {
        println!("\n{} ({:.1?})", fate.mutant, fate.took);
        fate.killed_by.iter().for_each(|(id, why)| println!("    killed by {id}\n        {why}"));
        fate.survived.iter().for_each(|id| println!("    SURVIVED  {id}"));
    }
    let alive: Vec<_> =
        fates.iter().filter(|fate| fate.killed_by.is_empty()).map(|fate| &fate.mutant).collect();
    assert!(alive.is_empty(), "mutants that no trial killed: {alive:?}");
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
    for_each(&wanted, |(losing, id)| {
        let memory = if *losing { MemoryHarness::losing() } else { MemoryHarness::keeping() };
        if let Err(why) = find(id).unwrap().run(Arc::new(memory), real_core(), LIMIT) {
            failed.lock().unwrap().push(format!("{id}: {why}"));
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

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
    let named = |name: &str| fates.iter().any(|fate| fate.mutant == name);
    assert!(NO_WRONG_ANSWER.iter().all(|name| named(name)), "names of no mutants in {NO_WRONG_ANSWER:?}");
    let replayed = fates.iter().filter(|fate| !fate.killed_by.is_empty());
    let accepted = replayed.filter(|fate| {
        let model = match fate.mutant.split_once(": ") {
            Some(("core", _)) => "J-1",
            Some(("store", _)) if !NO_WRONG_ANSWER.contains(&&*fate.mutant) => "J-2",
            _ => return false,
        };
        fate.unexplained.iter().all(|(_, rule)| *rule != model)
    });
    let accepted: Vec<_> = accepted.map(|fate| &fate.mutant).collect();
    assert!(
        accepted.is_empty(),
        "wrong cores and stores whose traces the acceptor takes for right: {accepted:#?}"
    );
}

/// What two trials of one group see, one more mistake may hide from both.
#[test]
fn stores_under_which_two_may_lead_are_killed_by_trials_of_two_groups() {
    let group = |id: &'static str| id.split_once("::").expect("an id names its group").0;
    let of_one: Vec<_> = mutants::dangerous_stores()
        .filter(|mutant| mutant.killers.iter().map(|id| group(id)).collect::<BTreeSet<_>>().len() < 2)
        .map(|mutant| (mutant.name, mutant.killers))
        .collect();
    assert!(of_one.is_empty(), "name a trial of another group, or write one, for: {of_one:#?}");
}

/// Wrong stores whose recorded answers and hints are those of one register. Wrong is what else they do, or what no history
/// has: lists, rows, capabilities, names, watches and connections by hand, and what a case does on a store of its own.
const NO_WRONG_ANSWER: &[&str] = &[
    "store: acknowledges a write that fails",
    "store: cuts long names off",
    "store: declares a list that it refuses",
    "store: fails a compare for no reason",
    "store: has no name for its mode",
    "store: has two names for its mode",
    "store: hides its history",
    "store: hides its list",
    "store: hides its watch",
    "store: hints under a lineage of its own",
    "store: hints under the record's stamp",
    "store: hints with a tag of its own",
    "store: is silent when a watch fails",
    "store: is silent when a watch is lost",
    "store: leaves a row for each renewal",
    "store: leaves its lock behind when dropped",
    "store: leaves no row for a takeover after a release",
    "store: leaves two rows",
    "store: lists by a prefix in any case",
    "store: lists by a prefix with wildcards",
    "store: lists more than the prefix",
    "store: lists the first page",
    "store: names a takeover an acquisition",
    "store: numbers its history anew after a deletion",
    "store: reads the lineage after the record",
    "store: refuses a connection that fails",
    "store: refuses a read that fails",
    "store: says that it loses no register, and does",
    "store: shows an empty list when it fails",
    "store: takes a dot for a hyphen",
    "store: watches without ever speaking",
    "store: writes its row after the register",
];

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

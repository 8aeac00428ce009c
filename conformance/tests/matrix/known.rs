//! `docs/known-faults.md` names mutants that there are, and what kills them.

use std::collections::BTreeSet;

use lease_conformance::find;
use lease_judge::invariants;

use crate::kept;

/// The words in backticks.
fn names(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn each_known_fault_is_a_mutant_that_is_killed_as_the_page_says() {
    let page = include_str!("../../../docs/known-faults.md");
    let kept = kept::read();
    let mut faults = BTreeSet::new();
    for row in page.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
        let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [fault, source, mutant, killers] = cells[..] else { panic!("four cells: {row}") };
        assert!(source.contains('#') || source.contains("client-go"), "{fault} names no public source");
        let mutants = names(mutant);
        let [name] = &mutants[..] else { panic!("{fault} names {mutants:?}, not one mutant") };
        let seen = kept.mutants.get(name).unwrap_or_else(|| panic!("{fault}: no mutant is called {name:?}"));
        for killer in names(killers) {
            let kills = match invariants::ALL.iter().find(|invariant| invariant.rule == killer) {
                Some(_) => seen.invariants.contains_key(&killer),
                None => find(&killer).is_some() && seen.trials.contains(&killer),
            };
            assert!(kills, "{fault}: {name} is killed by {seen:?}, and not by {killer}");
        }
        assert!(!names(killers).is_empty(), "{fault}: nothing kills it");
        faults.insert(fault.to_owned());
    }
    assert!(faults.len() >= 15, "the table was read: {faults:?}");
}

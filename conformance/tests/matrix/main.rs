//! What the invariants alone see: every mutant in simulated fleets, and which of L-1 … L-10 its histories violate.
//!
//! `matrix.json` keeps the outcome. A row whose sources are as they were is replayed at its killing seeds; any other is
//! computed anew and compared. `LEASEHOLD_WRITE=1 cargo test -p lease-conformance --test matrix` writes the file.

mod kept;
mod known;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use kept::{Matrix, Row, sources};
use lease_conformance::mutants::{self, Mutant};
use lease_judge::history::History;
use lease_judge::{Facts, Met, invariants};

/// Each kind of fault comes up in every seventh seed.
const SEEDS: u64 = 84;

fn violated(history: &History) -> BTreeSet<&'static str> {
    invariants::judge(history).into_iter().map(|violation| violation.rule).collect()
}

/// All that the invariants see of a mutant: each one's first seed.
fn seen(mutant: &Mutant) -> BTreeMap<String, u64> {
    let mut seen = BTreeMap::new();
    for seed in 0..SEEDS {
        for rule in violated(&mutant.play(seed)) {
            seen.entry(rule.to_owned()).or_insert(seed);
        }
    }
    seen
}

fn row(mutant: &Mutant) -> Row {
    let trials = mutant.killers.iter().map(ToString::to_string).collect();
    Row { sources: sources(mutant), trials, invariants: seen(mutant) }
}

fn compute(anew: impl Fn(&Mutant) -> bool + Sync, kept: &Matrix) -> Matrix {
    let mutants: Vec<_> = mutants::all().collect();
    let rows = Mutex::new(BTreeMap::new());
    mutants::side_by_side(&mutants, |mutant| {
        let kept = kept.mutants.get(&mutant.to_string());
        let row = match kept {
            Some(kept) if !anew(mutant) => kept.clone(),
            _ => row(mutant),
        };
        rows.lock().unwrap().insert(mutant.to_string(), row);
    });
    Matrix { seeds: SEEDS, mutants: rows.into_inner().unwrap() }
}

#[test]
fn right_fleets_keep_every_invariant() {
    let seeds = std::env::var("LEASEHOLD_FLEETS").map_or(300, |count| count.parse().expect("a number"));
    let mut judged: BTreeMap<&str, usize> = BTreeMap::new();
    let mut met = Met::default();
    for seed in 0..seeds {
        let history = mutants::play_right(seed);
        met.add(&history);
        let facts = Facts::of(&history);
        for invariant in &invariants::ALL {
            match invariant.judge(&facts) {
                Ok(count) => *judged.entry(invariant.rule).or_default() += count,
                Err(violation) => panic!("seed {seed}: {violation}\n{}", history.tell()),
            }
        }
    }
    println!("{seeds} fleets; judged: {judged:?}\n{met}");
    let idle: Vec<_> = judged.iter().filter(|(_, count)| **count < 50).collect();
    assert!(idle.is_empty(), "the fleets hold too little for these to judge: {idle:?}");
}

#[test]
fn one_seed_is_one_history() {
    for seed in 0..7 {
        let (once, again) = (mutants::play_right(seed), mutants::play_right(seed));
        assert!(once.events == again.events, "seed {seed} has two histories: no row could be replayed");
    }
}

#[test]
fn the_kept_matrix_is_what_the_invariants_see() {
    let kept = kept::read();
    let write = std::env::var_os("LEASEHOLD_WRITE").is_some();
    let changed = |mutant: &Mutant| {
        let row = kept.mutants.get(&mutant.to_string());
        kept.seeds != SEEDS || row.is_none_or(|row| row.sources != sources(mutant))
    };
    let now = compute(changed, &kept);
    print!("{now}");
    if write {
        return now.write();
    }
    let anew = mutants::all().filter(|mutant| changed(mutant)).count();
    println!("{anew} rows computed anew, because their sources changed since the matrix was written");
    kept::compare(&kept, &now);
    for mutant in mutants::all().filter(|mutant| !changed(mutant)) {
        for (rule, seed) in &now.mutants[&mutant.to_string()].invariants {
            let seen = violated(&mutant.play(*seed));
            assert!(seen.contains(rule.as_str()), "{mutant}: seed {seed} violates {seen:?}, and not {rule}");
        }
    }
}

/// For `make soak`.
#[test]
#[ignore = "computes every row, whatever changed"]
fn every_row_computed_anew_is_the_kept_one() {
    let kept = kept::read();
    kept::compare(&kept, &compute(|_| true, &kept));
}

#[test]
fn each_invariant_is_the_only_one_to_see_some_mutant() {
    let kept = kept::read();
    for invariant in &invariants::ALL {
        let alone = |row: &&Row| row.invariants.keys().eq([invariant.rule]);
        assert!(
            kept.mutants.values().any(|row| alone(&row)),
            "no mutant is seen by {} alone: it can't fail, or another one says the same",
            invariant.rule
        );
    }
}

#[test]
fn every_mutant_is_seen_by_a_trial_or_by_an_invariant() {
    let kept = kept::read();
    let unseen = kept.mutants.iter().filter(|(_, row)| row.trials.is_empty() && row.invariants.is_empty());
    let unseen: Vec<_> = unseen.map(|(mutant, _)| mutant).collect();
    assert!(unseen.is_empty(), "nothing tells these from what is right: {unseen:?}");
}

//! The matrix as a file, and when a row of it is out of date.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use lease_conformance::mutants::Mutant;
use lease_judge::invariants;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What decides about every row: the judged core, the judge, and the fleets.
const COMMON: &[&str] = &[
    "lease-core/src/backend.rs",
    "lease-core/src/deadline.rs",
    "lease-core/src/elector/messages.rs",
    "lease-core/src/elector/step.rs",
    "lease-core/src/elector/step",
    "lease-core/src/fence.rs",
    "lease-core/src/memory.rs",
    "lease-core/src/record.rs",
    "lease-core/src/revocation.rs",
    "lease-core/src/writes.rs",
    "judge/src/facts.rs",
    "judge/src/history.rs",
    "judge/src/invariants",
    "judge/src/recording.rs",
    "conformance/src/fleet",
    "conformance/src/mutants/fleets.rs",
    "conformance/src/mutants/views.rs",
];

#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Matrix {
    /// The seeds from 0 that were played.
    pub(crate) seeds: u64,
    pub(crate) mutants: BTreeMap<String, Row>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The hash of the sources that it was computed from.
    pub(crate) sources: String,
    /// The trials of the suite that kill it: `tests/mutants.rs` runs them.
    pub(crate) trials: Vec<String>,
    /// The invariants that its histories violate, with the first seed of each.
    pub(crate) invariants: BTreeMap<String, u64>,
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn file() -> PathBuf {
    workspace().join("conformance/matrix.json")
}

pub(crate) fn read() -> Matrix {
    match fs::read(file()) {
        Ok(kept) => serde_json::from_slice(&kept).expect("conformance/matrix.json must be a matrix"),
        Err(_) => Matrix::default(),
    }
}

/// The sources that decide about a mutant's row: the common ones, and the file that holds it.
pub(crate) fn sources(mutant: &Mutant) -> String {
    let mut files: Vec<_> = COMMON.iter().flat_map(|path| files(&workspace().join(path))).collect();
    let quoted = format!("\"{}\"", mutant.name);
    let holds = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|source| source.contains(&quoted));
    let home: Vec<_> =
        files_of(&workspace().join("conformance/src/mutants")).into_iter().filter(holds).collect();
    assert!(!home.is_empty(), "no file of conformance/src/mutants has {quoted}");
    files.extend(home);
    let mut hash = Sha256::new();
    for path in files {
        hash.update(
            fs::read(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display())),
        );
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_dir() { files_of(path) } else { vec![path.to_owned()] }
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let paths: BTreeSet<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.into_iter().flat_map(|path| files(&path)).collect()
}

/// Fails if they say different things; only another hash is none.
pub(crate) fn compare(kept: &Matrix, now: &Matrix) {
    let mut differ = Vec::new();
    let names: BTreeSet<_> = kept.mutants.keys().chain(now.mutants.keys()).collect();
    for name in names {
        let told = |row: Option<&Row>| match row {
            Some(row) => format!("{:?}, and killed by {:?}", row.invariants, row.trials),
            None => "no such mutant".to_owned(),
        };
        let (was, is) = (told(kept.mutants.get(name)), told(now.mutants.get(name)));
        if was != is {
            differ.push(format!("{name}\n    kept:  {was}\n    found: {is}"));
        }
    }
    assert!(
        differ.is_empty() && kept.seeds == now.seeds,
        "conformance/matrix.json is out of date. Look whether each change is meant, and write it anew with \
        `LEASEHOLD_WRITE=1 cargo test -p lease-conformance --test matrix`:\n{}",
        differ.join("\n")
    );
}

impl Matrix {
    pub(crate) fn write(&self) {
        let text = serde_json::to_string_pretty(self).expect("plain data") + "\n";
        fs::write(file(), text).expect("conformance/matrix.json must be writable");
    }
}

/// A column for each invariant with the first seed that violates it; `*` behind it if no other invariant does.
impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} mutants in {} fleets each; seeds that violate:", self.mutants.len(), self.seeds)?;
        write!(f, "{:<62}", "")?;
        invariants::ALL.iter().try_for_each(|invariant| write!(f, "{:>6}", invariant.rule))?;
        writeln!(f, "  trials")?;
        for (name, row) in &self.mutants {
            write!(f, "{name:<62}")?;
            for invariant in &invariants::ALL {
                let seed = row.invariants.get(invariant.rule).map(u64::to_string).unwrap_or_default();
                let alone = if !seed.is_empty() && row.invariants.len() == 1 { "*" } else { "" };
                write!(f, "{:>6}", seed + alone)?;
            }
            writeln!(f, "{:>8}", row.trials.len())?;
        }
        Ok(())
    }
}

//! The kept inputs of every target, and seeded variations of them.

use std::path::{Path, PathBuf};
use std::{env, fs};

use lease_fuzz::TARGETS;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// More by `LEASEHOLD_TEST_VARIATIONS=100000`.
fn variations() -> usize {
    env::var("LEASEHOLD_TEST_VARIATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(300)
}

fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).expect("an input"))).collect()
}

/// Texts that have broken programs of this kind.
const HOSTILE: &[&str] = &[
    "null",
    "-1",
    "0",
    "1e300",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "4611686018427387904",
    "4611686018427387905",
    "\"\"",
    "[]",
    "{}",
    "true",
    "\"\\u0000\"",
    "\"infinity\"",
];

/// One of the input's values replaced, or some bytes changed, removed, doubled.
fn varied(input: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut output = input.to_vec();
    for _ in 0..random.random_range(1..4) {
        if output.is_empty() {
            break;
        }
        let at = random.random_range(0..output.len());
        let end = (at + random.random_range(1..9)).min(output.len());
        match random.random_range(0..6) {
            0 => output[at] = random.next_u32() as u8,
            1 => drop(output.drain(at..end)),
            2 => {
                let piece = output[at..end].to_vec();
                output.splice(at..at, piece);
            }
            _ => {
                // From a colon or an equals sign to the end of the value.
                let from =
                    output[at..].iter().position(|byte| b":=".contains(byte)).map(|found| at + found + 1);
                let Some(from) = from else { continue };
                let length = output[from..].iter().position(|byte| b",}\n]".contains(byte));
                let to = length.map_or(output.len(), |length| from + length);
                let hostile = HOSTILE[random.random_range(0..HOSTILE.len())];
                output.splice(from..to, hostile.bytes());
            }
        }
    }
    output
}

#[test]
fn every_kept_input_and_its_variations_hold() {
    for (name, target) in TARGETS {
        let inputs = inputs(name);
        assert!(!inputs.is_empty(), "{name} has no inputs: fuzz/seeds/{name}/");
        for (path, input) in &inputs {
            println!("{name}: {}", path.display());
            target(input);
        }
        let seed = env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7);
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..variations() {
            let (path, input) = &inputs[random.random_range(0..inputs.len())];
            let varied = varied(input, &mut random);
            println!("{name}: SEED={seed}, from {}: {:?}", path.display(), String::from_utf8_lossy(&varied));
            target(&varied);
        }
    }
}

#[test]
fn every_folder_of_inputs_is_a_targets() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for entry in fs::read_dir(seeds).expect("the folder of inputs") {
        let name = entry.expect("an entry").file_name().into_string().expect("text");
        assert!(TARGETS.iter().any(|(target, _)| *target == name), "fuzz/seeds/{name} is no target's");
    }
}

//! Simulated fleets: the tests of `lease-core`, for longer.

use std::path::Path;

use anyhow::ensure;

use super::entry::{RunCounts, Simulated};
use super::{FileArgs, Ran, output};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(super) file: FileArgs,
    /// The fleets of each kind
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(400..))]
    fleets: u64,
    /// The renewals of fleets whose round trips take up to a quarter of the ttl, of which none may lose its term
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    renewals: u64,
}

/// A simulation is no slower.
pub(super) const TIMES_REAL_TIME: u64 = 1000;

const TEST: &str = "cargo test --locked -p lease-core --test simulation -- --nocapture --test-threads 1";

/// The tests whose fleets are counted, with the variable that says how many.
const FLEETS: (&str, &str) = ("one_leader_at_a_time", "PROPTEST_CASES");
const RENEWALS: (&str, &str) = ("no_term_is_lost", "SIMULATED_RENEWALS");

pub(super) async fn run(args: &Args) -> anyhow::Result<Vec<Ran>> {
    let mut ran = Vec::new();
    for ((test, variable), count) in [(FLEETS, args.fleets), (RENEWALS, args.renewals)] {
        let words = TEST.split(' ').chain([test]);
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let said = output(Path::new(&cargo), words.skip(1), &[(variable, count.to_string())]).await?;
        // The name of the test may stand before it, on the same line.
        let told = said.lines().filter_map(|line| line.split_once("simulated {"));
        let told = told.map(|(_, counts)| serde_json::from_str::<Simulated>(&format!("{{{counts}")));
        let told = told.collect::<Result<Vec<_>, _>>()?;
        ensure!(!told.is_empty(), "no simulation told its counts:\n{said}");
        let passed = said.contains("test result: ok.");
        for simulated in told {
            let holds = passed && simulated.times_real_time >= TIMES_REAL_TIME;
            ran.push((format!("{variable}={count} {TEST} {test}"), holds, RunCounts::Simulated(simulated)));
        }
    }
    Ok(ran)
}

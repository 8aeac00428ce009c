//! The page that people read.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::entry::{CampaignEntry, RunCounts};
use super::simulation::TIMES_REAL_TIME;

const HEAD: &str = "\
# Campaigns

What runs with real faults, and simulations, have shown so far, each with its command; simulations draw their schedules
anew each time. Real processes race for leases in real stores while they are killed, stopped and cut off and their store
is broken; simulated fleets run the same step function in simulated time. [Decision 0094](decisions/0094-torture-and-campaigns.md) says what is counted.

`make soak` appends to `docs/campaigns.jsonl`, a line a run. This page is made from it by
`leasehold-lab campaign page > docs/campaigns.md`; a test compares them.

";

const GOALS: [(&str, u64); 4] = [
    ("acquisitions in real stores", 100_000),
    ("faults of real processes and stores", 20_000),
    ("simulated acquisitions", 10_000_000),
    ("simulated renewals without a fault, round trips up to ttl/4, no term lost", 1_000_000),
];

#[derive(Default)]
struct StoreTotals {
    runs: u64,
    acquisitions: u64,
    faults: u64,
    took_secs: u64,
}

/// What has been reached of each goal. A run with a verdict that doesn't hold counts for nothing.
fn reached(entries: &[CampaignEntry]) -> [u64; 4] {
    let mut sums = [0; 4];
    for entry in entries.iter().filter(|entry| entry.holds) {
        match &entry.shown {
            RunCounts::Real { acquisitions, faults, .. } => {
                sums[0] += acquisitions;
                sums[1] += faults;
            }
            RunCounts::Simulated(simulated) => {
                sums[2] += simulated.acquisitions;
                sums[3] += if simulated.faults == 0 { simulated.renewals } else { 0 };
            }
        }
    }
    sums
}

/// The totals beside their goals.
pub(super) fn totals(entries: &[CampaignEntry]) -> String {
    let mut text = String::from("| | so far | goal |\n| --- | ---: | ---: |\n");
    for ((what, goal), so_far) in GOALS.iter().zip(reached(entries)) {
        let _ = writeln!(text, "| {what} | {so_far} | {goal} |");
    }
    let slowest = entries.iter().filter(|entry| entry.holds).filter_map(|entry| match &entry.shown {
        RunCounts::Simulated(simulated) => Some(simulated.times_real_time),
        RunCounts::Real { .. } => None,
    });
    if let Some(slowest) = slowest.min() {
        let _ = writeln!(text, "| slowest simulation, times real time | {slowest} | {TIMES_REAL_TIME} |");
    }
    let failed = entries.iter().filter(|entry| !entry.holds).count();
    let _ = writeln!(text, "| runs with a verdict that did not hold | {failed} | 0 |");
    text
}

pub(super) fn of(entries: &[CampaignEntry]) -> String {
    let mut text = format!("{HEAD}## Totals\n\n{}\n## By store\n\n", totals(entries));
    text.push_str(
        "| store | runs | acquisitions | faults | minutes |\n| --- | ---: | ---: | ---: | ---: |\n",
    );
    let mut stores: BTreeMap<&str, StoreTotals> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.holds) {
        if let RunCounts::Real { store, acquisitions, faults, took_secs } = &entry.shown {
            let totals = stores.entry(store).or_default();
            totals.runs += 1;
            totals.acquisitions += acquisitions;
            totals.faults += faults;
            totals.took_secs += took_secs;
        }
    }
    for (store, StoreTotals { runs, acquisitions, faults, took_secs }) in stores {
        let minutes = took_secs.div_ceil(60);
        let _ = writeln!(text, "| {store} | {runs} | {acquisitions} | {faults} | {minutes} |");
    }
    text.push_str("\n## Runs\n\n| day | commit | command | shown |\n| --- | --- | --- | --- |\n");
    for CampaignEntry { at, commit, command, holds, shown } in entries {
        let verdict = if *holds { "" } else { "**did not hold**: " };
        let shown = match shown {
            RunCounts::Real { acquisitions, faults, .. } => {
                format!("{acquisitions} acquisitions, {faults} faults")
            }
            RunCounts::Simulated(simulated) => format!(
                "{} acquisitions, {} renewals, {} faults; {} times real time",
                simulated.acquisitions, simulated.renewals, simulated.faults, simulated.times_real_time
            ),
        };
        let _ = writeln!(text, "| {at} | {commit} | `{command}` | {verdict}{shown} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_did_not_hold_is_told_and_counts_for_nothing() {
        let entry = |holds, acquisitions| CampaignEntry {
            at: "2026-12-01".into(),
            commit: "abc".into(),
            command: "leasehold-lab chaos".into(),
            holds,
            shown: RunCounts::Real { store: "etcd".into(), acquisitions, faults: 2, took_secs: 61 },
        };
        let entries = [entry(true, 10), entry(false, 100)];
        assert_eq!(reached(&entries), [10, 2, 0, 0]);
        let page = of(&entries);
        assert!(page.contains("| runs with a verdict that did not hold | 1 | 0 |"), "{page}");
        assert!(page.contains("**did not hold**: 100 acquisitions"), "{page}");
    }
}

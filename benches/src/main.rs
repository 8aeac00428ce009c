//! Paired micro-benchmarks: ours and a reference take turns in one run, and the ratio of their medians is judged.
//!
//! Machines are noisy: a single figure says little, a ratio of neighbours much. `make bench` builds this in release
//! and runs it; exit code 1 if a bar is missed. `leasehold-bench fence` (or `leases`) runs a part.

mod check;
mod fence;
mod paired;
mod processors;
mod renewal;
mod round_trips;

use std::process::ExitCode;

use paired::BarResult;

const HELP: &str = "\
Measures Leasehold beside references, in turns, and judges the ratios of the medians.

Usage: leasehold-bench [leases|fence]

  leases  what a renewal and is_leader_now cost, round trips (half a minute)
  fence   what the ledger's fence costs, the ledger against pgbench (three minutes)

Exit code: 0 if every bar holds, 1 if one is missed or nothing could be measured.";

fn main() -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let part = std::env::args().nth(1);
    if matches!(part.as_deref(), Some("--help" | "-h")) {
        println!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }
    let wants = |name: &str| part.as_deref().is_none_or(|part| part == name);
    anyhow::ensure!(
        wants("leases") || wants("fence"),
        "unknown part {:?}: use leases or fence, or none for all",
        part.unwrap_or_default()
    );
    let verdicts: Vec<BarResult> = runtime.block_on(async {
        let mut verdicts = Vec::new();
        if wants("leases") {
            verdicts.push(check::is_leader_now().await?);
            verdicts.push(renewal::renewal().await?);
            verdicts.extend(round_trips::round_trips().await?);
        }
        if wants("fence") {
            verdicts.extend(fence::fence().await?);
        }
        anyhow::Ok(verdicts)
    })?;
    println!("\n{}", verdicts.iter().map(BarResult::to_string).collect::<Vec<_>>().join("\n"));
    Ok(if verdicts.iter().all(|verdict| verdict.holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

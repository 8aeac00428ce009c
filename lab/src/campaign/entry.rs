//! One run, as one line of the campaign's file.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct CampaignEntry {
    /// The day.
    pub(super) at: String,
    /// The commit that ran, and whether there were changes beside it.
    pub(super) commit: String,
    /// Repeats it, with its seed.
    pub(super) command: String,
    /// All of its verdicts held.
    pub(super) holds: bool,
    #[serde(flatten)]
    pub(super) shown: RunCounts,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RunCounts {
    /// Real processes on a real store.
    Real { store: String, acquisitions: u64, faults: u64, took_secs: u64 },
    /// Step functions in simulated time.
    Simulated(Simulated),
}

/// What a simulation prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Simulated {
    pub(super) fleets: u64,
    pub(super) acquisitions: u64,
    pub(super) renewals: u64,
    pub(super) faults: u64,
    pub(super) simulated_secs: u64,
    pub(super) took_secs: f64,
    pub(super) times_real_time: u64,
}

impl CampaignEntry {
    pub(super) fn of_now(command: String, holds: bool, shown: RunCounts) -> anyhow::Result<Self> {
        // Earlier entries of the same campaign are no change of what runs.
        let changed = git(&["status", "--porcelain", "-uno", "--", ".", ":!docs/campaigns.*"])?;
        let changes = if changed.is_empty() { "" } else { ", changed" };
        let commit = format!("{}{changes}", git(&["rev-parse", "--short", "HEAD"])?);
        let at = Timestamp::now().strftime("%Y-%m-%d").to_string();
        Ok(Self { at, commit, command, holds, shown })
    }
}

fn git(words: &[&str]) -> anyhow::Result<String> {
    let told = Command::new("git").args(words).output();
    let told = told.context("git tells which commit runs, and can't be started")?;
    ensure!(told.status.success(), "git can't tell which commit runs: run this at the top of a checkout");
    Ok(String::from_utf8(told.stdout)?.trim().to_owned())
}

pub(super) fn append(file: &Path, entry: &CampaignEntry) -> anyhow::Result<()> {
    let failed = || format!("cannot append to {}", file.display());
    let mut opened = File::options().create(true).append(true).open(file).with_context(failed)?;
    let line = format!("{}\n", serde_json::to_string(entry)?);
    opened.write_all(line.as_bytes()).with_context(failed)
}

pub(super) fn read(file: &Path) -> anyhow::Result<Vec<CampaignEntry>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let entry = |(number, line): (usize, &str)| {
        serde_json::from_str(line).with_context(|| format!("{}, line {}", file.display(), number + 1))
    };
    text.lines().enumerate().map(entry).collect()
}

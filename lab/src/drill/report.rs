//! The report of a drill: its steps as they happen, a verdict for each check, and a timeline of holders and epochs.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use lease_core::{HistoryEvent, HistoryRow};
use serde::Serialize;
use serde_json::json;

use crate::epoch::epoch_in_words;

/// The width of the timeline, in characters.
const WIDTH: usize = 60;

pub(crate) struct DrillReport {
    name: &'static str,
    json: bool,
    began: Instant,
    told: Mutex<Told>,
}

#[derive(Default, Serialize)]
struct Told {
    steps: Vec<Step>,
    verdicts: Vec<Verdict>,
}

#[derive(Serialize)]
struct Step {
    at_ms: u64,
    text: String,
}

#[derive(Serialize)]
struct Verdict {
    check: String,
    holds: bool,
    seen: String,
}

impl DrillReport {
    pub(crate) fn new(name: &'static str, json: bool) -> Self {
        Self { name, json, began: Instant::now(), told: Mutex::default() }
    }

    fn print(&self, line: &str) {
        if !self.json {
            println!("{line}");
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Something is done, or has happened.
    pub(crate) fn step(&self, text: impl Into<String>) {
        let (at_ms, text) = (self.began.elapsed().as_millis() as u64, text.into());
        self.print(&format!("{:7.3} s  {text}", at_ms as f64 / 1000.0));
        self.told().steps.push(Step { at_ms, text });
    }

    /// Is what is claimed so? `seen` is why one thinks so.
    pub(crate) fn check(&self, check: impl Into<String>, holds: bool, seen: impl Into<String>) {
        // Of a failure's chain, what happened; not where in this program.
        let (check, seen) = (check.into(), seen.into());
        let seen = seen.lines().next().unwrap_or_default().to_owned();
        let mark = if holds { "ok  " } else { "FAIL" };
        self.print(&format!("           {mark}  {check}: {seen}"));
        self.told().verdicts.push(Verdict { check, holds, seen });
    }

    /// The timeline and the verdict over all. Returns whether every check holds.
    pub(crate) fn end(&self, history: &[HistoryRow]) -> anyhow::Result<bool> {
        let told = self.told();
        self.print("");
        timeline(history).iter().for_each(|line| self.print(line));
        let failed = told.verdicts.iter().filter(|verdict| !verdict.holds).count();
        let (count, holds) = (told.verdicts.len(), failed == 0);
        let verdict = if holds {
            format!("all {count} checks hold")
        } else {
            format!("{failed} of {count} checks FAIL")
        };
        self.print(&format!("\n{}: {verdict}", self.name));
        if self.json {
            let report = json!({"name": self.name, "holds": holds, "told": *told, "history": history});
            println!("{}", serde_json::to_string_pretty(&report)?);
        }
        Ok(holds)
    }
}

/// One row for each holder: `━` while it held, from the epoch that is written there.
fn timeline(history: &[HistoryRow]) -> Vec<String> {
    let is_grant =
        |row: &&HistoryRow| matches!(row.event_type, HistoryEvent::Acquired | HistoryEvent::TakenOver);
    let grants: Vec<_> = history.iter().filter(is_grant).collect();
    let (Some(first), Some(last)) = (grants.first(), history.last()) else { return Vec::new() };
    let span = (last.event_at.0 - first.event_at.0).max(1);
    let column = |at: i64| ((at - first.event_at.0) * (WIDTH as i64 - 1) / span) as usize;
    let mut holders: Vec<&str> = Vec::new();
    for grant in &grants {
        if !holders.contains(&grant.holder_workload_id.as_str()) {
            holders.push(&grant.holder_workload_id);
        }
    }
    let row = |holder: &&str| {
        let mut row = vec!['·'; WIDTH + 8];
        for (index, grant) in
            grants.iter().enumerate().filter(|(_, grant)| grant.holder_workload_id == **holder)
        {
            let from = column(grant.event_at.0);
            let released = history
                .iter()
                .find(|row| row.epoch == grant.epoch && row.event_type == HistoryEvent::Released);
            let until =
                released.or(grants.get(index + 1).copied()).map_or(WIDTH, |end| column(end.event_at.0));
            let label = epoch_in_words(grant.epoch);
            row[from..until.max(from + 1)].fill('━');
            label.chars().enumerate().for_each(|(at, digit)| row[from + at.min(7)] = digit);
        }
        format!("  {holder:<20} {}", row.iter().collect::<String>().trim_end_matches('·'))
    };
    let seconds = span as f64 / 1000.0;
    let mut lines: Vec<_> = holders.iter().map(row).collect();
    lines.push(format!("  {:<20} {:<width$}{seconds:.1} s", "", "0", width = WIDTH - 5));
    lines.push("  ━ held the lease, from the epoch written there".to_owned());
    lines
}

//! What a chaos run has shown, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use lease_core::LeaseName;
use lease_stores::StoreFault;
use serde::Serialize;

use super::Args;
use super::cell::{Chronicle, Mark};
use crate::judge::{RULES, Violation};
use crate::stats::Spread;
use crate::trace::Nanos;

/// How many violations, problems and lines of the timeline are shown.
const SHOWN: usize = 12;

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) holds: bool,
    repeat: String,
    seed: u64,
    mode: &'static str,
    sabotaged: bool,
    took_secs: f64,
    takeovers: usize,
    takeovers_wanted: u64,
    faults: BTreeMap<&'static str, usize>,
    outages: BTreeMap<&'static str, Spread>,
    failovers: BTreeMap<&'static str, Spread>,
    effects_written: usize,
    effects_refused: usize,
    effects_failed: usize,
    register_writes_refused: usize,
    verdicts: Vec<Verdict>,
    violations: Vec<Violation>,
    problems: Vec<String>,
    timeline: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Verdict {
    holds: bool,
    claim: String,
    found: String,
}

impl Report {
    pub(super) fn new(
        args: &Args,
        seed: u64,
        took: Duration,
        store_faults: Vec<(StoreFault, Nanos, Nanos)>,
        chronicles: BTreeMap<LeaseName, Chronicle>,
        violations: Vec<Violation>,
    ) -> Self {
        let timeline = excerpt(&chronicles);
        let mut faults = BTreeMap::new();
        let mut outages = BTreeMap::<&'static str, Vec<Duration>>::new();
        for (fault, from, to) in store_faults {
            *faults.entry(fault.name()).or_default() += 1;
            outages.entry(fault.name()).or_default().push(Duration::from_nanos(to - from));
        }
        let mut failovers = BTreeMap::<&'static str, Vec<Duration>>::new();
        let (mut effects, mut refused_writes, mut takeovers) = ([0; 3], 0, 0);
        let mut problems = Vec::new();
        for chronicle in chronicles.into_values() {
            chronicle.faults.iter().for_each(|(fault, count)| *faults.entry(fault).or_default() += count);
            for (fault, times) in chronicle.failovers {
                failovers.entry(fault).or_default().extend(times);
            }
            (0..3).for_each(|kind| effects[kind] += chronicle.effects[kind]);
            refused_writes += chronicle.refused_writes;
            takeovers += chronicle.evidence.claims.len();
            problems.extend(chronicle.problems);
        }
        let verdicts = verdicts(args, takeovers, effects[1], &violations, &problems);
        Self {
            holds: verdicts.iter().all(|verdict| verdict.holds),
            repeat: repeat(args, seed),
            seed,
            mode: args.mode.as_str(),
            sabotaged: args.sabotage_admission,
            took_secs: took.as_secs_f64(),
            takeovers,
            takeovers_wanted: args.takeovers,
            faults,
            outages: spreads(outages),
            failovers: spreads(failovers),
            effects_written: effects[0],
            effects_refused: effects[1],
            effects_failed: effects[2],
            register_writes_refused: refused_writes,
            verdicts,
            violations,
            problems,
            timeline,
        }
    }
}

fn spreads(times: BTreeMap<&'static str, Vec<Duration>>) -> BTreeMap<&'static str, Spread> {
    times.into_iter().map(|(fault, times)| (fault, Spread::of(times))).collect()
}

fn verdicts(
    args: &Args,
    takeovers: usize,
    refused: usize,
    violations: &[Violation],
    problems: &[String],
) -> Vec<Verdict> {
    let mut verdicts = vec![Verdict {
        holds: takeovers as u64 >= args.takeovers,
        claim: format!("at least {} takeovers", args.takeovers),
        found: takeovers.to_string(),
    }];
    for (rule, claim) in RULES {
        let count = violations.iter().filter(|violation| violation.rule == rule).count();
        let sabotaged = args.sabotage_admission && rule == "L-7";
        let claim = match sabotaged {
            false => format!("{rule}: {claim}"),
            true => format!("{rule} is violated, for the sabotaged fence admits everybody"),
        };
        verdicts.push(Verdict {
            holds: (count > 0) == sabotaged,
            claim,
            found: format!("{count} violations"),
        });
    }
    if !args.sabotage_admission {
        verdicts.push(Verdict {
            holds: refused > 0,
            claim: "the fence had late writes to refuse, so L-7 is shown".into(),
            found: format!("{refused} refused"),
        });
    }
    verdicts.push(Verdict {
        holds: problems.is_empty(),
        claim: "every process that was asked to end did so with exit code 0, and no other ended".into(),
        found: format!("{} did not", problems.len()),
    });
    verdicts
}

fn repeat(args: &Args, seed: u64) -> String {
    let sabotage = if args.sabotage_admission { " --sabotage-admission" } else { "" };
    format!(
        "leasehold-lab chaos --mode {} --takeovers {} --seed {seed} --ttl {}ms --leases {} --actors {}{sabotage}",
        args.mode.as_str(),
        args.takeovers,
        args.ttl.as_millis(),
        args.leases,
        args.actors,
    )
}

/// What happened around the first late write that the fence refused, or else from the start.
fn excerpt(chronicles: &BTreeMap<LeaseName, Chronicle>) -> Vec<String> {
    let telling = |chronicle: &&Chronicle| chronicle.effects[1] > 0;
    let Some(chronicle) = chronicles.values().find(telling).or(chronicles.values().next()) else {
        return Vec::new();
    };
    let mut marks: Vec<&Mark> = chronicle.timeline.iter().collect();
    marks.sort_by_key(|mark| mark.at);
    let centre = marks.iter().position(|mark| mark.text.contains("the fence refuses")).unwrap_or(0);
    let from = centre.saturating_sub(SHOWN * 2 / 3);
    let Some(start) = marks.get(from).map(|mark| mark.at) else { return Vec::new() };
    let line = |mark: &&Mark| format!("{:>8.3} s  {}", (mark.at - start) as f64 / 1e9, mark.text);
    marks[from..].iter().take(SHOWN).map(line).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sabotaged = if self.sabotaged { ", its admission sabotaged" } else { "" };
        writeln!(
            f,
            "Chaos on {}{sabotaged}: {} takeovers in {:.0} s",
            self.mode, self.takeovers, self.took_secs
        )?;
        writeln!(f, "\nFaults")?;
        for (fault, count) in &self.faults {
            writeln!(f, "{count:>6}  {fault}")?;
        }
        for (fault, spread) in &self.outages {
            writeln!(f, "        {spread}  {fault}, how long")?;
        }
        writeln!(f, "\nFrom the fault to the successor's term")?;
        for (fault, spread) in &self.failovers {
            writeln!(f, "        {spread}  {fault}")?;
        }
        writeln!(
            f,
            "\nEffects: {} written, {} refused by the fence, {} failed; {} writes of holders and candidates \
            refused by the register",
            self.effects_written, self.effects_refused, self.effects_failed, self.register_writes_refused
        )?;
        writeln!(f, "\nExcerpt of one lease's timeline")?;
        self.timeline.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        writeln!(f)?;
        for verdict in &self.verdicts {
            let word = if verdict.holds { "ok  " } else { "FAIL" };
            writeln!(f, "{word}  {}: {}", verdict.claim, verdict.found)?;
        }
        for violation in self.violations.iter().take(SHOWN) {
            writeln!(f, "\n  {violation}")?;
        }
        if self.violations.len() > SHOWN {
            writeln!(f, "\n  and {} more", self.violations.len() - SHOWN)?;
        }
        self.problems.iter().take(SHOWN).try_for_each(|problem| writeln!(f, "\n  {problem}"))?;
        writeln!(f, "\nRepeat with: {}", self.repeat)
    }
}

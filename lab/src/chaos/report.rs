//! The report of a chaos run, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use lease_core::{Instant, LeaseName};
use lease_judge::history::{HistoryEntry, Outcome, What};
use lease_stores::StoreFault;
use serde::Serialize;

use super::Args;
use super::cell::Chronicle;
use crate::campaign::CampaignCounts;
use crate::judged::{Judged, RuleVerdict};
use crate::stats::Spread;

/// Problems and lines of the timeline are shown up to this number.
const SHOWN: usize = 12;

#[derive(Debug, Serialize)]
pub(super) struct ChaosReport {
    pub(super) holds: bool,
    repeat: String,
    seed: u64,
    mode: &'static str,
    sabotaged: bool,
    took_secs: f64,
    campaign: CampaignCounts,
    takeovers: usize,
    takeovers_wanted: u64,
    faults: BTreeMap<&'static str, usize>,
    outages: BTreeMap<&'static str, Spread>,
    failovers: BTreeMap<&'static str, Spread>,
    effects_written: usize,
    effects_refused: usize,
    effects_failed: usize,
    register_writes_refused: usize,
    /// The run's own claims; the invariants' verdicts follow.
    claims: Vec<RuleVerdict>,
    #[serde(flatten)]
    judged: Judged,
    problems: Vec<String>,
    timeline: Vec<String>,
}

impl ChaosReport {
    pub(super) fn new(
        args: &Args,
        seed: u64,
        took: Duration,
        store_faults: Vec<(StoreFault, Instant, Instant)>,
        chronicles: BTreeMap<LeaseName, Chronicle>,
    ) -> Self {
        let timeline = excerpt(&chronicles);
        let mut faults = BTreeMap::new();
        let mut outages = BTreeMap::<&'static str, Vec<Duration>>::new();
        for (fault, from, to) in store_faults {
            *faults.entry(fault.name()).or_default() += 1;
            outages.entry(fault.name()).or_default().push(to.since(from));
        }
        let mut failovers = BTreeMap::<&'static str, Vec<Duration>>::new();
        let (mut effects, mut refused_writes, mut takeovers) = ([0; 3], 0, 0);
        let (mut problems, mut histories) = (Vec::new(), BTreeMap::new());
        for (lease, chronicle) in chronicles {
            chronicle.faults.iter().for_each(|(fault, count)| *faults.entry(fault).or_default() += count);
            for (fault, times) in chronicle.failovers {
                failovers.entry(fault).or_default().extend(times);
            }
            (0..3).for_each(|kind| effects[kind] += chronicle.effects[kind]);
            refused_writes += chronicle.refused_writes;
            takeovers += chronicle.takeovers;
            problems.extend(chronicle.problems);
            histories.insert(lease, chronicle.history);
        }
        let judged = Judged::of(&histories, args.sabotage_admission.then_some("L-7"));
        let claims = claims(args, takeovers, effects[1], &problems);
        Self {
            holds: judged.holds() && claims.iter().all(|claim| claim.holds == Some(true)),
            repeat: repeat(args, seed),
            seed,
            mode: args.mode.as_str(),
            sabotaged: args.sabotage_admission,
            took_secs: took.as_secs_f64(),
            campaign: CampaignCounts { acquisitions: takeovers, faults: faults.values().sum() },
            takeovers,
            takeovers_wanted: args.takeovers,
            faults,
            outages: spreads(outages),
            failovers: spreads(failovers),
            effects_written: effects[0],
            effects_refused: effects[1],
            effects_failed: effects[2],
            register_writes_refused: refused_writes,
            claims,
            judged,
            problems,
            timeline,
        }
    }
}

fn spreads(times: BTreeMap<&'static str, Vec<Duration>>) -> BTreeMap<&'static str, Spread> {
    times.into_iter().map(|(fault, times)| (fault, Spread::of(times))).collect()
}

fn claims(args: &Args, takeovers: usize, refused: usize, problems: &[String]) -> Vec<RuleVerdict> {
    let mut claims = vec![RuleVerdict {
        holds: Some(takeovers as u64 >= args.takeovers),
        claim: format!("at least {} takeovers", args.takeovers),
        found: takeovers.to_string(),
    }];
    if !args.sabotage_admission {
        claims.push(RuleVerdict {
            holds: Some(refused > 0),
            claim: "the fence had late writes to refuse, so L-7 is shown".into(),
            found: format!("{refused} refused"),
        });
    }
    claims.push(RuleVerdict {
        holds: Some(problems.is_empty()),
        claim: "every process that was asked to end did so with exit code 0, and no other ended".into(),
        found: format!("{} did not", problems.len()),
    });
    claims
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

/// The timeline around the first late write that the fence refused, or else from the start.
fn excerpt(chronicles: &BTreeMap<LeaseName, Chronicle>) -> Vec<String> {
    let telling = |chronicle: &&Chronicle| chronicle.effects[1] > 0;
    let Some(chronicle) = chronicles.values().find(telling).or(chronicles.values().next()) else {
        return Vec::new();
    };
    let marks = chronicle.history.events.iter().filter_map(|event| Some((event, told(event)?)));
    let marks: Vec<_> = marks.collect();
    let centre = marks.iter().position(|(event, _)| is_refusal(event)).unwrap_or(0);
    let from = centre.saturating_sub(SHOWN * 2 / 3);
    let Some((first, _)) = marks.get(from) else { return Vec::new() };
    let line = |(event, text): &(&HistoryEntry, String)| {
        format!("{:>8.3} s  {} {text}", event.at.since(first.at).as_secs_f64(), event.actor)
    };
    marks[from..].iter().take(SHOWN).map(line).collect()
}

fn is_refusal(event: &HistoryEntry) -> bool {
    matches!(event.what, What::Effect { outcome: Outcome::Refused, .. })
}

fn told(event: &HistoryEntry) -> Option<String> {
    Some(match &event.what {
        What::Begun { term, .. } => format!("leads, epoch {}", term.epoch),
        What::Paused => "is stopped".to_owned(),
        What::Ended { term, loss } => format!("ends epoch {}: {loss}", term.epoch),
        What::Effect { term, outcome: Outcome::Refused, .. } => {
            format!("is refused by the fence: a late write of epoch {}", term.epoch)
        }
        What::Fault { name } => format!("<- {name}"),
        _ => return None,
    })
}

impl fmt::Display for ChaosReport {
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
        self.claims.iter().try_for_each(|claim| writeln!(f, "{claim}"))?;
        write!(f, "{}", self.judged)?;
        self.problems.iter().take(SHOWN).try_for_each(|problem| writeln!(f, "\n  {problem}"))?;
        writeln!(f, "\nRepeat with: {}", self.repeat)
    }
}

//! The report of a lock-set run, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::Args;
use super::lock::{Guarding, Holding};
use super::tally::Tally;
use crate::campaign::CampaignCounts;
use crate::judged::{Judged, RuleVerdict};

/// etcd's lock without a fence must lose more than this share of what it acknowledged.
const LOST: f64 = 0.05;

/// So many of the terms that were overtaken in a pause must leave a stale effect without a fence.
const STALE: f64 = 0.10;

/// The length of a bar that stands for everything.
const BAR: usize = 30;

#[derive(Debug, Serialize)]
pub(super) struct LockSetReport {
    pub(super) holds: bool,
    repeat: String,
    mode: &'static str,
    seed: u64,
    ttl_secs: u64,
    took_secs: f64,
    campaign: CampaignCounts,
    guarded: Vec<Guarded>,
    claims: Vec<RuleVerdict>,
    /// The fenced lease by every invariant, and the unfenced one by all but L-7.
    judged: [Judged; 2],
}

#[derive(Debug, Serialize)]
struct Guarded {
    by: &'static str,
    fence: &'static str,
    #[serde(flatten)]
    tally: Tally,
}

impl LockSetReport {
    pub(super) fn new(
        args: &Args,
        seed: u64,
        took: Duration,
        tallies: BTreeMap<Guarding, Tally>,
        judged: [Judged; 2],
    ) -> Self {
        let claims = claims(args, &tallies);
        let ours = tallies.iter().filter(|(guarding, _)| guarding.holding == Holding::Lease);
        let (terms, faults) =
            ours.fold((0, 0), |(terms, faults), (_, tally)| (terms + tally.terms, faults + tally.pauses));
        let guarded = |(guarding, tally): (Guarding, Tally)| {
            let (by, fence) = guarding.words();
            Guarded { by, fence, tally }
        };
        Self {
            holds: claims.iter().all(|claim| claim.holds == Some(true)) && judged.iter().all(Judged::holds),
            repeat: format!(
                "leasehold-lab torture lock-set --mode {} --updates {} --seed {seed} --ttl {}s --sets {} --workers {} \
                 --time-limit {}s",
                args.mode.as_str(),
                args.updates,
                args.ttl.as_secs(),
                args.sets,
                args.workers,
                args.time_limit.as_secs(),
            ),
            mode: args.mode.as_str(),
            seed,
            ttl_secs: args.ttl.as_secs(),
            took_secs: took.as_secs_f64(),
            campaign: CampaignCounts { acquisitions: terms, faults },
            guarded: tallies.into_iter().map(guarded).collect(),
            claims,
            judged,
        }
    }
}

fn claims(args: &Args, tallies: &BTreeMap<Guarding, Tally>) -> Vec<RuleVerdict> {
    let of = |guarding| tallies.get(&guarding).copied();
    let mut claims = Vec::new();
    let mut claim = |holds, claim: String, found: String| {
        claims.push(RuleVerdict { holds: Some(holds), claim, found });
    };
    let lost = |tally: &Tally| {
        format!("{} of {} ({:.1} %)", tally.lost, tally.acknowledged, tally.lost_share() * 100.0)
    };
    if let Some(tally) = of(Guarding::ETCD_UNFENCED) {
        let words = format!("etcd's lock without a fence loses more than {} % of the updates", LOST * 100.0);
        claim(tally.lost_share() > LOST, words, lost(&tally));
    }
    if let Some(tally) = of(Guarding::LEASE_UNFENCED) {
        let words = format!(
            "our lease without a fence: at least {} % of the terms that a pause ended leave a stale effect, else the \
             run proves nothing",
            STALE * 100.0
        );
        let found = format!("{} of {}", tally.overtaken_and_stale, tally.overtaken);
        claim(tally.overtaken > 0 && tally.stale_share() >= STALE, words, found);
    }
    for (guarding, enough) in [(Guarding::ETCD_FENCED, 1), (Guarding::LEASE_FENCED, args.updates)] {
        let Some(tally) = of(guarding) else { continue };
        let (by, fence) = guarding.words();
        let words =
            format!("{by}, fenced by {fence}: no update of at least {enough} is lost, no effect is stale");
        let holds = tally.acknowledged as u64 >= enough && tally.lost + tally.stale_effects == 0;
        claim(holds, words, format!("{}, {} stale", lost(&tally), tally.stale_effects));
    }
    claims
}

impl fmt::Display for LockSetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mode, ttl_secs, took_secs, seed, .. } = self;
        writeln!(
            f,
            "Sets updated under a lock on {mode}: ttl {ttl_secs} s, holders stopped for {} s; {took_secs:.0} s, seed {seed}\n",
            ttl_secs * 2
        )?;
        writeln!(
            f,
            "{:<12} {:<12} {:>6} {:>6} {:>7} {:>6} {:>6} {:>6} {:>9} {:>11}",
            "held by",
            "fence",
            "tried",
            "acked",
            "refused",
            "failed",
            "terms",
            "pauses",
            "overtaken",
            "then stale"
        )?;
        for Guarded { by, fence, tally } in &self.guarded {
            let Tally { tried, acknowledged, refused_by_the_fence, failed, terms, pauses, overtaken, .. } =
                tally;
            writeln!(
                f,
                "{by:<12} {fence:<12} {tried:>6} {acknowledged:>6} {refused_by_the_fence:>7} {failed:>6} {terms:>6} \
                 {pauses:>6} {overtaken:>9} {:>11}",
                tally.overtaken_and_stale
            )?;
        }
        writeln!(f, "\nAcknowledged updates that are lost")?;
        for Guarded { by, fence, tally } in &self.guarded {
            let length = (tally.lost_share() * BAR as f64).ceil() as usize;
            let bar = format!("{}{}", "█".repeat(length), "·".repeat(BAR - length));
            writeln!(f, "{by:<12} {fence:<12} {bar} {:>5.1} %  {}", tally.lost_share() * 100.0, tally.lost)?;
        }
        writeln!(f)?;
        self.claims.iter().try_for_each(|claim| writeln!(f, "{claim}"))?;
        for (judged, which) in self.judged.iter().zip(["with its fence", "without it, L-7 left out"]) {
            writeln!(f, "\nOur lease {which}")?;
            write!(f, "{judged}")?;
        }
        writeln!(f, "\nRepeat with: {}", self.repeat)
    }
}

//! The report of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use lease_judge::history::History;
use lease_stores::Mode;
use serde::Serialize;

use super::play::{HolderState, Saw};
use super::round::{Round, RoundEnd};
use crate::judged::Judged;

/// One restore with one holder and one standby.
#[derive(Debug, Serialize)]
struct PlayReport {
    kind: &'static str,
    about: &'static str,
    number: u64,
    holder: HolderState,
    standby: Saw,
    /// The time by which the term of a holder that was cut off outlived the restored store's first answer; below zero
    /// it had ended before, and two could not lead.
    outlived_ms: Option<i64>,
    /// From the beginning of the restore to somebody's leading.
    recovered_ms: Option<u64>,
    /// Processes that ended by themselves and were started again.
    restarts: usize,
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct RestoresReport {
    pub(super) holds: bool,
    mode: &'static str,
    seed: u64,
    ttl_ms: u64,
    plays: Vec<PlayReport>,
    claims: Vec<(String, bool)>,
    #[serde(flatten)]
    judged: Judged,
}

impl RestoresReport {
    pub(super) fn new(
        mode: Mode,
        seed: u64,
        ttl: Duration,
        ends: Vec<(&Round, RoundEnd<'_>)>,
        sabotaged: bool,
    ) -> Self {
        let (mut plays, mut histories) = (Vec::new(), BTreeMap::new());
        for (round, end) in ends {
            for play in end.plays {
                let millis = |at: u64| (at / 1_000_000) as i64;
                let outlived = millis(play.old_deadline.0) - millis(end.served.0);
                plays.push(PlayReport {
                    kind: round.kind.name,
                    about: round.kind.about,
                    number: round.number,
                    holder: play.state,
                    standby: play.saw,
                    outlived_ms: (play.state == HolderState::CutOff).then_some(outlived),
                    recovered_ms: play.recovered_at.map(|at| at.since(end.restoring).as_millis() as u64),
                    restarts: play.restarts,
                    problem: play.problem,
                });
                // Neither the store's own rows nor effects in it outlive a restore.
                let mut history = History { events: play.events, ..History::default() };
                history.sort();
                histories.insert(play.lease, history);
            }
        }
        // A restored register goes back by itself.
        let judged = Judged::except(&histories, &["L-5", "J-2"], None);
        let whole = plays.iter().filter(|play| play.problem.is_none()).count();
        let cut_off = plays.iter().filter_map(|play| Some((play.kind, play.outlived_ms?)));
        let mut outlived: BTreeMap<_, usize> = BTreeMap::new();
        for (kind, millis) in cut_off {
            *outlived.entry(kind).or_default() += usize::from(millis > 0);
        }
        let harmless: Vec<_> =
            outlived.iter().filter(|(_, count)| **count == 0).map(|(kind, _)| *kind).collect();
        let mut claims = vec![
            (
                format!(
                    "{whole} of {} fleets led again by themselves, and handed over after that",
                    plays.len()
                ),
                whole == plays.len(),
            ),
            (
                format!(
                    "{} terms of holders that were cut off outlived the restore, of each kind one at least{}",
                    outlived.values().sum::<usize>(),
                    if harmless.is_empty() {
                        String::new()
                    } else {
                        format!(", but not of {harmless:?}: use a longer --ttl")
                    },
                ),
                harmless.is_empty(),
            ),
        ];
        let holds = match sabotaged {
            false => judged.holds() && claims.iter().all(|(_, holds)| *holds),
            true => judged.violates("L-1"),
        };
        if sabotaged {
            claims.push(("without `leasehold restored` two led at once".to_owned(), holds));
        }
        Self { holds, mode: mode.as_str(), seed, ttl_ms: ttl.as_millis() as u64, plays, claims, judged }
    }
}

impl fmt::Display for PlayReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, number, holder, standby, .. } = self;
        let word = if self.problem.is_none() { "    " } else { "FAIL" };
        write!(f, "{word}  {kind} {number}, holder {holder}, standby {standby}: ")?;
        if let Some(millis) = self.outlived_ms {
            write!(f, "the old term outlived the restore by {millis} ms; ")?;
        }
        match self.recovered_ms {
            Some(millis) => write!(f, "led again after {millis} ms")?,
            None => write!(f, "nobody led again")?,
        }
        if self.restarts > 0 {
            write!(f, "; {} restarts", self.restarts)?;
        }
        match &self.problem {
            Some(problem) => write!(f, "\n      {problem}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for RestoresReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Restores on {} at ttl {} ms, seed {}", self.mode, self.ttl_ms, self.seed)?;
        self.plays.iter().try_for_each(|play| writeln!(f, "{play}"))?;
        for (claim, holds) in &self.claims {
            writeln!(f, "{}  {claim}", if *holds { "ok  " } else { "FAIL" })?;
        }
        write!(f, "{}", self.judged)
    }
}

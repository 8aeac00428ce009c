//! What a run left of a set, and of what its workers were told.

use std::collections::{HashMap, HashSet};

use lease_judge::history::{HistoryEntry, Outcome, What};
use serde::Serialize;

use super::lane::HolderPause;
use super::set::SetRow;

/// Counts of one set, or of all sets of one guarding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Tally {
    pub(super) tried: usize,
    pub(super) acknowledged: usize,
    /// Acknowledged, and not in the set.
    pub(super) lost: usize,
    pub(super) refused_by_the_fence: usize,
    pub(super) failed: usize,
    /// Rows of an earlier term that came after those of a later one.
    pub(super) stale_effects: usize,
    pub(super) terms: usize,
    /// Holders that were paused for twice the ttl.
    pub(super) pauses: usize,
    /// A later term had begun when the holder went on.
    pub(super) overtaken: usize,
    /// Of these, the terms that left a stale effect.
    pub(super) overtaken_and_stale: usize,
}

impl Tally {
    /// Of the rows of one set in their order, and what happened meanwhile.
    ///
    /// # Errors
    /// The set has a row that no worker wrote.
    pub(super) fn of(
        rows: &[(u64, String)],
        events: &[HistoryEntry],
        pauses: &[HolderPause],
    ) -> anyhow::Result<Self> {
        let (kept, stale) = (elements(rows)?, stale(rows));
        let overtaken = || pauses.iter().filter(|pause| pause.overtaken);
        let is_stale = |pause: &&HolderPause| stale.contains(&pause.term.epoch);
        let mut tally = Self {
            stale_effects: stale.len(),
            pauses: pauses.len(),
            overtaken: overtaken().count(),
            overtaken_and_stale: overtaken().filter(is_stale).count(),
            ..Self::default()
        };
        for event in events {
            match &event.what {
                What::Begun { .. } => tally.terms += 1,
                What::Effect { id, outcome, .. } => {
                    tally.tried += 1;
                    match outcome {
                        Outcome::Written => {
                            tally.acknowledged += 1;
                            tally.lost += usize::from(!kept.contains(id.as_str()));
                        }
                        Outcome::Refused => tally.refused_by_the_fence += 1,
                        Outcome::Failed(_) => tally.failed += 1,
                    }
                }
                _ => {}
            }
        }
        Ok(tally)
    }

    /// The sum of both.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            tried: self.tried + other.tried,
            acknowledged: self.acknowledged + other.acknowledged,
            lost: self.lost + other.lost,
            refused_by_the_fence: self.refused_by_the_fence + other.refused_by_the_fence,
            failed: self.failed + other.failed,
            stale_effects: self.stale_effects + other.stale_effects,
            terms: self.terms + other.terms,
            pauses: self.pauses + other.pauses,
            overtaken: self.overtaken + other.overtaken,
            overtaken_and_stale: self.overtaken_and_stale + other.overtaken_and_stale,
        }
    }

    /// The lost share of what was acknowledged.
    pub(super) fn lost_share(&self) -> f64 {
        share(self.lost, self.acknowledged)
    }

    /// The share of the overtaken terms that left a stale effect.
    pub(super) fn stale_share(&self) -> f64 {
        share(self.overtaken_and_stale, self.overtaken)
    }
}

fn share(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// The names of the updates that can be reached from the newest.
fn elements(rows: &[(u64, String)]) -> anyhow::Result<HashSet<&str>> {
    let (mut made_on, mut newest) = (HashMap::new(), None);
    for (_, id) in rows {
        match SetRow::of(id) {
            Some(SetRow::Opening) => {}
            Some(SetRow::Update { name, made_on: before }) => {
                made_on.insert(name, before);
                newest = Some(name);
            }
            None => anyhow::bail!("the set has a row that no worker wrote: {id:?}"),
        }
    }
    let mut elements = HashSet::new();
    // No update is made on a later one, so this ends.
    while let Some(name) = newest.filter(|name| elements.insert(*name)) {
        newest = made_on.get(name).copied().flatten();
    }
    Ok(elements)
}

/// The epochs of each row that came after one of a greater epoch.
fn stale(rows: &[(u64, String)]) -> Vec<u64> {
    let mut greatest = 0;
    let after_a_greater = |(epoch, _): &&(u64, String)| {
        greatest = greatest.max(*epoch);
        *epoch < greatest
    };
    rows.iter().filter(after_a_greater).map(|(epoch, _)| *epoch).collect()
}

#[cfg(test)]
mod tests {
    use lease_core::{Grant, Instant, Term};

    use super::*;

    fn term(epoch: u64) -> Term {
        Term { epoch, grant: Grant(u128::from(epoch)) }
    }

    fn tally(rows: &[(u64, &str)], told: &[(u64, &str, Outcome)], overtaken: &[u64]) -> Tally {
        let rows: Vec<_> = rows.iter().map(|(epoch, id)| (*epoch, (*id).to_owned())).collect();
        let event = |(epoch, id, outcome): &(u64, &str, Outcome)| HistoryEntry {
            at: Instant::ZERO,
            actor: "a".into(),
            what: What::Effect {
                resource: "set".into(),
                id: (*id).to_owned(),
                term: term(*epoch),
                sent: Instant::ZERO,
                outcome: outcome.clone(),
            },
        };
        let told: Vec<_> = told.iter().map(event).collect();
        let pause = |epoch: &u64| HolderPause { term: term(*epoch), overtaken: true };
        let pauses: Vec<_> = overtaken.iter().map(pause).collect();
        Tally::of(&rows, &told, &pauses).unwrap()
    }

    #[test]
    fn an_update_made_on_an_old_set_loses_what_came_between() {
        use Outcome::Written;
        let rows = [(1, "a!"), (1, "a<"), (2, "b!"), (2, "b<a"), (2, "c<b"), (1, "d<a"), (2, "e<d")];
        let told = [(1, "a"), (2, "b"), (2, "c"), (1, "d"), (2, "e")].map(|(epoch, id)| (epoch, id, Written));
        let found = tally(&rows, &told, &[1]);
        assert_eq!((found.acknowledged, found.lost, found.stale_effects), (5, 2, 1), "b and c are lost");
        assert_eq!((found.overtaken, found.overtaken_and_stale), (1, 1));
    }

    #[test]
    fn what_was_refused_or_failed_is_not_lost() {
        let rows = [(1, "a!"), (1, "a<"), (2, "b!"), (2, "b<a")];
        let failed = Outcome::Failed("no answer".into());
        let told = [
            (1, "a", Outcome::Written),
            (1, "x", Outcome::Refused),
            (1, "y", failed),
            (2, "b", Outcome::Written),
        ];
        let found = tally(&rows, &told, &[1]);
        assert_eq!((found.tried, found.acknowledged, found.lost, found.stale_effects), (4, 2, 0, 0));
        assert_eq!((found.refused_by_the_fence, found.failed), (1, 1));
        assert_eq!((found.overtaken, found.overtaken_and_stale), (1, 0));
    }

    #[test]
    fn an_acknowledged_update_without_a_row_is_lost() {
        let told = [(1, "a", Outcome::Written), (1, "b", Outcome::Written)];
        assert_eq!(tally(&[(1, "a<")], &told, &[]).lost, 1);
    }

    #[test]
    fn a_row_that_no_worker_wrote_is_an_error() {
        assert!(Tally::of(&[(1, "stranger".to_owned())], &[], &[]).is_err());
    }
}

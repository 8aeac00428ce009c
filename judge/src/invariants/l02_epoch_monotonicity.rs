//! **L-2 epoch monotonicity**: each term's epoch exceeds every earlier term's, across release, expiry, deletion,
//! restart and failover; no epoch has two grants and no grant has two epochs.

use std::collections::BTreeMap;

use lease_core::{Change, HistoryEvent, Term};

use super::{Violation, require};
use crate::facts::Facts;
use crate::history::{HistoryEntry, What};

pub(super) fn check(facts: &Facts<'_>) -> Result<usize, Violation> {
    for pair in facts.spans.windows(2) {
        require("L-2", pair[0].term.epoch < pair[1].term.epoch, || {
            format!("term {} followed term {}", pair[1].term, pair[0].term)
        })?;
    }
    let acquired = |event| matches!(event, HistoryEvent::Acquired | HistoryEvent::TakenOver);
    let rows = facts.history.rows.iter().flatten().filter(|row| acquired(row.event_type));
    for pair in rows.collect::<Vec<_>>().windows(2) {
        require("L-2", pair[0].epoch < pair[1].epoch, || {
            format!("in the store's history epoch {} followed epoch {}", pair[1].epoch, pair[0].epoch)
        })?;
    }
    let mut applied: Vec<_> = Vec::new();
    for write in facts.writes.iter().filter(|write| write.is_written()) {
        let grants = matches!(write.put.change, Change::Acquire | Change::Revoke | Change::Init);
        let Some(term) = write.put.record.term().filter(|_| grants) else { continue };
        applied.push((write.sent_at, write.answered.map_or(write.sent_at, |(at, _)| at), term));
    }
    for (_, acknowledged_at, earlier) in &applied {
        for (sent_at, _, later) in &applied {
            require("L-2", sent_at <= acknowledged_at || later.epoch > earlier.epoch, || {
                format!("term {later} was granted after term {earlier}")
            })?;
        }
    }
    each_epoch_has_one_grant(facts)
}

/// By every kind of evidence: writes, answers, watches, terms and effects. Returns how many epochs there are.
fn each_epoch_has_one_grant(facts: &Facts<'_>) -> Result<usize, Violation> {
    let (mut by_epoch, mut by_grant) = (BTreeMap::new(), BTreeMap::new());
    let written = facts.writes.iter().filter(|write| write.is_written());
    let written = written.filter_map(|write| write.put.record.term());
    for term in written.chain(facts.history.events.iter().filter_map(seen)) {
        let other = *by_epoch.entry(term.epoch).or_insert(term.grant);
        require("L-2", other == term.grant, || {
            format!("epoch {} was given to {other} and to {}", term.epoch, term.grant)
        })?;
        let other = *by_grant.entry(term.grant).or_insert(term.epoch);
        require("L-2", other == term.epoch, || {
            format!("grant {} has epochs {other} and {}", term.grant, term.epoch)
        })?;
    }
    Ok(by_epoch.len())
}

fn seen(event: &HistoryEntry) -> Option<Term> {
    if let What::Begun { term, .. } | What::Effect { term, .. } = &event.what {
        return Some(*term);
    }
    // A seal keeps the epoch.
    event.what.view()?.record.as_ref().filter(|record| record.sealed.is_none())?.term()
}

#[cfg(test)]
mod tests {
    use lease_core::{Grant, HistoryEvent, HistoryRow, LeaseName, Term, WallTime};

    use super::super::story::{Story, at, deadline, free, handover, record, takeover, term, view};
    use super::*;
    use crate::history::{Answer, History, Outcome, What};

    fn check(history: &History) -> Result<(), Violation> {
        super::check(&Facts::of(history)).map(drop)
    }

    #[test]
    fn accepts_rising_epochs_with_gaps() {
        assert_eq!(check(&handover()), Ok(()));
        assert_eq!(check(&takeover()), Ok(()));
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).leads(5000, 5001, "a", 77);
        assert_eq!(check(&story.history), Ok(()));
    }

    #[test]
    fn rejects_an_epoch_that_falls_or_repeats() {
        for epoch in [3, 2] {
            let mut story = Story::default();
            story.leads(0, 1, "a", 3).releases(10, 11, "a", 3).leads(20, 21, "b", epoch);
            assert_eq!(check(&story.history).unwrap_err().rule, "L-2", "epoch {epoch} after 3");
        }
    }

    #[test]
    fn rejects_two_grants_of_one_epoch_that_began_no_term() {
        let mut story = Story::default();
        for grant in [1, 2] {
            let term = Term { epoch: 5, grant: Grant(grant) };
            let acquired = record(Some(term), 5, 0);
            story.puts((0, 1), "a", Change::Acquire, free(4), acquired, Answer::Written);
        }
        assert!(check(&story.history).is_err());
    }

    #[test]
    fn rejects_a_grant_that_is_used_again() {
        let mut story = Story::default();
        for epoch in [1, 2] {
            let term = Term { epoch, grant: Grant(7) };
            let acquired = record(Some(term), epoch, 0);
            story.puts(
                (epoch * 10, epoch * 10 + 1),
                "a",
                Change::Acquire,
                free(epoch - 1),
                acquired,
                Answer::Written,
            );
            story.event(epoch * 10 + 1, "a", What::Begun { term, deadline: deadline(epoch * 10) });
        }
        assert!(check(&story.history).is_err());
    }

    #[test]
    fn rejects_two_grants_of_one_epoch_wherever_they_are_seen() {
        let twin = Term { epoch: 1, grant: Grant(2) };
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).sees(5, 6, "observer", view(record(Some(twin), 1, 0)));
        assert!(check(&story.history).is_err(), "in a read");
        let mut story = Story::default();
        let effect = |term| What::Effect {
            resource: "r".into(),
            id: "1".into(),
            term,
            sent: at(3),
            outcome: Outcome::Written,
        };
        story.leads(0, 1, "a", 1).event(4, "a", effect(term(1)));
        assert_eq!(check(&story.history), Ok(()));
        story.event(5, "b", effect(twin));
        assert!(check(&story.history).is_err(), "in an effect");
    }

    #[test]
    fn rejects_rows_of_acquisitions_whose_epoch_does_not_grow() {
        let row = |sequence, epoch| HistoryRow {
            sequence,
            lease_name: LeaseName::new("l").unwrap(),
            transition_count: sequence as u64,
            epoch,
            holder_workload_id: "w".into(),
            event_type: HistoryEvent::Acquired,
            event_at: WallTime(0),
            note: String::new(),
        };
        let rows = |rows| History { rows: Some(rows), ..History::default() };
        assert_eq!(check(&rows(vec![row(1, 3), row(2, 7), row(3, 9)])), Ok(()));
        assert!(check(&rows(vec![row(1, 3), row(2, 3)])).is_err());
    }
}

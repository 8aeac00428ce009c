//! **L-2 epoch monotonicity**: each term's epoch exceeds every earlier term's, across release, expiry, deletion,
//! restart and failover; no epoch has two grants and no grant has two epochs.

use std::collections::BTreeMap;

use lease_core::Change;

use super::{Violation, require};
use crate::history::History;

/// Judges a history.
pub fn check(history: &History) -> Result<(), Violation> {
    let spans = history.spans();
    for pair in spans.windows(2) {
        require("L-2", pair[0].term.epoch < pair[1].term.epoch, || {
            format!("term {} followed term {}", pair[1].term, pair[0].term)
        })?;
    }
    let (mut by_epoch, mut by_grant) = (BTreeMap::new(), BTreeMap::new());
    let grants = history.writes();
    let grants = grants.iter().filter(|write| {
        matches!(write.put.change, Change::Acquire | Change::Revoke | Change::Init) && write.is_written()
    });
    let mut applied: Vec<_> = Vec::new();
    for write in grants {
        let Some(term) = write.put.record.term() else { continue };
        let other = *by_epoch.entry(term.epoch).or_insert(term.grant);
        require("L-2", other == term.grant, || {
            format!("epoch {} was given to {other} and to {}", term.epoch, term.grant)
        })?;
        let other = *by_grant.entry(term.grant).or_insert(term.epoch);
        require("L-2", other == term.epoch, || {
            format!("grant {} has epochs {other} and {}", term.grant, term.epoch)
        })?;
        applied.push((write.sent_at, write.answered.map_or(write.sent_at, |(at, _)| at), term));
    }
    for (_, acknowledged_at, earlier) in &applied {
        for (sent_at, _, later) in &applied {
            require("L-2", sent_at <= acknowledged_at || later.epoch > earlier.epoch, || {
                format!("term {later} was granted after term {earlier}")
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lease_core::{Grant, Term};

    use super::super::story::{Story, deadline, free, handover, record, takeover};
    use super::*;
    use crate::history::{Answer, What};

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
}

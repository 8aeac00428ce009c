//! L-2, epoch monotonicity: each term's epoch exceeds every earlier term's, and no epoch has two grants.

use lease_core::HistoryEvent;

use super::{Evidence, Violation, grants_by_epoch, violation};

pub(super) fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut found = Vec::new();
    for (epoch, grants) in grants_by_epoch(evidence) {
        if grants.len() > 1 {
            found.push(violation("L-2", format!("epoch {epoch} has {} grants", grants.len()), &[&grants]));
        }
    }
    let mut claims: Vec<_> = evidence.claims.iter().collect();
    claims.sort_by_key(|claimed| claimed.from);
    for pair in claims.windows(2) {
        if pair[1].term.epoch <= pair[0].term.epoch {
            found.push(violation("L-2", "a later term has no greater epoch", &[pair[0], pair[1]]));
        }
    }
    let acquisition = |event| matches!(event, HistoryEvent::Acquired | HistoryEvent::TakenOver);
    let acquisitions: Vec<_> = evidence.history.iter().filter(|row| acquisition(row.event_type)).collect();
    for pair in acquisitions.windows(2) {
        if pair[1].epoch <= pair[0].epoch || pair[1].transition_count <= pair[0].transition_count {
            let rows: [&dyn std::fmt::Debug; 2] = [pair[0], pair[1]];
            found.push(violation(
                "L-2",
                "a later acquisition in the store's history has no greater epoch",
                &rows,
            ));
        }
    }
    for claimed in &evidence.claims {
        let rows = acquisitions.iter().filter(|row| row.epoch == claimed.term.epoch).count();
        if !evidence.history.is_empty() && rows != 1 {
            let what = format!("a term has {rows} acquisitions in the store's history");
            found.push(violation("L-2", what, &[claimed]));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::{Claimed, Sighting};
    use lease_core::{Grant, HistoryRow, LeaseName, Term, WallTime};

    fn claimed(epoch: u64, grant: u128, from: u64) -> Claimed {
        Claimed { incarnation: 1, term: Term { epoch, grant: Grant(grant) }, from, until: from + 1 }
    }

    fn acquired(sequence: i64, epoch: u64) -> HistoryRow {
        HistoryRow {
            sequence,
            lease_name: LeaseName::new("l").unwrap(),
            transition_count: sequence as u64,
            epoch,
            holder_workload_id: "w".into(),
            event_type: HistoryEvent::Acquired,
            event_at: WallTime(0),
            note: String::new(),
        }
    }

    #[test]
    fn growing_epochs_with_gaps_are_right() {
        let claims = vec![claimed(9, 2, 20), claimed(3, 1, 10)];
        let history = vec![acquired(1, 3), acquired(2, 7), acquired(3, 9)];
        assert_eq!(check(&Evidence { claims, history, ..Default::default() }), []);
    }

    #[test]
    fn rejects_an_epoch_that_does_not_grow() {
        let claims = vec![claimed(3, 1, 10), claimed(2, 2, 20)];
        assert_eq!(check(&Evidence { claims, ..Default::default() }).len(), 1);
        let history = vec![acquired(1, 3), acquired(2, 3)];
        assert_eq!(check(&Evidence { history, ..Default::default() }).len(), 1);
    }

    #[test]
    fn rejects_two_grants_of_one_epoch_wherever_they_are_seen() {
        let claims = vec![claimed(3, 1, 10)];
        let sightings = vec![Sighting { at: 11, epoch: 3, grant: Some(Grant(2)), beat: 0 }];
        assert_eq!(check(&Evidence { claims, sightings, ..Default::default() }).len(), 1);
    }

    #[test]
    fn rejects_a_term_that_the_history_has_not_or_twice() {
        let claims = vec![claimed(3, 1, 10)];
        let history = vec![acquired(1, 4)];
        assert_eq!(check(&Evidence { claims: claims.clone(), history, ..Default::default() }).len(), 1);
        let history = vec![acquired(1, 3), acquired(2, 3)];
        assert_eq!(check(&Evidence { claims, history, ..Default::default() }).len(), 2);
    }
}

//! **L-10 history**: each change of holder leaves exactly one durable, ordered row, and nothing else leaves any.

use lease_core::{Change, HistoryEvent, HistoryRow, Observation};

use super::{Violation, require};
use crate::facts::{Facts, Write};
use crate::history::View;

/// Judges a history whose rows were read. A write of unknown outcome may have left its row, and must have if a term
/// rests on it. Returns how many rows it has judged.
pub(super) fn check(facts: &Facts<'_>) -> Result<usize, Violation> {
    let Some(rows) = &facts.history.rows else { return Ok(0) };
    let writes = &facts.writes;
    // Transitions begin anew with a register that was deleted and created again.
    let created_anew =
        writes.iter().filter(|write| write.put.change == Change::Init && write.may_be_applied());
    let created_anew = created_anew.count() > 1;
    for pair in rows.windows(2) {
        require("L-10", pair[0].sequence < pair[1].sequence, || format!("rows out of order: {pair:?}"))?;
        require("L-10", created_anew || pair[0].transition_count <= pair[1].transition_count, || {
            format!("transitions fell from one row to the next: {pair:?}")
        })?;
    }
    let acquired =
        |row: &&HistoryRow| matches!(row.event_type, HistoryEvent::Acquired | HistoryEvent::TakenOver);
    let acquisitions: Vec<_> = rows.iter().filter(acquired).collect();
    for pair in acquisitions.windows(2) {
        require("L-10", created_anew || pair[0].transition_count < pair[1].transition_count, || {
            format!("an acquisition is no new transition: {pair:?}")
        })?;
    }
    for span in &facts.spans {
        let count = acquisitions.iter().filter(|row| row.epoch == span.term.epoch).count();
        require("L-10", count == 1, || {
            format!("term {} of {} has {count} rows of an acquisition", span.term, span.actor)
        })?;
    }
    let mut left: Vec<_> = rows.iter().collect();
    let mut take = |write: &Write<'_>| -> Option<bool> {
        let event = HistoryEvent::of(&observation(&write.put.expected), &write.put.record, write.put.change)?;
        let record = &write.put.record;
        let fits = left.iter().position(|row| {
            row.event_type == event
                && row.epoch == record.epoch
                && row.transition_count == record.transitions
                && row.holder_workload_id == record.holder
        });
        fits.map(|index| left.remove(index));
        Some(fits.is_some())
    };
    for write in writes.iter().filter(|write| write.is_written()) {
        require("L-10", take(write).unwrap_or(true), || {
            format!(
                "a {:?} by {} at epoch {} left no row",
                write.put.change, write.actor, write.put.record.epoch
            )
        })?;
    }
    for write in writes.iter().filter(|write| !write.is_written() && write.may_be_applied()) {
        take(write);
    }
    require("L-10", left.is_empty(), || format!("rows that no change of holder explains: {left:?}"))?;
    Ok(rows.len())
}

fn observation(view: &View) -> Observation {
    Observation {
        record: view.record.as_deref().cloned(),
        lineage: view.lineage.clone(),
        floor: 0,
        version: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use lease_core::{LeaseName, WallTime};

    use super::super::story::{Story, deadline, free, handover, record, term};
    use super::*;
    use crate::history::{Answer, History, What};

    fn row(sequence: i64, epoch: u64, event_type: HistoryEvent) -> HistoryRow {
        HistoryRow {
            sequence,
            lease_name: LeaseName::new("a-lease").unwrap(),
            transition_count: epoch,
            epoch,
            holder_workload_id: "somebody".into(),
            event_type,
            event_at: WallTime(0),
            note: String::new(),
        }
    }

    fn with(rows: &[HistoryRow]) -> History {
        History { rows: Some(rows.to_vec()), ..handover() }
    }

    fn good() -> Vec<HistoryRow> {
        vec![
            row(1, 1, HistoryEvent::Acquired),
            row(2, 1, HistoryEvent::Released),
            row(3, 2, HistoryEvent::Acquired),
        ]
    }

    fn check(history: &History) -> Result<(), Violation> {
        super::check(&Facts::of(history)).map(drop)
    }

    #[test]
    fn accepts_one_row_for_each_change_of_holder() {
        assert_eq!(check(&with(&good())), Ok(()));
    }

    #[test]
    fn rejects_a_missing_a_doubled_and_a_foreign_row() {
        for index in 0..3 {
            let mut rows = good();
            rows.remove(index);
            assert_eq!(check(&with(&rows)).unwrap_err().rule, "L-10", "row {index} missing");
        }
        let mut rows = good();
        rows.push(row(4, 2, HistoryEvent::Acquired));
        assert!(check(&with(&rows)).is_err(), "doubled");
        let mut rows = good();
        rows.push(row(4, 2, HistoryEvent::Revoked));
        assert!(check(&with(&rows)).is_err(), "foreign");
    }

    #[test]
    fn rejects_rows_out_of_order() {
        let mut rows = good();
        rows.swap(0, 1);
        assert!(check(&with(&rows)).is_err());
    }

    #[test]
    fn accepts_a_row_of_an_unknown_write_and_its_absence() {
        let mut story = Story::default();
        let acquired = record(Some(term(1)), 1, 0);
        story.puts((0, 1), "a", Change::Acquire, free(0), acquired, |_| Answer::Unknown);
        for rows in [vec![], vec![row(1, 1, HistoryEvent::Acquired)]] {
            let history = History { rows: Some(rows), ..story.history.clone() };
            assert_eq!(check(&history), Ok(()));
        }
    }

    #[test]
    fn rejects_a_term_without_a_row_although_its_acquisition_was_unknown() {
        let mut story = Story::default();
        let acquired = record(Some(term(1)), 1, 0);
        story.puts((0, 1), "a", Change::Acquire, free(0), acquired, |_| Answer::Unknown);
        story.renews(2, 3, "a", 1, 1);
        story.event(3, "a", What::Begun { term: term(1), deadline: deadline(2) });
        let rows = |rows| History { rows: Some(rows), ..story.history.clone() };
        assert_eq!(check(&rows(vec![row(1, 1, HistoryEvent::Acquired)])), Ok(()));
        assert!(check(&rows(vec![])).is_err());
        assert!(check(&rows(vec![row(1, 4, HistoryEvent::Acquired)])).is_err());
    }

    #[test]
    fn rejects_two_acquisitions_of_one_transition() {
        let mut rows = good();
        rows[2].transition_count = 1;
        assert!(check(&with(&rows)).is_err());
    }
}

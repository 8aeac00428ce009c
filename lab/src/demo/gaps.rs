//! The time without a leader, by what the stores have.

use lease_core::{HistoryEvent, HistoryRow};

use super::witness::Witness;

/// From each released epoch: milliseconds until the next term's first rows were let in.
pub(super) async fn handovers(witness: &Witness, released: &[u64]) -> anyhow::Result<Vec<(u64, i64)>> {
    let (history, terms) = (witness.history().await?, witness.terms().await?);
    let gap = |epoch: &u64| {
        let release =
            history.iter().find(|row| row.epoch == *epoch && row.event_type == HistoryEvent::Released)?;
        let next = terms.iter().find(|term| term.epoch > *epoch)?;
        Some((*epoch, next.first_at - release.event_at.0))
    };
    Ok(released.iter().filter_map(gap).collect())
}

/// From each kill: milliseconds until the next grant.
pub(super) async fn failovers(witness: &Witness, kills: &[(u64, i64)]) -> anyhow::Result<Vec<(u64, i64)>> {
    let history = witness.history().await?;
    let gap = |(epoch, at): &(u64, i64)| {
        let next = history.iter().find(|row| row.epoch > *epoch && is_grant(row))?;
        Some((*epoch, next.event_at.0 - at))
    };
    Ok(kills.iter().filter_map(gap).collect())
}

/// Whether a term begins with this row.
pub(super) fn is_grant(row: &HistoryRow) -> bool {
    matches!(row.event_type, HistoryEvent::Acquired | HistoryEvent::TakenOver)
}

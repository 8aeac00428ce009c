//! L-5, old terms are inert: their renewals and releases change nothing.

use lease_core::HistoryEvent;

use super::{Evidence, Sighting, Violation, violation};
use crate::trace::Act;

pub(super) fn check(evidence: &Evidence) -> Vec<Violation> {
    let mut found = acknowledged_after_takeover(evidence);
    found.extend(history_out_of_turn(evidence));
    found.extend(register_goes_back(&evidence.sightings));
    found
}

/// A renewal or release that was sent after a later term's acquisition was acknowledged, and acknowledged itself.
fn acknowledged_after_takeover(evidence: &Evidence) -> Vec<Violation> {
    let mut acquisitions: Vec<_> = evidence.writes.iter().filter(|write| write.act == Act::Acquire).collect();
    acquisitions.sort_by_key(|write| write.answered);
    let mut found = Vec::new();
    for write in evidence.writes.iter().filter(|write| write.act != Act::Acquire) {
        let earlier = &acquisitions[..acquisitions.partition_point(|later| later.answered < write.sent)];
        if let Some(later) = earlier.iter().find(|later| later.epoch > write.epoch) {
            found.push(violation("L-5", "an old term's write was acknowledged", &[later, write]));
        }
    }
    found
}

/// In the store's history only the present term is released, and once.
fn history_out_of_turn(evidence: &Evidence) -> Vec<Violation> {
    let mut present = None;
    let mut found = Vec::new();
    for row in &evidence.history {
        match row.event_type {
            HistoryEvent::Acquired | HistoryEvent::TakenOver => present = Some(row),
            HistoryEvent::Released | HistoryEvent::SteppedDown => match present.take() {
                Some(holder) if holder.epoch == row.epoch => {}
                other => found.push(violation("L-5", "released by a term that did not hold", &[&other, row])),
            },
            _ => present = None,
        }
    }
    found
}

/// Reads one after the other: the epoch never falls, a term's beat never falls, and a freed term never comes back.
fn register_goes_back(sightings: &[Sighting]) -> Vec<Violation> {
    let goes_back = |before: &Sighting, after: &Sighting| {
        let same = before.epoch == after.epoch;
        after.epoch < before.epoch
            || (same && after.beat < before.beat)
            || (same && before.grant.is_none() && after.grant.is_some())
    };
    let pairs = sightings.windows(2).filter(|pair| goes_back(&pair[0], &pair[1]));
    pairs.map(|pair| violation("L-5", "the register went back", &[&pair[0], &pair[1]])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::Write;
    use lease_core::{Grant, HistoryRow, LeaseName, WallTime};

    fn write(act: Act, epoch: u64, sent: u64, answered: u64) -> Write {
        Write { act, epoch, sent, answered }
    }

    #[test]
    fn a_write_that_may_have_come_before_the_takeover_is_right() {
        let writes = vec![
            write(Act::Acquire, 1, 0, 1),
            write(Act::Renew, 1, 10, 30),
            write(Act::Acquire, 2, 15, 20),
            write(Act::Renew, 2, 21, 22),
        ];
        assert_eq!(check(&Evidence { writes, ..Default::default() }), []);
    }

    #[test]
    fn rejects_an_acknowledged_write_of_an_old_term() {
        for act in [Act::Renew, Act::Release] {
            let writes = vec![write(Act::Acquire, 2, 15, 20), write(act, 1, 21, 30)];
            assert_eq!(check(&Evidence { writes, ..Default::default() }).len(), 1);
        }
    }

    fn row(sequence: i64, epoch: u64, event_type: HistoryEvent) -> HistoryRow {
        HistoryRow {
            sequence,
            lease_name: LeaseName::new("l").unwrap(),
            transition_count: 1,
            epoch,
            holder_workload_id: "w".into(),
            event_type,
            event_at: WallTime(0),
            note: String::new(),
        }
    }

    #[test]
    fn rejects_a_release_by_an_old_term_and_a_second_one() {
        use HistoryEvent::{Acquired, Released, TakenOver};
        let right = vec![row(1, 1, Acquired), row(2, 1, Released), row(3, 2, TakenOver), row(4, 2, Released)];
        assert_eq!(check(&Evidence { history: right, ..Default::default() }), []);
        let stale = vec![row(1, 1, Acquired), row(2, 2, TakenOver), row(3, 1, Released)];
        assert_eq!(check(&Evidence { history: stale, ..Default::default() }).len(), 1);
        let twice = vec![row(1, 1, Acquired), row(2, 1, Released), row(3, 1, Released)];
        assert_eq!(check(&Evidence { history: twice, ..Default::default() }).len(), 1);
    }

    #[test]
    fn rejects_a_register_that_goes_back() {
        let seen =
            |epoch, grant: Option<u128>, beat| Sighting { at: 0, epoch, grant: grant.map(Grant), beat };
        let register = |sightings| check(&Evidence { sightings, ..Default::default() }).len();
        assert_eq!(
            register(vec![seen(1, Some(1), 0), seen(1, Some(1), 3), seen(1, None, 4), seen(2, Some(2), 0)]),
            0
        );
        assert_eq!(register(vec![seen(2, Some(2), 0), seen(1, Some(1), 4)]), 1);
        assert_eq!(register(vec![seen(2, Some(2), 5), seen(2, Some(2), 4)]), 1);
        assert_eq!(register(vec![seen(2, None, 5), seen(2, Some(2), 6)]), 1);
    }
}

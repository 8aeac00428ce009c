//! **L-5 old terms are inert**: a renewal or release of a term changes nothing once a later one was granted, and a
//! term past its deadline sends neither (T-1).

use std::collections::{BTreeMap, HashMap};

use lease_core::{Change, Grant, HistoryEvent, Instant, Record};

use super::{Violation, require};
use crate::facts::{Facts, Write};
use crate::history::{Answer, View, What};

/// Returns how many renewals and releases it has judged.
pub(super) fn check(facts: &Facts<'_>) -> Result<usize, Violation> {
    nothing_is_sent_past_the_deadline(facts)?;
    only_the_present_term_is_released(facts)?;
    the_register_never_goes_back(facts)?;
    nothing_is_written_after_a_later_grant(facts)
}

fn nothing_is_written_after_a_later_grant(facts: &Facts<'_>) -> Result<usize, Violation> {
    let mut judged = 0;
    for write in facts.writes.iter().filter(|write| write.is_written()) {
        let own = match write.put.change {
            Change::Renew => write.put.record.term(),
            Change::Release => write.put.expected.record.as_ref().and_then(|record| record.term()),
            _ => continue,
        };
        let Some(own) = own else { continue };
        judged += 1;
        require("L-5", write.put.expected.grant() == Some(own.grant), || {
            format!("{} wrote term {own} over {:?}", write.actor, write.put.expected.record)
        })?;
        let later = facts.writes.iter().find(|later| {
            matches!(later.put.change, Change::Acquire | Change::Revoke)
                && later.put.record.epoch > own.epoch
                && later.is_written()
                && later.answered.is_some_and(|(at, _)| at < write.sent_at)
        });
        require("L-5", later.is_none(), || {
            let later = later.map(|write| write.put.record.epoch).unwrap_or_default();
            format!(
                "a {:?} of term {own} by {} was written after epoch {later} had been granted",
                write.put.change, write.actor
            )
        })?;
    }
    Ok(judged)
}

fn nothing_is_sent_past_the_deadline(facts: &Facts<'_>) -> Result<(), Violation> {
    for actor in facts.actors().filter(|actor| facts.is_elector(actor)) {
        // By grant: until when its acknowledged writes, or its first unanswered acquisition, let it act.
        let mut until: BTreeMap<Grant, Instant> = BTreeMap::new();
        let extend = |until: &mut BTreeMap<Grant, Instant>, write: &Write<'_>| {
            let Some(grant) = write.put.record.grant else { return };
            let at = until.entry(grant).or_insert(write.lasts_until());
            *at = write.lasts_until().max(*at);
        };
        for (place, event) in facts.events_of(actor) {
            let Some(write) = facts.write_at(place) else { continue };
            match &event.what {
                // The latest attempt with this grant: acknowledged, it is the one that D counts from.
                What::Sent { .. } if write.put.change == Change::Acquire => extend(&mut until, write),
                What::Sent { .. } => {
                    let grant = match write.put.change {
                        Change::Renew => write.put.record.grant,
                        Change::Release => write.put.expected.grant(),
                        _ => continue,
                    };
                    let Some(deadline) = grant.and_then(|grant| until.get(&grant)) else { continue };
                    require("L-5", event.at < *deadline, || {
                        format!(
                            "{actor} sent a {:?} {:?} after the deadline of its term",
                            write.put.change,
                            event.at.since(*deadline)
                        )
                    })?;
                }
                What::Answered { answer: Answer::Written(_), .. } => extend(&mut until, write),
                _ => {}
            }
        }
    }
    Ok(())
}

/// And once, by the store's own history.
fn only_the_present_term_is_released(facts: &Facts<'_>) -> Result<(), Violation> {
    let mut present = None;
    for row in facts.history.rows.iter().flatten() {
        match row.event_type {
            HistoryEvent::Acquired | HistoryEvent::TakenOver => present = Some(row.epoch),
            HistoryEvent::Released | HistoryEvent::SteppedDown => {
                let holder = present.take();
                require("L-5", holder == Some(row.epoch), || {
                    format!("epoch {} was released while {holder:?} held, by the row {row:?}", row.epoch)
                })?;
            }
            _ => present = None,
        }
    }
    Ok(())
}

/// Of two reads one after the other the second shows no earlier register. Backends that a case writes to by hand are
/// excused.
fn the_register_never_goes_back(facts: &Facts<'_>) -> Result<(), Violation> {
    let reads_only = |actor: &str| facts.is_elector(actor) || facts.writes_of(actor).next().is_none();
    for actor in facts.actors().filter(|actor| reads_only(actor)) {
        let mut sent: HashMap<u64, usize> = HashMap::new();
        let mut last: Option<(usize, &View)> = None;
        for (place, event) in facts.events_of(actor) {
            match &event.what {
                What::Sent { call, .. } => drop(sent.insert(*call, place)),
                What::Answered { call, answer } => {
                    let (Some(view), Some(sent)) = (answer.view(), sent.get(call)) else { continue };
                    if let Some((_, before)) = last.filter(|(answered, _)| answered < sent) {
                        require("L-5", !goes_back(before, view), || {
                            format!(
                                "{actor} was shown {:?}, and then an earlier register: {:?}",
                                before.record, view.record
                            )
                        })?;
                    }
                    if last.is_none_or(|(answered, _)| answered < *sent) {
                        last = Some((place, view));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn goes_back(before: &View, after: &View) -> bool {
    // Another lineage may have lost some of the history, and a register that was deleted begins anew.
    let (Some(one), Some(other)) = (&before.record, &after.record) else { return false };
    let back = |one: &Record, other: &Record| {
        let freed_again = one.grant.is_none() && other.grant.is_some();
        other.epoch < one.epoch || one.epoch == other.epoch && (other.beat < one.beat || freed_again)
    };
    before.lineage == after.lineage && other.sealed.is_none() && back(one, other)
}

#[cfg(test)]
mod tests {
    use lease_core::{Grant, HistoryRow, LeaseName, Lineage, Term, WallTime};

    use super::super::story::{Story, free, handover, held, record, takeover, term, view};
    use super::*;
    use crate::history::{Answer, History};

    fn check(history: &History) -> Result<(), Violation> {
        super::check(&Facts::of(history)).map(drop)
    }

    #[test]
    fn accepts_clean_terms() {
        assert_eq!(check(&handover()), Ok(()));
        assert_eq!(check(&takeover()), Ok(()));
    }

    #[test]
    fn accepts_an_old_renewal_that_conflicts() {
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).takes(100, 101, "b", 2, held(1, 0));
        let old = record(Some(term(1)), 1, 1);
        story.puts((200, 201), "a", Change::Renew, held(1, 0), old, Answer::Conflict);
        assert_eq!(check(&story.history), Ok(()));
    }

    #[test]
    fn rejects_an_old_renewal_and_an_old_release_that_were_written() {
        for (change, grant) in [(Change::Renew, Some(term(1))), (Change::Release, None)] {
            let mut story = Story::default();
            story.leads(0, 1, "a", 1).takes(100, 101, "b", 2, held(1, 0));
            story.puts((200, 201), "a", change, held(1, 0), record(grant, 1, 1), Answer::Written);
            assert_eq!(check(&story.history).unwrap_err().rule, "L-5", "{change:?}");
        }
    }

    #[test]
    fn rejects_a_renewal_over_another_grant() {
        let mut story = Story::default();
        let own = record(Some(term(1)), 1, 1);
        story.puts((0, 1), "a", Change::Renew, free(2), own, Answer::Written);
        assert!(check(&story.history).is_err());
    }

    #[test]
    fn rejects_a_renewal_that_is_sent_past_the_deadline() {
        let mut story = Story::default();
        story.campaigns(0, "a").leads(0, 1, "a", 1).renews(500, 501, "a", 1, 1).renews(1490, 1491, "a", 1, 2);
        assert_eq!(check(&story.history), Ok(()));
        story.renews(2490, 2491, "a", 1, 3);
        assert!(check(&story.history).is_err());
    }

    #[test]
    fn accepts_a_renewal_that_may_have_come_before_the_takeover() {
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).renews(10, 30, "a", 1, 1);
        story.takes(15, 20, "b", 2, held(1, 1)).renews(21, 22, "b", 2, 1);
        story.history.sort();
        assert_eq!(check(&story.history), Ok(()));
    }

    #[test]
    fn rejects_rows_of_a_release_by_an_old_term_and_of_a_second_one() {
        use HistoryEvent::{Acquired, Released, TakenOver};
        let rows = |rows: &[(u64, HistoryEvent)]| {
            let row = |(index, (epoch, event_type)): (usize, &(u64, HistoryEvent))| HistoryRow {
                sequence: index as i64,
                lease_name: LeaseName::new("l").unwrap(),
                transition_count: 1,
                epoch: *epoch,
                holder_workload_id: "w".into(),
                event_type: *event_type,
                event_at: WallTime(0),
                note: String::new(),
            };
            check(&History { rows: Some(rows.iter().enumerate().map(row).collect()), ..History::default() })
        };
        assert_eq!(rows(&[(1, Acquired), (1, Released), (2, TakenOver), (2, Released)]), Ok(()));
        assert!(rows(&[(1, Acquired), (2, TakenOver), (1, Released)]).is_err());
        assert!(rows(&[(1, Acquired), (1, Released), (1, Released)]).is_err());
    }

    #[test]
    fn rejects_a_register_that_goes_back() {
        let seen = |epoch, grant: Option<u128>, beat| {
            let grant = grant.map(|grant| Term { epoch, grant: Grant(grant) });
            view(record(grant, epoch, beat))
        };
        let register = |views: &[View]| {
            let mut story = Story::default();
            for (index, view) in views.iter().enumerate() {
                story.sees(index as u64 * 10, index as u64 * 10 + 1, "observer", view.clone());
            }
            check(&story.history)
        };
        let right = [seen(1, Some(1), 0), seen(1, Some(1), 3), seen(1, None, 4), seen(2, Some(2), 0)];
        assert_eq!(register(&right), Ok(()));
        assert!(register(&[seen(2, Some(2), 0), seen(1, Some(1), 4)]).is_err());
        assert!(register(&[seen(2, Some(2), 5), seen(2, Some(2), 4)]).is_err());
        assert!(register(&[seen(2, None, 5), seen(2, Some(2), 6)]).is_err());
        let elsewhere = View { lineage: Lineage("2".into()), ..seen(1, Some(1), 4) };
        assert_eq!(register(&[seen(2, Some(2), 0), elsewhere]), Ok(()));
    }

    #[test]
    fn accepts_reads_that_overtake_each_other() {
        let mut story = Story::default();
        story.sees(0, 10, "observer", held(1, 3)).sees(5, 12, "observer", held(1, 2));
        story.history.sort();
        assert_eq!(check(&story.history), Ok(()));
    }
}

//! **L-5 old terms are inert**: a renew or release of a term changes nothing once a later one was granted, and a
//! term past its deadline sends neither (T-1).

use std::collections::BTreeMap;

use lease_core::{Change, Grant, Instant};

use super::{Violation, require};
use crate::history::{Answer, History, What};

/// Judges a history.
pub fn check(history: &History) -> Result<(), Violation> {
    let writes = history.writes();
    for write in writes.iter().filter(|write| write.is_written()) {
        let own = match write.put.change {
            Change::Renew => write.put.record.term(),
            Change::Release => write.put.expected.record.as_ref().and_then(|record| record.term()),
            _ => continue,
        };
        let Some(own) = own else { continue };
        require("L-5", write.put.expected.grant() == Some(own.grant), || {
            format!("{} wrote term {own} over {:?}", write.actor, write.put.expected.record)
        })?;
        let later = writes.iter().find(|later| {
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
    nothing_is_sent_past_the_deadline(history)
}

fn nothing_is_sent_past_the_deadline(history: &History) -> Result<(), Violation> {
    let writes = history.writes();
    // By actor and grant: until when its acknowledged writes, or its first unanswered acquisition, let it act.
    let mut until: BTreeMap<(&str, Grant), Instant> = BTreeMap::new();
    for (index, event) in history.events.iter().enumerate() {
        let actor = event.actor.as_str();
        if !history.is_elector(actor) {
            continue;
        }
        let write = writes.iter().find(|write| write.index == index || write.answered_index == Some(index));
        let Some(write) = write else { continue };
        match &event.what {
            What::Sent { .. } => {
                let grant = match write.put.change {
                    Change::Acquire => {
                        let Some(grant) = write.put.record.grant else { continue };
                        // The latest attempt with this grant: acknowledged, it is what D counts from.
                        until
                            .entry((actor, grant))
                            .and_modify(|at| *at = write.lasts_until().max(*at))
                            .or_insert(write.lasts_until());
                        continue;
                    }
                    Change::Renew => write.put.record.grant,
                    Change::Release => write.put.expected.grant(),
                    _ => continue,
                };
                let Some(deadline) = grant.and_then(|grant| until.get(&(actor, grant))) else { continue };
                require("L-5", event.at < *deadline, || {
                    format!(
                        "{actor} sent a {:?} {:?} after the deadline of its term",
                        write.put.change,
                        event.at.since(*deadline)
                    )
                })?;
            }
            What::Answered { answer: Answer::Written(_), .. } => {
                let Some(grant) = write.put.record.grant else { continue };
                until
                    .entry((actor, grant))
                    .and_modify(|at| *at = write.lasts_until().max(*at))
                    .or_insert(write.lasts_until());
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, free, handover, held, record, takeover, term};
    use super::*;
    use crate::history::Answer;

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
}

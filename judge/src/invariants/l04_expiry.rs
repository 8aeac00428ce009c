//! **L-4 expiry**: a dead holder's lease is taken within ttl·(1+ρ) and one poll by exactly one of N.
//!
//! 'Exactly one' is L-1 and L-2; this checks the time, from when each candidate received the last beat. Candidates whose
//! calls failed or were slow, or that did not run, are excused.

use std::time::Duration;

use lease_core::internal::deadline::lengthened;
use lease_core::{Change, Grant, Instant};

use super::{Violation, require};
use crate::facts::{Facts, Span};
use crate::history::What;

/// Time that a loaded machine may add. The failover bars (`leasehold-lab`) are stricter; this catches a wrong rule.
const SLACK: Duration = Duration::from_secs(2);

/// Returns how many deaths of a leader it has judged.
pub(super) fn check(facts: &Facts<'_>) -> Result<usize, Violation> {
    let events = &facts.history.events;
    let end = events.iter().map(|event| event.at).max().unwrap_or(Instant::ZERO);
    let mut judged = 0;
    for death in events.iter().filter(|event| event.what == What::Died) {
        let last = facts.spans.iter().rfind(|span| span.begun_at <= death.at);
        let led = |span: &&Span| span.actor == death.actor && span.ended.is_none_or(|(at, _)| at >= death.at);
        let Some(dead) = last.filter(led) else { continue };
        let candidates = facts.actors().filter(|actor| *actor != death.actor);
        let due = candidates.filter_map(|actor| Some((actor, due_by(facts, actor, dead.term.grant)?)));
        let due: Vec<_> = due.collect();
        let taken_at = facts.writes.iter().find(|write| {
            write.put.change == Change::Acquire
                && write.put.record.epoch > dead.term.epoch
                && write.may_be_applied()
        });
        let taken_at = taken_at.map(|write| write.sent_at);
        let fair = due.iter().filter(|(actor, due)| {
            taken_at.is_some_and(|at| at <= due.at) || facts.is_healthy(actor, (due.seen, due.at), due.ttl)
        });
        let Some(due) = fair.map(|(_, due)| due.at).min() else { continue };
        if taken_at.is_none() && end <= due {
            continue;
        }
        judged += 1;
        require("L-4", taken_at.is_some_and(|at| at <= due), || {
            let late = taken_at.unwrap_or(end).since(due);
            format!(
                "{} died in term {}, and {late:?} after it was due nobody had taken over",
                death.actor, dead.term
            )
        })?;
    }
    Ok(judged)
}

/// A candidate's duty to take over.
struct Due {
    /// It first received the last beat at this moment,
    seen: Instant,
    /// and must have taken over by this one, if it was healthy in between.
    at: Instant,
    ttl: Duration,
}

/// `None` if `actor` is no candidate, or never saw the holder.
fn due_by(facts: &Facts<'_>, actor: &str, grant: Grant) -> Option<Due> {
    let (own_ttl, poll) = facts.events_of(actor).find_map(|(_, event)| match event.what {
        What::Campaigning { ttl_ms, poll_ms } => {
            Some((Duration::from_millis(ttl_ms), Duration::from_millis(poll_ms)))
        }
        _ => None,
    })?;
    let (_, seen) = facts.last_beat_received(actor, grant)?;
    let of = facts.writes.iter().find(|write| write.put.record.grant == Some(grant));
    let ttl = of.map_or(Duration::ZERO, |write| write.put.record.ttl()).max(own_ttl);
    Some(Due { seen, at: seen.plus(lengthened(ttl)).plus(poll).plus(SLACK), ttl })
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, handover, held, takeover};
    use super::*;
    use crate::history::History;

    fn check(history: &History) -> Result<(), Violation> {
        super::check(&Facts::of(history)).map(drop)
    }

    #[test]
    fn accepts_a_takeover_in_time_and_lives_without_deaths() {
        assert_eq!(check(&takeover()), Ok(()));
        assert_eq!(check(&handover()), Ok(()));
    }

    #[test]
    fn rejects_a_takeover_that_comes_too_late() {
        let mut story = Story::default();
        story.campaigns(0, "a").campaigns(0, "b").leads(1, 2, "a", 1).sees(3, 4, "b", held(1, 0));
        story.event(5, "a", What::Died).takes(4000, 4001, "b", 2, held(1, 0));
        assert_eq!(check(&story.history).unwrap_err().rule, "L-4");
    }

    #[test]
    fn rejects_candidates_that_never_take_over() {
        let mut story = Story::default();
        story.campaigns(0, "a").campaigns(0, "b").leads(1, 2, "a", 1).sees(3, 4, "b", held(1, 0));
        story.event(5, "a", What::Died).sees(9000, 9001, "b", held(1, 0));
        assert!(check(&story.history).is_err());
    }

    #[test]
    fn accepts_a_history_that_ends_before_the_takeover_is_due() {
        let mut story = Story::default();
        story.campaigns(0, "a").campaigns(0, "b").leads(1, 2, "a", 1).sees(3, 4, "b", held(1, 0));
        story.event(5, "a", What::Died).sees(900, 901, "b", held(1, 0));
        assert_eq!(check(&story.history), Ok(()));
    }

    #[test]
    fn a_takeover_in_time_counts_also_by_a_candidate_that_leaves_soon_after() {
        let mut story = Story::default();
        story.campaigns(0, "a").campaigns(0, "b").leads(1, 2, "a", 1).sees(3, 4, "b", held(1, 0));
        story.event(5, "a", What::Died).takes(1010, 1011, "b", 2, held(1, 0)).event(1100, "b", What::Left);
        assert_eq!(super::check(&Facts::of(&story.history)), Ok(1));
    }

    #[test]
    fn excuses_candidates_that_had_no_fair_chance() {
        let late = |excuse: &dyn Fn(&mut Story)| {
            let mut story = Story::default();
            story.campaigns(0, "a").campaigns(0, "b").leads(1, 2, "a", 1).sees(3, 4, "b", held(1, 0));
            story.event(5, "a", What::Died);
            excuse(&mut story);
            story.takes(4000, 4001, "b", 2, held(1, 0));
            check(&story.history)
        };
        assert!(late(&|_| {}).is_err());
        assert_eq!(
            late(&|story| {
                story.event(500, "b", What::Paused);
            }),
            Ok(())
        );
        assert_eq!(
            late(&|story| {
                story.event(500, "b", What::Left);
            }),
            Ok(())
        );
        assert_eq!(
            late(&|story| {
                story.fails_to_see(500, 501, "b");
            }),
            Ok(())
        );
        assert_eq!(
            late(&|story| {
                story.sees(500, 900, "b", held(1, 0));
            }),
            Ok(()),
            "a slow call"
        );
    }
}

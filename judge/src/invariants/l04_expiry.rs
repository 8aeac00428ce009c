//! **L-4 expiry**: a dead holder's lease is taken within ttl·(1+ρ) and one poll by exactly one of N.
//!
//! 'Exactly one' is L-1 and L-2; this checks the time, from when each candidate received the last beat. Candidates whose
//! calls failed or were slow, or that did not run, are excused.

use std::time::Duration;

use lease_core::deadline::lengthened;
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
        let due = facts.actors().filter(|actor| *actor != death.actor);
        let Some(due) = due.filter_map(|actor| due_by(facts, actor, dead.term.grant)).min() else { continue };
        let taken_at = facts.writes.iter().find(|write| {
            write.put.change == Change::Acquire
                && write.put.record.epoch > dead.term.epoch
                && write.may_be_applied()
        });
        let taken_at = taken_at.map(|write| write.sent_at);
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

/// The moment by which `actor` must have taken over from `grant`; `None` if it had no fair chance.
fn due_by(facts: &Facts<'_>, actor: &str, grant: Grant) -> Option<Instant> {
    let (own_ttl, poll) = facts.events_of(actor).find_map(|(_, event)| match event.what {
        What::Campaigning { ttl_ms, poll_ms } => {
            Some((Duration::from_millis(ttl_ms), Duration::from_millis(poll_ms)))
        }
        _ => None,
    })?;
    let seen = last_beat_received(facts, actor, grant)?;
    let of = facts.writes.iter().find(|write| write.put.record.grant == Some(grant));
    let ttl = of.map_or(Duration::ZERO, |write| write.put.record.ttl()).max(own_ttl);
    let due = seen.plus(lengthened(ttl)).plus(poll).plus(SLACK);
    facts.is_healthy(actor, (seen, due), ttl).then_some(due)
}

/// The moment at which `actor` first received the last beat of `grant` that it ever saw.
fn last_beat_received(facts: &Facts<'_>, actor: &str, grant: Grant) -> Option<Instant> {
    let mut last = None;
    for (_, event) in facts.events_of(actor) {
        let view = match &event.what {
            What::Answered { answer, .. } => answer.view(),
            What::Shown { view } => Some(view),
            _ => None,
        };
        let Some(record) = view.and_then(|view| view.record.as_ref()) else { continue };
        if record.grant == Some(grant) && last.is_none_or(|(beat, _)| beat != record.beat) {
            last = Some((record.beat, event.at));
        }
    }
    last.map(|(_, at)| at)
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

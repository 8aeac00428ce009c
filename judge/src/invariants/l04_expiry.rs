//! **L-4 expiry**: a dead holder's lease is taken within ttl·(1+ρ) and one poll by exactly one of N.
//!
//! 'Exactly one' is L-1 and L-2; this checks the time, from when each candidate received the last beat.

use std::time::Duration;

use lease_core::deadline::lengthened;
use lease_core::{Change, Instant};

use super::{Violation, require};
use crate::history::{History, What};

/// What a loaded machine may add. The failover bars (`leasehold-lab`) are stricter; this catches a wrong rule.
pub const SLACK: Duration = Duration::from_secs(2);

/// Judges a history in which a holder died while it led and candidates went on.
pub fn check(history: &History) -> Result<(), Violation> {
    let end = history.events.iter().map(|event| event.at).max().unwrap_or(Instant::ZERO);
    let spans = history.spans();
    let writes = history.writes();
    for (died, at) in deaths(history) {
        let last = spans.iter().rfind(|span| span.begun_at <= at);
        let Some(dead) =
            last.filter(|span| span.actor == died && span.ended.is_none_or(|(ended, _)| ended >= at))
        else {
            continue;
        };
        let due = history.events.iter().filter_map(|event| match &event.what {
            What::Campaigning { ttl_ms, poll_ms } if event.actor != died => {
                let died_too = deaths(history).any(|(actor, _)| actor == event.actor);
                let seen = last_beat_received(history, &event.actor, dead.term.grant)?;
                let ttl = Duration::from_millis(*ttl_ms).max(ttl_of(history, dead.term.grant));
                let poll = Duration::from_millis(*poll_ms);
                (!died_too).then(|| seen.plus(lengthened(ttl)).plus(poll).plus(SLACK))
            }
            _ => None,
        });
        let Some(due) = due.min() else { continue };
        let taken_at = writes.iter().find(|write| {
            write.put.change == Change::Acquire
                && write.put.record.epoch > dead.term.epoch
                && write.may_be_applied()
        });
        let taken_at = taken_at.map(|write| write.sent_at);
        let in_time = taken_at.map_or(end <= due, |at| at <= due);
        require("L-4", in_time, || {
            let late = taken_at.unwrap_or(end).since(due);
            format!("{died} died in term {}, and {late:?} after it was due nobody had taken over", dead.term)
        })?;
    }
    Ok(())
}

fn deaths(history: &History) -> impl Iterator<Item = (&str, Instant)> {
    let died = history.events.iter().filter(|event| event.what == What::Died);
    died.map(|event| (event.actor.as_str(), event.at))
}

fn ttl_of(history: &History, grant: lease_core::Grant) -> Duration {
    let writes = history.writes();
    let of = writes.iter().find(|write| write.put.record.grant == Some(grant));
    of.map_or(Duration::ZERO, |write| write.put.record.ttl())
}

/// When `actor` first received the last beat of `grant` that it ever saw.
fn last_beat_received(history: &History, actor: &str, grant: lease_core::Grant) -> Option<Instant> {
    let mut last = None;
    for event in history.events.iter().filter(|event| event.actor == actor) {
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
}

//! **L-9 no false loss**: a holder whose every round trip takes at most ttl/4 keeps its term.

use std::collections::BTreeMap;

use lease_core::{Instant, Loss};

use super::{Violation, require};
use crate::history::{Answer, History, What};

/// Judges a history. A holder that a signal had stopped may lose its term.
pub fn check(history: &History) -> Result<(), Violation> {
    for span in history.spans() {
        let Some((ended_at, Loss::Expired)) = span.ended else { continue };
        // Not of its last deadline: by that of a long term, slow calls would pass for quick ones.
        let ttl = span.first_deadline.since(span.begun_at);
        let during = history
            .events
            .iter()
            .filter(|event| event.actor == span.actor && event.at >= span.begun_at && event.at <= ended_at);
        let mut sent: BTreeMap<u64, Instant> = BTreeMap::new();
        let mut healthy = true;
        for event in during {
            match &event.what {
                What::Sent { call, .. } => drop(sent.insert(*call, event.at)),
                What::Answered { call, answer } => {
                    let failed = matches!(answer, Answer::NotApplied | Answer::Unknown);
                    let slow = sent.remove(call).is_some_and(|at| event.at.since(at) > ttl / 4);
                    healthy &= !failed && !slow;
                }
                What::Dropped { .. } | What::Paused | What::Died => healthy = false,
                _ => {}
            }
        }
        healthy &= sent.values().all(|at| ended_at.since(*at) <= ttl / 4);
        require("L-9", !healthy, || {
            format!(
                "{} lost term {} although no round trip failed or took more than ttl/4",
                span.actor, span.term
            )
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, handover, takeover};
    use super::*;

    #[test]
    fn accepts_terms_that_end_otherwise() {
        assert_eq!(check(&handover()), Ok(()));
        assert_eq!(check(&takeover()), Ok(()));
    }

    #[test]
    fn rejects_a_healthy_holder_that_expires() {
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).renews(300, 310, "a", 1, 1).ends(1298, "a", 1, Loss::Expired);
        assert_eq!(check(&story.history).unwrap_err().rule, "L-9");
    }

    #[test]
    fn accepts_the_loss_after_failed_or_slow_calls() {
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).fails_to_see(300, 310, "a").ends(998, "a", 1, Loss::Expired);
        assert_eq!(check(&story.history), Ok(()));
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).renews(300, 900, "a", 1, 1).ends(1298, "a", 1, Loss::Expired);
        assert_eq!(check(&story.history), Ok(()));
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).renews(300, 310, "a", 1, 1).renews(600, 610, "a", 1, 2);
        story.renews(900, 1300, "a", 1, 3).ends(1898, "a", 1, Loss::Expired);
        assert_eq!(check(&story.history), Ok(()), "however long it has lasted by then");
    }

    #[test]
    fn accepts_the_loss_of_one_that_was_stopped() {
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).event(10, "a", What::Paused).ends(5000, "a", 1, Loss::Expired);
        assert_eq!(check(&story.history), Ok(()));
    }
}

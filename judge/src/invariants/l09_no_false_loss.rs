//! **L-9 no false loss**: a holder whose every round trip takes at most ttl/4 keeps its term.

use lease_core::Loss;

use super::{Violation, require};
use crate::facts::Facts;

/// A holder that did not run for a while may lose its term: stopped by a signal, or starved by the machine. Returns
/// how many terms it has judged.
pub(super) fn check(facts: &Facts<'_>) -> Result<usize, Violation> {
    for span in &facts.spans {
        let Some((ended_at, Loss::Expired)) = span.ended else { continue };
        // Not of its last deadline: by that of a long term, slow calls would pass for quick ones.
        let ttl = span.first_deadline.since(span.begun_at);
        let healthy = facts.is_healthy(&span.actor, (span.begun_at, ended_at), ttl);
        require("L-9", !healthy, || {
            format!(
                "{} lost term {} although no round trip failed or took more than ttl/4",
                span.actor, span.term
            )
        })?;
    }
    Ok(facts.spans.len())
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, at, deadline, handover, takeover, term};
    use super::*;
    use crate::history::{History, What};

    fn check(history: &History) -> Result<(), Violation> {
        super::check(&Facts::of(history)).map(drop)
    }

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

    #[test]
    fn accepts_the_loss_of_one_that_the_machine_let_starve() {
        let loss = |claims: &[(u64, u64)]| {
            let mut story = Story::default();
            story.leads(0, 1, "a", 1);
            for (asked, gap_ms) in claims {
                let (from, until) = (at(*asked), deadline(0));
                story.event(*asked, "a", What::Claimed { term: term(1), from, until, gap_ms: *gap_ms });
            }
            story.ends(998, "a", 1, Loss::Expired);
            check(&story.history)
        };
        let steady: Vec<_> = (1..19).map(|number| (number * 50, 5)).collect();
        assert!(loss(&steady).is_err(), "it ran all the time");
        assert_eq!(loss(&[&steady[..], &[(950, 300)]].concat()), Ok(()), "not once for 300 ms");
        assert_eq!(loss(&steady[..10]), Ok(()), "not any more after half of the time");
    }
}

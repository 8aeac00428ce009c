//! **L-1 mutual exclusion**: intervals [granted, D) of different terms never overlap, on one host's clock.

use super::{Violation, require};
use crate::facts::Facts;

/// A pre-emptible term may be overtaken (F-3): its effects are fenced.
pub(super) fn check(facts: &Facts<'_>) -> Result<usize, Violation> {
    let spans = &facts.spans;
    for (index, earlier) in spans.iter().enumerate() {
        for later in &spans[index + 1..] {
            let apart = earlier.false_at <= later.begun_at
                || earlier.term == later.term && earlier.actor == later.actor;
            require("L-1", apart || earlier.preemptible, || {
                let overlap = earlier.false_at.since(later.begun_at);
                format!(
                    "{} in term {} and {} in term {} led at once, for {overlap:?}",
                    earlier.actor, earlier.term, later.actor, later.term
                )
            })?;
        }
    }
    Ok(spans.len())
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
    fn accepts_terms_that_follow_each_other() {
        assert_eq!(check(&handover()), Ok(()));
        assert_eq!(check(&takeover()), Ok(()));
    }

    #[test]
    fn rejects_a_term_that_begins_before_the_last_deadline() {
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).leads(900, 901, "b", 2);
        assert_eq!(check(&story.history).unwrap_err().rule, "L-1");
    }

    #[test]
    fn rejects_an_overlap_that_an_extension_makes() {
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).renews(900, 901, "a", 1, 1).leads(1100, 1101, "b", 2);
        assert!(check(&story.history).is_err());
    }

    #[test]
    fn rejects_one_term_in_two_processes() {
        let mut story = Story::default();
        story.leads(0, 1, "a", 1);
        story.event(10, "b", What::Begun { term: term(1), deadline: deadline(10) });
        assert!(check(&story.history).is_err());
    }

    #[test]
    fn accepts_the_successor_of_one_that_was_killed() {
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).event(10, "a", What::Died).leads(20, 21, "b", 2);
        assert_eq!(check(&story.history), Ok(()), "who is dead does not act; L-3 judges the haste");
    }

    #[test]
    fn a_claim_counts_to_the_last_known_deadline_unless_the_term_was_ended_before() {
        let claimed = |story: &mut Story, until| {
            let (from, until) = (at(5), at(until));
            story.event(6, "a", What::Claimed { term: term(1), from, until, gap_ms: 5 });
        };
        let mut story = Story::default();
        story.leads(0, 1, "a", 1);
        claimed(&mut story, 1100);
        story.leads(1050, 1051, "b", 2);
        assert!(check(&story.history).is_err(), "the outside saw a later deadline than the step function");
        let mut story = Story::default();
        story.leads(0, 1, "a", 1);
        claimed(&mut story, 900);
        story.releases(40, 41, "a", 1).leads(50, 51, "b", 2);
        assert_eq!(check(&story.history), Ok(()));
        story.event(61, "a", What::Claimed { term: term(1), from: at(60), until: at(900), gap_ms: 5 });
        assert!(check(&story.history).is_err(), "it was still true for the other thread");
    }

    #[test]
    fn rejects_an_overlap_also_with_a_term_that_is_not_the_one_before() {
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).leads(200, 201, "b", 2).releases(300, 301, "b", 2).leads(900, 901, "c", 3);
        story.history.events.retain(|event| event.actor != "b");
        assert!(check(&story.history).is_err());
    }
}

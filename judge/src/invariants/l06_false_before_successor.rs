//! **L-6 false before successor**: a term's own check is false before its successor's grant, which lies after the
//! sending of the acquiring write; and before its own release is sent, which comes only after the work returned (H-1).

use lease_core::Change;

use super::{Violation, require};
use crate::facts::{Facts, Span};
use crate::history::What;

/// A pre-emptible term may be overtaken (F-3). Returns how many acquisitions and releases it has judged.
pub(super) fn check(facts: &Facts<'_>) -> Result<usize, Violation> {
    let (spans, events) = (&facts.spans, &facts.history.events);
    let mut judged = 0;
    for event in events {
        if let What::StillTrue { term } = &event.what {
            let preemptible = spans.iter().any(|span| span.term == *term && span.preemptible);
            require("L-6", preemptible, || {
                format!(
                    "is_leader_now() of term {term} was still true when {} began a later one",
                    event.actor
                )
            })?;
        }
    }
    for write in &facts.writes {
        match write.put.change {
            Change::Acquire if write.is_written() => {
                let Some(granted) = write.put.record.term() else { continue };
                judged += 1;
                let earlier = |span: &&Span| {
                    span.term.epoch < granted.epoch && !span.preemptible && span.begun_at < write.sent_at
                };
                for old in spans.iter().filter(earlier) {
                    require("L-6", old.false_at <= write.sent_at, || {
                        let late = old.false_at.since(write.sent_at);
                        format!(
                            "term {} of {} was true for {late:?} after the write that granted {granted} was sent",
                            old.term, old.actor
                        )
                    })?;
                }
            }
            Change::Release => {
                let Some(own) = write.put.expected.record.as_ref().and_then(|record| record.term()) else {
                    continue;
                };
                let of_own = |what: &What| matches!(what, What::Begun { term, .. } if *term == own);
                let before = facts.events_of(write.actor).take_while(|(place, _)| *place < write.index);
                let since: Vec<_> =
                    before.map(|(_, event)| &event.what).skip_while(|what| !of_own(what)).collect();
                if since.is_empty() {
                    continue;
                }
                judged += 1;
                require("L-6", since.contains(&&What::WorkReturned), || {
                    format!("{} released term {own} before its work had returned (H-1)", write.actor)
                })?;
                let ended = since.iter().any(|what| matches!(what, What::Ended { term, .. } if *term == own));
                require("L-6", ended, || {
                    format!("{} released term {own} while its own check was still true (H-1)", write.actor)
                })?;
            }
            _ => {}
        }
    }
    Ok(judged)
}

#[cfg(test)]
mod tests {
    use lease_core::Loss;

    use super::super::story::{Story, handover, held, record, takeover, term};
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
    fn rejects_a_grant_before_the_old_deadline() {
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).takes(990, 1010, "b", 2, held(1, 0));
        assert_eq!(check(&story.history).unwrap_err().rule, "L-6");
    }

    #[test]
    fn rejects_a_release_before_the_work_returned() {
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).ends(10, "a", 1, Loss::Returned);
        story.puts((11, 12), "a", Change::Release, held(1, 0), record(None, 1, 1), Answer::Written);
        assert!(check(&story.history).is_err());
    }

    #[test]
    fn rejects_a_release_before_the_local_false() {
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).event(10, "a", What::WorkReturned);
        story.puts((11, 12), "a", Change::Release, held(1, 0), record(None, 1, 1), Answer::Written);
        story.ends(13, "a", 1, Loss::Returned);
        assert!(check(&story.history).is_err());
    }

    #[test]
    fn rejects_a_handle_that_was_still_true() {
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).event(10, "b", What::StillTrue { term: term(1) });
        assert!(check(&story.history).is_err());
    }
}

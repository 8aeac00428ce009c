//! **L-8 unknown is neither held nor lost**: every deadline rests on an *acknowledged* write of its term and counts
//! from that write's sending (T-1, U-2); an acquisition of unknown outcome is adopted, never doubled; and no
//! transport error ends a term before its deadline (U-1).

use lease_core::{Change, Grant, Instant, Loss, Term};

use super::{Violation, require};
use crate::facts::Facts;
use crate::history::{HistoryEntry, View, What};

/// Returns how many deadlines and ends of terms it has judged.
pub(super) fn check(facts: &Facts<'_>) -> Result<usize, Violation> {
    let mut judged = 0;
    for (place, event) in facts.history.events.iter().enumerate() {
        let actor = event.actor.as_str();
        match &event.what {
            What::Begun { term, deadline }
            | What::Extended { term, deadline }
            | What::Claimed { term, until: deadline, .. } => {
                judged += 1;
                rests_on_an_acknowledged_write(facts, (place, actor), *term, *deadline)?;
            }
            What::Ended { term, loss } => {
                judged += usize::from(has_evidence(facts, (place, event), *term, *loss)?);
            }
            What::Sent { put: Some(put), .. } if put.change == Change::Acquire && facts.is_elector(actor) => {
                let Some(own) = put.expected.grant().filter(|grant| put.record.grant != Some(*grant)) else {
                    continue;
                };
                let last = unresolved(facts, (place, actor), own);
                require("L-8", last.is_none_or(|deadline| deadline <= event.at), || {
                    format!(
                        "{actor} acquired again over its own unconfirmed grant {own}: doubled, not adopted"
                    )
                })?;
            }
            _ => {}
        }
    }
    Ok(judged)
}

fn rests_on_an_acknowledged_write(
    facts: &Facts<'_>,
    (place, actor): (usize, &str),
    term: Term,
    deadline: Instant,
) -> Result<(), Violation> {
    let acknowledged = facts.writes_of(actor).filter(|write| {
        write.put.record.grant == Some(term.grant)
            && write.is_written()
            && write.answered_index.is_some_and(|answered| answered < place)
    });
    let rests_on = acknowledged.map(|write| write.lasts_until()).max();
    require("L-8", rests_on.is_some(), || {
        format!("{actor} led in term {term} without any acknowledged write of it")
    })?;
    let until = rests_on.unwrap_or(Instant::ZERO);
    require("L-8", deadline <= until, || {
        format!(
            "{actor}'s deadline in term {term} is {:?} later than its last acknowledged write, counted from the \
            sending, allows",
            deadline.since(until)
        )
    })
}

/// Whether the term's beginning was seen, so that there is something to judge.
fn has_evidence(
    facts: &Facts<'_>,
    (place, event): (usize, &HistoryEntry),
    term: Term,
    loss: Loss,
) -> Result<bool, Violation> {
    let actor = event.actor.as_str();
    let of_term = |what: &What| matches!(what, What::Begun { term: begun, .. } if *begun == term);
    let before = facts.events_of(actor).map(|(at, event)| (at, &event.what));
    let mut during: Vec<_> = before.rev().skip_while(|(at, _)| *at >= place).map(|(_, what)| what).collect();
    let Some(begun) = during.iter().position(|what| of_term(what)) else { return Ok(false) };
    during.truncate(begun + 1);
    let showed =
        |test: &dyn Fn(&View) -> bool| during.iter().filter_map(|what| answered_view(what)).any(test);
    let evidence = match loss {
        Loss::Superseded | Loss::Revoked => {
            showed(&|view| view.record.is_some() && view.grant() != Some(term.grant))
        }
        Loss::RegisterGone => showed(&|view| view.record.is_none()),
        Loss::Expired | Loss::Silent => {
            during.iter().filter_map(|what| deadline_in(what)).max() <= Some(event.at)
        }
        Loss::Returned => during.contains(&&What::WorkReturned),
        Loss::FenceRefused | Loss::Abandoned | Loss::StoreGone => true,
    };
    require("L-8", evidence, || format!("{actor} ended term {term} ({loss:?}) without evidence"))?;
    Ok(true)
}

fn answered_view(what: &What) -> Option<&View> {
    match what {
        What::Answered { answer, .. } => answer.view(),
        _ => None,
    }
}

fn deadline_in(what: &What) -> Option<Instant> {
    match what {
        What::Begun { deadline, .. } | What::Extended { deadline, .. } => Some(*deadline),
        _ => None,
    }
}

/// Until when `actor`'s acquisition of `grant` may be adopted, if it began no term so far.
fn unresolved(facts: &Facts<'_>, (place, actor): (usize, &str), grant: Grant) -> Option<Instant> {
    let before = facts.events_of(actor).take_while(|(at, _)| *at < place);
    let begun = before.map(|(_, event)| &event.what);
    let begun = { begun }.any(|what| matches!(what, What::Begun { term, .. } if term.grant == grant));
    let attempts = facts
        .writes_of(actor)
        .filter(|write| write.put.change == Change::Acquire && write.put.record.grant == Some(grant));
    if begun { None } else { attempts.map(|write| write.lasts_until()).max() }
}

#[cfg(test)]
mod tests {
    use super::super::story::{Story, at, deadline, free, handover, held, record, takeover, term};
    use super::*;
    use crate::history::{Answer, History};

    fn unknown(_: View) -> Answer {
        Answer::Unknown
    }

    fn check(history: &History) -> Result<(), Violation> {
        super::check(&Facts::of(history)).map(drop)
    }

    #[test]
    fn accepts_clean_terms() {
        assert_eq!(check(&handover()), Ok(()));
        assert_eq!(check(&takeover()), Ok(()));
    }

    #[test]
    fn accepts_an_adopted_acquisition() {
        let mut story = Story::default();
        story.puts((0, 10), "a", Change::Acquire, free(0), record(Some(term(1)), 1, 0), unknown);
        story.sees(11, 12, "a", held(1, 0));
        story.puts((13, 14), "a", Change::Renew, held(1, 0), record(Some(term(1)), 1, 1), Answer::Written);
        story.event(14, "a", What::Begun { term: term(1), deadline: deadline(13) });
        assert_eq!(check(&story.history), Ok(()));
    }

    #[test]
    fn rejects_an_unknown_acquisition_that_is_held() {
        let mut story = Story::default();
        story.puts((0, 10), "a", Change::Acquire, free(0), record(Some(term(1)), 1, 0), unknown);
        story.sees(11, 12, "a", held(1, 0));
        story.event(12, "a", What::Begun { term: term(1), deadline: deadline(0) });
        assert_eq!(check(&story.history).unwrap_err().rule, "L-8");
    }

    #[test]
    fn rejects_an_unknown_acquisition_that_is_doubled() {
        let mut story = Story::default();
        story.campaigns(0, "a");
        story.puts((0, 10), "a", Change::Acquire, free(0), record(Some(term(1)), 1, 0), unknown);
        story.sees(11, 12, "a", held(1, 0)).takes(13, 14, "a", 2, held(1, 0));
        assert!(check(&story.history).is_err());
    }

    #[test]
    fn rejects_a_deadline_that_counts_from_the_reply() {
        let mut story = Story::default();
        story.leads(0, 1, "a", 1);
        let beat = record(Some(term(1)), 1, 1);
        story.puts((300, 500), "a", Change::Renew, held(1, 0), beat, Answer::Written);
        story.event(500, "a", What::Extended { term: term(1), deadline: deadline(500) });
        assert!(check(&story.history).is_err());
    }

    #[test]
    fn rejects_a_deadline_that_a_read_moved() {
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).sees(300, 301, "a", held(1, 0));
        story.event(301, "a", What::Extended { term: term(1), deadline: deadline(300) });
        assert!(check(&story.history).is_err());
    }

    #[test]
    fn rejects_a_term_that_an_error_ended() {
        for loss in [Loss::Superseded, Loss::Revoked, Loss::RegisterGone, Loss::Expired, Loss::Returned] {
            let mut story = Story::default();
            story.leads(0, 1, "a", 1).fails_to_see(300, 301, "a").ends(301, "a", 1, loss);
            assert!(check(&story.history).is_err(), "{loss:?}");
        }
    }

    #[test]
    fn accepts_a_term_that_a_reading_or_the_deadline_ended() {
        let mut story = Story::default();
        story.leads(0, 1, "a", 1).sees(300, 301, "a", held(2, 0)).ends(301, "a", 1, Loss::Superseded);
        assert_eq!(check(&story.history), Ok(()));
        let mut story = Story::default();
        story.leads(0, 1, "a", 1);
        assert!(at(998) >= deadline(0));
        story.ends(998, "a", 1, Loss::Expired);
        assert_eq!(check(&story.history), Ok(()));
    }

    #[test]
    fn rejects_a_claim_past_the_deadline() {
        let claim = |until| {
            let mut story = Story::default();
            story.leads(0, 1, "a", 1);
            story.event(3, "a", What::Claimed { term: term(1), from: at(2), until, gap_ms: 5 });
            check(&story.history)
        };
        assert_eq!(claim(deadline(0)), Ok(()));
        assert!(claim(deadline(1)).is_err());
    }
}

//! **L-3 no early expiry**: nobody takes over before its own clock has advanced T-2's wait since it *received* the
//! first observation of the present (lineage, grant, beat), and nobody takes a register from absence.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use lease_core::internal::deadline::lengthened;
use lease_core::{Change, Instant};

use super::{Violation, require};
use crate::facts::Facts;
use crate::history::{View, What};

/// Judges the acquisitions of electors, not those that a case writes by hand.
pub(super) fn check(facts: &Facts<'_>) -> Result<usize, Violation> {
    let mut judged = 0;
    let mut ttls: BTreeMap<&str, Duration> = BTreeMap::new();
    // What each actor saw last, since when it has seen that beat, and the place of the question.
    let mut sighted: BTreeMap<&str, (&View, Instant, usize)> = BTreeMap::new();
    let mut asked: HashMap<(&str, u64), usize> = HashMap::new();
    // A watch may show things out of order, so it counts when it first showed a beat.
    let mut watched: HashMap<_, (&View, Instant)> = HashMap::new();
    for (place, event) in facts.history.events.iter().enumerate() {
        let actor = event.actor.as_str();
        if let What::Sent { call, .. } = &event.what {
            asked.insert((actor, *call), place);
        }
        match &event.what {
            What::Campaigning { ttl_ms, .. } => {
                ttls.insert(actor, Duration::from_millis(*ttl_ms));
            }
            What::Answered { call, answer } => {
                let Some(view) = answer.view() else { continue };
                let asked = asked.get(&(actor, *call)).copied().unwrap_or(place);
                match sighted.get_mut(actor) {
                    // Overtaken by the answer to a later question: old news start no wait anew.
                    Some((.., newest)) if asked < *newest => {}
                    Some((last, _, newest)) if last.beat() == view.beat() => (*last, *newest) = (view, asked),
                    _ => drop(sighted.insert(actor, (view, event.at, asked))),
                }
            }
            What::Shown { view } => {
                let first = watched.get(&(actor, view.beat())).map_or(event.at, |(_, first)| *first);
                watched.insert((actor, view.beat()), (view, first));
            }
            What::Sent { put: Some(put), .. } if put.change == Change::Acquire => {
                let Some(own_ttl) = ttls.get(actor) else { continue };
                judged += 1;
                // The store's own answer, whatever the candidate made of it.
                let last = sighted.get(actor).map(|(view, since, _)| (*view, *since));
                let watched_at = |view: &View| watched.get(&(actor, view.beat())).copied();
                let shown = [last, watched_at(&put.expected)];
                let views: Vec<&View> = shown.into_iter().flatten().map(|(view, _)| view).collect();
                // Kubernetes' creation is two writes of one tag, and the second stamps the register (0031).
                let exact = views.iter().find(|view| view.register() == put.expected.register());
                let same_tag = || views.iter().find(|view| view.tag() == put.expected.tag());
                let shown = exact.or_else(same_tag).copied().unwrap_or(&put.expected);
                let record = shown.record.as_ref();
                let record = record.ok_or_else(|| Violation {
                    rule: "L-3",
                    what: format!("{actor} acquired from absence (T-5)"),
                })?;
                require("L-3", record.sealed.is_none(), || format!("{actor} took a sealed register (M-1)"))?;
                let foreign = record.lineage != shown.lineage;
                if !foreign
                    && (record.grant.is_none() || record.preemptible || record.grant == put.record.grant)
                {
                    continue;
                }
                let wait = if foreign { record.max_ttl().max(*own_ttl) } else { record.ttl().max(*own_ttl) };
                let last = last.filter(|(view, _)| view.beat() == shown.beat());
                let since = [last, watched_at(shown)].into_iter().flatten();
                let waited = since.map(|(_, since)| event.at.since(since)).max().unwrap_or_default();
                require("L-3", waited >= lengthened(wait), || {
                    format!(
                        "{actor} took over from {:?} (foreign stamp: {foreign}) {waited:?} after it first saw \
                        the beat; T-2 says {:?}",
                        record.holder,
                        lengthened(wait)
                    )
                })?;
            }
            _ => {}
        }
    }
    Ok(judged)
}

#[cfg(test)]
mod tests {
    use lease_core::Lineage;

    use super::super::story::{Story, free, handover, held, record, takeover, term};
    use super::*;
    use crate::history::{Answer, History};

    fn check(history: &History) -> Result<(), Violation> {
        super::check(&Facts::of(history)).map(drop)
    }

    #[test]
    fn accepts_a_full_wait_and_a_free_register() {
        assert_eq!(check(&takeover()), Ok(()));
        assert_eq!(check(&handover()), Ok(()));
    }

    #[test]
    fn accepts_at_once_what_a_watch_shows_stamped_after_a_read_that_came_before_the_stamp() {
        let stamped = free(1);
        let mut created = stamped.clone();
        created.record.as_mut().unwrap().lineage = Lineage("absent".into());
        let mut story = Story::default();
        story.campaigns(0, "b").sees(0, 1, "b", created.clone());
        // A hint knows of no floor, and the candidate of the greatest that it ever saw.
        let shown = View { floor: 7, ..stamped.clone() };
        story.event(2, "b", What::Shown { view: shown }).takes(3, 4, "b", 2, stamped.clone());
        assert_eq!(check(&story.history), Ok(()));
        // A core that only believes the stamp to be there is seen.
        let mut story = Story::default();
        story.campaigns(0, "b").sees(0, 1, "b", created).takes(3, 4, "b", 2, stamped);
        assert!(check(&story.history).is_err());
    }

    #[test]
    fn rejects_a_wait_that_a_beat_should_have_started_anew() {
        let mut story = Story::default();
        story.campaigns(0, "b").sees(0, 1, "b", held(1, 0)).sees(900, 901, "b", held(1, 1));
        story.takes(1100, 1101, "b", 2, held(1, 1));
        assert_eq!(check(&story.history).unwrap_err().rule, "L-3");
    }

    #[test]
    fn accepts_a_wait_through_an_answer_that_a_later_calls_answer_has_overtaken() {
        let seen = |call, view| What::Answered { call, answer: Answer::Seen(view) };
        let overtaken = |first, second| {
            let mut story = Story::default();
            story.campaigns(0, "b").sees(0, 1, "b", held(1, 1));
            story.event(2, "b", What::Sent { call: 11, put: None }).event(
                3,
                "b",
                What::Sent { call: 12, put: None },
            );
            story.event(4, "b", seen(first, held(1, first))).event(900, "b", seen(second, held(1, second)));
            story.sees(950, 951, "b", held(1, 12)).takes(1100, 1101, "b", 2, held(1, 12));
            check(&story.history)
        };
        assert_eq!(overtaken(12, 11), Ok(()));
        assert!(overtaken(11, 12).is_err(), "in their order the second is news");
    }

    #[test]
    fn rejects_a_wait_from_the_sending_of_the_read() {
        let mut story = Story::default();
        story.campaigns(0, "b").sees(0, 500, "b", held(1, 0)).takes(1003, 1004, "b", 2, held(1, 0));
        assert!(check(&story.history).is_err());
    }

    #[test]
    fn rejects_a_takeover_that_saw_nothing_at_all() {
        let mut story = Story::default();
        story.campaigns(0, "b").takes(5000, 5001, "b", 2, held(1, 0));
        assert!(check(&story.history).is_err());
    }

    #[test]
    fn rejects_freedom_under_a_foreign_stamp_taken_at_once() {
        let mut foreign = free(1);
        foreign.lineage = Lineage("2".into());
        let mut story = Story::default();
        story.campaigns(0, "b").sees(0, 1, "b", foreign.clone()).takes(2, 3, "b", 2, foreign);
        assert!(check(&story.history).is_err());
    }

    #[test]
    fn rejects_an_acquisition_from_absence() {
        let absent = View { record: None, ..free(0) };
        let mut story = Story::default();
        story.campaigns(0, "b").sees(0, 1, "b", absent.clone());
        let acquired = record(Some(term(1)), 1, 0);
        story.puts((2, 3), "b", Change::Acquire, absent, acquired, Answer::Written);
        assert!(check(&story.history).is_err());
    }

    #[test]
    fn rejects_a_takeover_of_a_sealed_register() {
        let mut sealed = free(1);
        sealed.record.as_mut().unwrap().sealed = Some("elsewhere".into());
        let mut story = Story::default();
        story.campaigns(0, "b").sees(0, 1, "b", sealed.clone()).takes(2000, 2001, "b", 2, sealed);
        assert!(check(&story.history).is_err());
    }
}

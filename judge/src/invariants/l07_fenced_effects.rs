//! **L-7 fenced effects**: on a resource, no effect of an epoch comes after one of a greater epoch, and each effect that
//! was acknowledged is there: else the order of the others would prove nothing.

use std::collections::HashMap;

use lease_core::Term;

use super::{Violation, require};
use crate::facts::Facts;
use crate::history::{Effects, Outcome, What};

/// Judges each resource in its own order. Returns how many effects it has judged.
pub(super) fn check(facts: &Facts<'_>) -> Result<usize, Violation> {
    let resources = &facts.history.effects;
    for resource in resources {
        let tried = tried_on(facts, resource);
        in_order(resource, &tried)?;
        let mut ids: Vec<_> = resource.admitted.iter().map(|(_, id)| id.as_str()).collect();
        ids.sort();
        let doubled = ids.windows(2).find(|pair| pair[0] == pair[1]);
        require("L-7", doubled.is_none(), || {
            format!("on {}, effect {doubled:?} happened twice", resource.resource)
        })?;
        let mut acknowledged = tried.iter().filter(|(_, (_, outcome))| **outcome == Outcome::Written);
        let lost = acknowledged.find(|(id, _)| ids.binary_search(id).is_err());
        require("L-7", lost.is_none(), || {
            format!("on {}, the acknowledged effect {lost:?} is gone", resource.resource)
        })?;
    }
    Ok(resources.iter().map(|resource| resource.admitted.len()).sum())
}

/// The attempts that their actors told of, by id.
fn tried_on<'a>(facts: &Facts<'a>, on: &Effects) -> HashMap<&'a str, (Term, &'a Outcome)> {
    let tried = facts.history.events.iter().filter_map(|event| match &event.what {
        What::Effect { resource, id, term, outcome, .. } if *resource == on.resource => {
            Some((id.as_str(), (*term, outcome)))
        }
        _ => None,
    });
    tried.collect()
}

fn in_order(resource: &Effects, tried: &HashMap<&str, (Term, &Outcome)>) -> Result<(), Violation> {
    let name = &resource.resource;
    for pair in resource.admitted.windows(2) {
        let ((earlier, first), (later, second)) = (&pair[0], &pair[1]);
        require("L-7", earlier <= later, || {
            format!("on {name}, effect {second:?} of epoch {later} came after {first:?} of epoch {earlier}")
        })?;
    }
    let mut last: Option<(Term, &str)> = None;
    for (epoch, id) in &resource.admitted {
        let Some((term, _)) = tried.get(id.as_str()) else { continue };
        require("L-7", term.epoch == *epoch, || {
            format!("on {name}, effect {id:?} of term {term} has epoch {epoch}")
        })?;
        if let Some((before, first)) = last.replace((*term, id)).filter(|(last, _)| last.epoch == *epoch) {
            require("L-7", before.grant == term.grant, || {
                format!("on {name}, effects {first:?} and {id:?} are of two grants of epoch {epoch}")
            })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lease_core::{Grant, Instant, Term};

    use super::*;
    use crate::history::{Effects, History, HistoryEntry};

    fn effects(admitted: &[(u64, &str)]) -> History {
        let admitted = admitted.iter().map(|(epoch, id)| (*epoch, (*id).to_owned())).collect();
        History { effects: vec![Effects { resource: "outbox".into(), admitted }], ..History::default() }
    }

    fn check(history: &History) -> Result<(), Violation> {
        super::check(&Facts::of(history)).map(drop)
    }

    #[test]
    fn accepts_epochs_that_never_fall() {
        assert_eq!(check(&effects(&[(1, "a"), (1, "b"), (3, "c")])), Ok(()));
    }

    #[test]
    fn rejects_an_effect_of_an_earlier_epoch() {
        assert_eq!(check(&effects(&[(1, "a"), (3, "b"), (1, "c")])).unwrap_err().rule, "L-7");
    }

    #[test]
    fn rejects_a_doubled_effect() {
        assert!(check(&effects(&[(1, "a"), (1, "a")])).is_err());
    }

    fn tried(id: &str, epoch: u64, grant: u128, outcome: Outcome) -> HistoryEntry {
        let (resource, term) = ("outbox".into(), Term { epoch, grant: Grant(grant) });
        let what = What::Effect { resource, id: id.into(), term, sent: Instant::ZERO, outcome };
        HistoryEntry { at: Instant::ZERO, actor: "a".into(), what }
    }

    #[test]
    fn rejects_effects_of_two_grants_of_one_epoch() {
        let of = |grant| {
            let events = vec![tried("a", 1, 1, Outcome::Written), tried("b", 1, grant, Outcome::Written)];
            History { events, ..effects(&[(1, "a"), (1, "b")]) }
        };
        assert_eq!(check(&of(1)), Ok(()));
        assert!(check(&of(2)).is_err());
    }

    #[test]
    fn rejects_an_effect_under_another_epoch_than_its_terms() {
        let events = vec![tried("a", 2, 1, Outcome::Written)];
        assert!(check(&History { events, ..effects(&[(1, "a")]) }).is_err());
    }

    #[test]
    fn rejects_the_loss_of_an_acknowledged_effect() {
        let of = |outcome| {
            let events = vec![tried("a", 1, 1, Outcome::Written), tried("b", 1, 1, outcome)];
            History { events, ..effects(&[(1, "a")]) }
        };
        assert_eq!(check(&of(Outcome::Failed("no answer".into()))), Ok(()));
        assert_eq!(check(&of(Outcome::Refused)), Ok(()));
        assert!(check(&of(Outcome::Written)).is_err());
    }
}

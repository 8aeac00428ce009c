//! Which operations met which faults: what a campaign has shown, and what it hasn't.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use lease_core::{Change, Instant};
use serde::Serialize;

use crate::history::{History, What};

/// An operation that is sent so soon after a fault meets it as well.
const SOON: Duration = Duration::from_millis(500);

/// What an elector and its work do. Operators' changes aren't counted.
const OPERATIONS: [&str; 6] = ["observe", "init", "acquire", "renew", "release", "effect"];

/// How often each operation was under way when a fault came, or was sent soon after it; by fault, then by operation.
/// An operation that never met a fault is there with a zero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Met(BTreeMap<String, BTreeMap<&'static str, usize>>);

impl Met {
    /// Counts a further lease's history.
    pub fn add(&mut self, history: &History) {
        let operations = operations(history);
        // Where a campaign names no faults, those are told that the actors' own ends and stops show.
        let named = history.events.iter().any(|event| matches!(event.what, What::Fault { .. }));
        for event in &history.events {
            let name = match &event.what {
                What::Fault { name } => name,
                What::Died if !named => "death",
                What::Paused if !named => "standstill",
                _ => continue,
            };
            let never = || OPERATIONS.map(|operation| (operation, 0)).into();
            let met = self.0.entry(name.to_owned()).or_insert_with(never);
            // The store's faults are everybody's.
            let concerns = |actor: &str| event.actor == "store" || event.actor == actor;
            for operation in operations.iter().filter(|operation| concerns(operation.actor)) {
                if operation.sent <= event.at.plus(SOON) && event.at <= operation.ended {
                    *met.entry(operation.name).or_default() += 1;
                }
            }
        }
    }
}

struct Operation<'a> {
    actor: &'a str,
    name: &'static str,
    sent: Instant,
    ended: Instant,
}

fn operations(history: &History) -> Vec<Operation<'_>> {
    let mut operations = Vec::new();
    let mut open: BTreeMap<(&str, u64), usize> = BTreeMap::new();
    for event in &history.events {
        let (actor, at) = (event.actor.as_str(), event.at);
        match &event.what {
            What::Sent { call, put } => {
                let name = match put.as_ref().map(|put| put.change) {
                    None => "observe",
                    Some(Change::Init) => "init",
                    Some(Change::Acquire) => "acquire",
                    Some(Change::Renew) => "renew",
                    Some(Change::Release) => "release",
                    Some(_) => continue,
                };
                open.insert((actor, *call), operations.len());
                operations.push(Operation { actor, name, sent: at, ended: at });
            }
            What::Answered { call, .. } | What::Dropped { call } => {
                if let Some(place) = open.remove(&(actor, *call)) {
                    operations[place].ended = at;
                }
            }
            What::Effect { sent, .. } => {
                operations.push(Operation { actor, name: "effect", sent: *sent, ended: at });
            }
            // What it had under way ended with it.
            What::Died => {
                for ((of, _), place) in &open {
                    if *of == actor {
                        operations[*place].ended = at;
                    }
                }
                open.retain(|(of, _), _| *of != actor);
            }
            _ => {}
        }
    }
    operations
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, "\nOperations that met a fault\n{:<34}", "")?;
        OPERATIONS.iter().try_for_each(|operation| write!(f, "{operation:>9}"))?;
        writeln!(f)?;
        for (fault, met) in &self.0 {
            write!(f, "  {fault:<32}")?;
            for operation in OPERATIONS {
                match met.get(operation).copied().unwrap_or_default() {
                    0 => write!(f, "{:>9}", "never")?,
                    count => write!(f, "{count:>9}")?,
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lease_core::Lineage;

    use super::*;
    use crate::history::{Answer, HistoryEntry, View};

    fn history(events: &[(u64, &str, What)]) -> History {
        let entry = |(ms, actor, what): &(u64, &str, What)| HistoryEntry {
            at: Instant::ZERO.plus(Duration::from_millis(*ms)),
            actor: (*actor).to_owned(),
            what: what.clone(),
        };
        History { events: events.iter().map(entry).collect(), ..History::default() }
    }

    fn met(events: &[(u64, &str, What)]) -> usize {
        let mut met = Met::default();
        met.add(&history(events));
        met.0["kill"]["observe"]
    }

    fn fault() -> What {
        What::Fault { name: "kill".into() }
    }

    fn sent() -> What {
        What::Sent { call: 1, put: None }
    }

    fn answered() -> What {
        let view = View { lineage: Lineage("1".into()), record: None, floor: 0, version: String::new() };
        What::Answered { call: 1, answer: Answer::Seen(view) }
    }

    #[test]
    fn an_operation_meets_a_fault_while_it_is_under_way_or_soon_before_it() {
        assert_eq!(met(&[(0, "a", sent()), (5, "a", fault()), (9, "a", answered())]), 1);
        assert_eq!(met(&[(0, "a", fault()), (400, "a", sent()), (401, "a", answered())]), 1);
        assert_eq!(met(&[(0, "a", sent()), (5, "a", answered()), (9, "a", fault())]), 0, "it had ended");
        assert_eq!(met(&[(0, "a", fault()), (600, "a", sent()), (601, "a", answered())]), 0, "too late");
    }

    #[test]
    fn a_fault_of_the_store_concerns_all_and_one_of_an_actor_only_that_one() {
        assert_eq!(met(&[(0, "a", sent()), (5, "store", fault()), (9, "a", answered())]), 1);
        assert_eq!(met(&[(0, "a", sent()), (5, "b", fault()), (9, "a", answered())]), 0);
    }

    #[test]
    fn a_death_is_a_fault_where_no_faults_are_named() {
        let mut met = Met::default();
        met.add(&history(&[(0, "a", sent()), (5, "a", What::Died)]));
        assert_eq!(met.0["death"]["observe"], 1);
    }

    #[test]
    fn what_never_met_a_fault_is_told_too() {
        let mut met = Met::default();
        met.add(&history(&[(0, "a", fault())]));
        assert_eq!(met.to_string().matches("never").count(), OPERATIONS.len());
        assert_eq!(serde_json::to_value(&met).unwrap()["kill"]["renew"], 0);
    }
}

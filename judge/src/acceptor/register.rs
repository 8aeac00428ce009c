//! **J-2**: everything that the store said is what one register says that compares and sets: each answer at some moment
//! between its call's sending and its arrival, each hint at some moment before it came.
//!
//! Tags are never used twice, so what followed what is known, and one pass finds out whether the moments fit. The model
//! goes on as late as it can: it applies a write when an answer first needs it. A read of the state before that is then
//! explained if it was sent by that time.

use std::collections::{HashMap, HashSet};

use lease_core::{Change, Instant, Lineage, Tag};

use super::contents::Contents;
use super::{Explained, require, unexplained};
use crate::facts::{Facts, Write};
use crate::history::{Answer, HistoryEntry, View, What};
use crate::invariants::Violation;

/// Returns how many answers and hints it has explained.
pub(crate) fn check(facts: &Facts<'_>) -> Result<usize, Violation> {
    let mut register = Register::of(facts);
    for (place, event) in facts.history.events.iter().enumerate() {
        register.take(place, event).map_err(|model| {
            let concerns = |before: usize| {
                let what = &facts.history.events[before].what;
                matches!(what, What::Sent { put: Some(_), .. } | What::Outside { .. })
                    || what.view().is_some()
            };
            unexplained("J-2", (facts.history, place), &model, concerns)
        })?;
    }
    Ok(register.explained)
}

/// One state of the register: no two writes have the same tag.
type Node = (Lineage, Option<Tag>);

fn shown(view: &View) -> Node {
    (view.lineage.clone(), view.tag())
}

/// The register was changed from outside.
struct Outside {
    from: Instant,
    to: Instant,
}

struct Call {
    sent_at: Instant,
    /// The number of the write, if it is one.
    write: Option<usize>,
    answered: bool,
}

struct Register<'a> {
    writes: &'a [Write<'a>],
    /// The writes of each tag, by number.
    by_tag: HashMap<Tag, Vec<usize>>,
    outside: Vec<Outside>,
    /// The present state, if an answer has told it since the beginning, or since a change from outside.
    present: Option<Node>,
    /// As long as no answer has told it: there is no register, for it was deleted.
    deleted: bool,
    /// Earlier states, and when each was left at the latest.
    left: HashMap<Node, Instant>,
    /// Every state so far.
    known: HashSet<Node>,
    applied: HashSet<usize>,
    contents: Contents<'a>,
    /// Each greatest floor so far, and the moment at which it was known.
    floors: Vec<(Instant, u64)>,
    calls: HashMap<(&'a str, u64), Call>,
    explained: usize,
}

impl<'a> Register<'a> {
    fn of(facts: &'a Facts<'a>) -> Self {
        let mut by_tag: HashMap<Tag, Vec<usize>> = HashMap::new();
        for (number, write) in facts.writes.iter().enumerate() {
            by_tag.entry(write.put.record.tag).or_default().push(number);
        }
        let outside = facts.history.events.iter().filter_map(|event| match event.what {
            What::Outside { from, .. } => Some(Outside { from, to: event.at }),
            _ => None,
        });
        Self {
            writes: &facts.writes,
            by_tag,
            outside: outside.collect(),
            present: None,
            deleted: false,
            left: HashMap::new(),
            known: HashSet::new(),
            applied: HashSet::new(),
            contents: Contents::of(&facts.writes),
            floors: Vec::new(),
            calls: HashMap::new(),
            explained: 0,
        }
    }

    fn take(&mut self, place: usize, event: &'a HistoryEntry) -> Explained {
        match &event.what {
            What::Sent { call, put } => {
                let number = |_: &_| self.writes.partition_point(|write| write.index < place);
                let call_of = Call { sent_at: event.at, write: put.as_ref().map(number), answered: false };
                let before = self.calls.insert((&event.actor, *call), call_of);
                require(before.is_none(), "a call is sent once")?;
                put.as_ref().map_or(Ok(()), |put| self.contents.shows(&put.expected))
            }
            What::Answered { call, answer } => self.answers((&event.actor, *call), answer, event.at, place),
            What::Shown { view } => self.hints(view, event.at, place),
            What::Outside { from, deleted } => {
                let made_anew = |write: &Write<'_>| {
                    write.is_written() && write.answered.is_some_and(|(at, _)| at >= *from && at <= event.at)
                };
                self.deleted = *deleted && !self.writes.iter().any(made_anew);
                self.present = None;
                self.left.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn answers(&mut self, id: (&'a str, u64), answer: &'a Answer, at: Instant, place: usize) -> Explained {
        let call = self.calls.get_mut(&id).ok_or("no such call was sent")?;
        require(!call.answered, "a call is answered once")?;
        call.answered = true;
        let (sent_at, write) = (call.sent_at, call.write.map(|number| (number, &self.writes[number])));
        require(
            match answer {
                Answer::Seen(_) => write.is_none(),
                Answer::Written(_) | Answer::Conflict(_) | Answer::Unknown => write.is_some(),
                Answer::NotApplied => true,
            },
            "a read is not answered like a write, nor a write like a read",
        )?;
        let Some(view) = answer.view() else { return Ok(()) };
        self.explained += 1;
        self.contents.shows(view)?;
        if let (Answer::Written(_), Some((_, write))) = (answer, write) {
            let written = view.tag() == Some(write.put.record.tag);
            require(written, "the answer to a write that was applied shows what it wrote")?;
        }
        if self.outside.iter().any(|outside| outside.from <= at && outside.to >= sent_at) {
            // The register may have been anything.
            if self.present.is_some() && matches!(answer, Answer::Written(_)) {
                let _ = self.goes_on_to(shown(view), at, place);
            }
            return Ok(());
        }
        match (answer, write) {
            (Answer::Written(_), Some((_, write))) => {
                require(
                    follows(write, &view.lineage),
                    "a write compares the lineage, which is another one by now",
                )?;
                self.issues(write, at);
            }
            _ => self.floor_is_kept(view, sent_at)?,
        }
        self.knows_of(view.floor, at);
        let node = shown(view);
        match self.left.get(&node) {
            Some(left) if *left >= sent_at => Ok(()),
            _ => self.goes_on_to(node, at, place),
        }
    }

    /// A hint may be old, so it doesn't tell the present state to whoever knows of none.
    fn hints(&mut self, view: &'a View, at: Instant, place: usize) -> Explained {
        self.explained += 1;
        self.contents.shows(view)?;
        let node = shown(view);
        let changed = |outside: &Outside| outside.from <= at && outside.to >= at;
        let unknown = self.present.is_none() && !self.deleted;
        if unknown || self.known.contains(&node) || self.outside.iter().any(changed) {
            return Ok(());
        }
        self.goes_on_to(node, at, place)
    }

    /// Applies the writes that lead from the present state to this one: all were sent by now, and can have been applied.
    fn goes_on_to(&mut self, node: Node, at: Instant, place: usize) -> Explained {
        let (mut path, mut from) = (vec![node.clone()], node);
        let mut numbers = Vec::new();
        while self.present.as_ref() != Some(&from) {
            let Some(number) = self.write_of(&from, place).filter(|number| !numbers.contains(number)) else {
                break;
            };
            from = shown(&self.writes[number].put.expected);
            numbers.push(number);
            path.push(from.clone());
        }
        match &self.present {
            Some(present) if *present != from => return Err(self.instead(present, &path[0])),
            None if self.deleted && from.1.is_some() => {
                return Err("by the model there is no register: it was deleted".to_owned());
            }
            _ => self.deleted = false,
        }
        self.applied.extend(numbers);
        self.known.extend(path.iter().cloned());
        let last = path.swap_remove(0);
        self.left.extend(path.into_iter().map(|node| (node, at)));
        self.left.remove(&last);
        self.present = Some(last);
        Ok(())
    }

    /// The write that made this state, if it can have done so just now.
    fn write_of(&self, (lineage, tag): &Node, place: usize) -> Option<usize> {
        let writes = tag.and_then(|tag| self.by_tag.get(&tag)).into_iter().flatten().copied();
        { writes }.find(|number| {
            let write = &self.writes[*number];
            let can = write.may_be_applied() && follows(write, lineage);
            can && write.index < place && !self.applied.contains(number)
        })
    }

    /// Why this state can't be now.
    fn instead(&self, present: &Node, node: &Node) -> String {
        let number = node.1.and_then(|tag| self.by_tag.get(&tag)).and_then(|writes| writes.first());
        let why = match number.map(|number| &self.writes[*number]) {
            _ if self.left.contains_key(node) => {
                "it was there before, and was left before this call was sent"
            }
            Some(write) if !write.may_be_applied() => {
                "the write of what is shown was not applied, by its own answer"
            }
            Some(_) => "the write of what is shown compares another state than this one, or was not sent yet",
            None if node.1.is_some() => "nobody wrote what is shown",
            None => "nobody deletes it",
        };
        let present = match present.1 {
            Some(tag) => format!("has tag {tag} under lineage {}", present.0),
            None => format!("is absent, lineage {}", present.0),
        };
        format!("by the model the register {present}; {why}")
    }

    /// A read's floor is at least each one that was known before it was sent (E-1, T-6).
    fn floor_is_kept(&self, view: &View, sent_at: Instant) -> Explained {
        let known =
            self.floors.iter().rev().find(|(known_at, _)| *known_at < sent_at).map_or(0, |(_, floor)| *floor);
        if view.floor >= known {
            return Ok(());
        }
        Err(format!("the floor was {known} at least when this call was sent, and this shows {}", view.floor))
    }

    /// An epoch that comes from the floor raises it (E-1).
    fn issues(&mut self, write: &Write<'_>, at: Instant) {
        let record = &write.put.record;
        if write.put.change == Change::Acquire && record.epoch == write.put.expected.floor.saturating_add(1) {
            self.knows_of(record.epoch, at);
        }
    }

    fn knows_of(&mut self, floor: u64, at: Instant) {
        if self.floors.last().is_none_or(|(_, known)| *known < floor) {
            self.floors.push((at, floor));
        }
    }
}

/// Can this write have made a register under `lineage`? Where there was none, the new one may have a lineage of its own.
fn follows(write: &Write<'_>, lineage: &Lineage) -> bool {
    write.put.expected.record.is_none() || write.put.expected.lineage == *lineage
}

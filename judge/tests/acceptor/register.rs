//! J-2 by hand: calls that overlap may be answered from before and after each other, and no others.

use std::time::Duration;

use lease_core::internal::writes::{self, Candidate, Fresh};
use lease_core::{Change, Instant, Lineage, Observation};
use lease_judge::acceptor::explain;
use lease_judge::history::{Answer, History, HistoryEntry, Put, View, What};

const TTL: Duration = Duration::from_secs(15);

#[derive(Default)]
struct Calls(History, u64);

impl Calls {
    fn event(&mut self, at: u64, what: What) -> &mut Self {
        self.0.events.push(HistoryEntry { at: Instant(at), actor: "a".into(), what });
        self
    }

    fn read(&mut self, (sent, answered): (u64, u64), shows: &Observation) -> &mut Self {
        self.call((sent, answered), None, Answer::Seen(shows.into()))
    }

    fn write(
        &mut self,
        times: (u64, u64),
        from: &Observation,
        to: &Observation,
        answer: Answer,
    ) -> &mut Self {
        let record = to.record.clone().expect("a record");
        self.call(times, Some(Put { change: Change::Renew, expected: from.into(), record }), answer)
    }

    fn writes(&mut self, times: (u64, u64), from: &Observation, to: &Observation) -> &mut Self {
        self.write(times, from, to, Answer::Written(to.into()))
    }

    fn call(&mut self, (sent, answered): (u64, u64), put: Option<Put>, answer: Answer) -> &mut Self {
        self.1 += 1;
        let call = self.1;
        self.event(sent, What::Sent { call, put: put.map(Box::new) });
        self.event(answered, What::Answered { call, answer })
    }

    /// Why it is rejected, if it is.
    fn verdict(&mut self) -> Option<String> {
        self.0.sort();
        explain(&self.0).first().map(|violation| violation.to_string())
    }

    #[track_caller]
    fn is_explained(&mut self) {
        assert_eq!(self.verdict(), None);
    }

    #[track_caller]
    fn is_rejected(&mut self, why: &str) {
        let verdict = self.verdict().expect("it is rejected");
        assert!(verdict.starts_with("J-2 ") && verdict.contains(why), "{verdict}");
    }
}

fn absent() -> Observation {
    Observation { record: None, lineage: Lineage("1".into()), floor: 9, version: String::new() }
}

/// A held register, and its next two beats.
fn beats() -> [Observation; 3] {
    let who = Candidate {
        holder: "a".into(),
        region: String::new(),
        ttl: TTL,
        max_ttl: TTL,
        preemptible: false,
        work: None,
    };
    let shows = |record| Observation { record: Some(record), ..absent() };
    let fresh = Fresh::random();
    let free = writes::init(&absent(), TTL, 0, None, &fresh);
    let held = shows(writes::acquire(&absent(), &free, &who, fresh.grant, &Fresh::random()));
    let renewed = |seen: &Observation| {
        shows(writes::renew(seen, seen.record.as_ref().expect("a register"), &Fresh::random()))
    };
    let next = renewed(&held);
    let third = renewed(&next);
    [held, next, third]
}

#[test]
fn a_read_beside_a_write_shows_the_register_before_or_after_it() {
    let [first, second, third] = beats();
    for shown in [&first, &second, &third] {
        let mut calls = Calls::default();
        calls.read((0, 1), &first).read((2, 30), shown);
        calls.writes((5, 10), &first, &second).writes((12, 20), &second, &third).is_explained();
    }
}

#[test]
fn a_read_after_a_write_does_not_show_the_register_before_it() {
    let [first, second, _] = beats();
    let mut calls = Calls::default();
    calls.read((0, 1), &first).writes((2, 3), &first, &second).read((4, 5), &first);
    calls.is_rejected("it was there before, and was left before this call was sent");
}

#[test]
fn two_reads_beside_a_write_do_not_show_it_the_wrong_way_round() {
    let [first, second, _] = beats();
    let mut calls = Calls::default();
    calls.writes((0, 100), &first, &second).read((10, 20), &second).read((30, 40), &first);
    calls.is_rejected("was left before this call was sent");
}

#[test]
fn a_write_of_unknown_outcome_is_applied_later_or_never_and_only_once() {
    let [first, second, third] = beats();
    let mut calls = Calls::default();
    calls.read((0, 1), &first).write((2, 3), &first, &second, Answer::Unknown);
    calls.read((4, 5), &first).is_explained();
    calls.read((6, 7), &second).is_explained();
    calls.writes((8, 9), &second, &third).is_explained();
    calls.read((10, 11), &second).is_rejected("was left before");
}

#[test]
fn a_write_shows_only_if_it_may_have_been_applied() {
    let [first, second, _] = beats();
    for answer in [Answer::NotApplied, Answer::Conflict((&first).into())] {
        let mut calls = Calls::default();
        calls.read((0, 1), &first).write((2, 3), &first, &second, answer).is_explained();
        calls.read((4, 5), &second).is_rejected("was not applied, by its own answer");
    }
}

#[test]
fn of_two_writes_on_one_state_one_is_applied() {
    let [first, second, third] = beats();
    let mut calls = Calls::default();
    calls.writes((0, 1), &first, &second).writes((0, 2), &first, &third);
    calls.is_rejected("compares another state");
}

#[test]
fn what_nobody_wrote_is_not_shown_and_no_answer_comes_twice() {
    let [first, second, _] = beats();
    Calls::default().read((0, 1), &first).read((2, 3), &second).is_rejected("nobody wrote what is shown");
    Calls::default().read((0, 1), &first).read((2, 3), &absent()).is_rejected("nobody deletes it");
    let mut calls = Calls::default();
    calls.read((0, 1), &first).event(2, What::Answered { call: 1, answer: Answer::NotApplied });
    calls.is_rejected("a call is answered once");
}

#[test]
fn an_answer_shows_what_was_written_and_no_lower_floor() {
    let [first, second, _] = beats();
    let mut altered = second.clone();
    altered.record.as_mut().expect("a record").holder = "b".into();
    let mut calls = Calls::default();
    calls.writes((0, 1), &first, &second).read((2, 3), &altered).is_rejected("holder \"a\", not \"b\"");
    let lower = Observation { floor: 8, ..first.clone() };
    Calls::default().read((0, 1), &first).read((2, 3), &lower).is_rejected("the floor was 9");
}

#[test]
fn a_hint_shows_what_was_there_by_then() {
    let [first, second, third] = beats();
    let hint = |view: &Observation| What::Shown { view: view.into() };
    let mut calls = Calls::default();
    calls.read((0, 1), &first).writes((2, 10), &first, &second);
    // Before its answer, and again long after the next write.
    calls.event(5, hint(&second)).writes((12, 13), &second, &third).event(20, hint(&first)).is_explained();
    calls.event(1, hint(&third)).is_rejected("was not sent yet");
}

#[test]
fn a_deleted_register_is_not_written_and_the_lineage_is_compared() {
    let [first, second, _] = beats();
    let deleted = |calls: &mut Calls, deleted| {
        calls.read((0, 1), &first).event(5, What::Outside { from: Instant(4), deleted });
    };
    let mut calls = Calls::default();
    deleted(&mut calls, true);
    calls.read((6, 7), &absent()).is_explained();
    let mut calls = Calls::default();
    deleted(&mut calls, true);
    calls.writes((6, 7), &first, &second).is_rejected("it was deleted");
    let elsewhere = |seen: &Observation| Observation { lineage: Lineage("2".into()), ..seen.clone() };
    let mut calls = Calls::default();
    deleted(&mut calls, false);
    calls.read((6, 7), &elsewhere(&first)).is_explained();
    calls.write((8, 9), &first, &second, Answer::Written(View::from(&elsewhere(&second))));
    calls.is_rejected("compares the lineage");
}

#[test]
fn a_new_register_may_have_a_lineage_and_a_stamp_that_the_store_gave_it() {
    let created = writes::init(&absent(), TTL, 0, None, &Fresh::random());
    let written = Observation { record: Some(created.clone()), ..absent() };
    let shows = |lineage: &str, stamp: &str| {
        let stamped = lease_core::Record { lineage: Lineage(stamp.into()), ..created.clone() };
        let shown = Observation { record: Some(stamped), lineage: Lineage(lineage.into()), ..absent() };
        let mut calls = Calls::default();
        calls.write((0, 1), &absent(), &written, Answer::Written((&shown).into()));
        calls
    };
    shows("uid", "uid").is_explained();
    shows("uid", "1").is_explained();
    shows("uid", "another").is_rejected("lineage \"1\", not \"another\"");
}

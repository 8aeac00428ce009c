//! Short histories for the checkers' own tests.

use std::time::Duration;

use lease_core::internal::deadline::shortened;
use lease_core::{Change, Grant, Instant, Lineage, Loss, Record, Tag, Term, WallTime};

use crate::history::{Answer, History, HistoryEntry, Put, View, What};

pub(super) const TTL_MS: u64 = 1000;

pub(super) fn at(ms: u64) -> Instant {
    Instant::ZERO.plus(Duration::from_millis(ms))
}

pub(super) fn term(epoch: u64) -> Term {
    Term { epoch, grant: Grant(u128::from(epoch) + 1000) }
}

/// D of a write that was sent at `ms`.
pub(super) fn deadline(ms: u64) -> Instant {
    at(ms).plus(shortened(Duration::from_millis(TTL_MS)))
}

pub(super) fn record(grant: Option<Term>, epoch: u64, beat: u64) -> Record {
    Record {
        tag: Tag::random(),
        grant: grant.map(|term| term.grant),
        epoch,
        beat,
        holder: "somebody".into(),
        ttl_ms: TTL_MS,
        max_ttl_ms: TTL_MS,
        lineage: Lineage("1".into()),
        transitions: epoch,
        preemptible: false,
        sealed: None,
        request: None,
        answered: None,
        acquired_at: WallTime(0),
        renewed_at: WallTime(0),
        expires_at: WallTime(0),
        region: String::new(),
        note: String::new(),
        extra: Default::default(),
    }
}

pub(super) fn view(record: Record) -> View {
    View { lineage: Lineage("1".into()), record: Some(Box::new(record)), floor: 0, version: String::new() }
}

pub(super) fn held(epoch: u64, beat: u64) -> View {
    view(record(Some(term(epoch)), epoch, beat))
}

pub(super) fn free(epoch: u64) -> View {
    view(record(None, epoch, 9))
}

/// Builds a history step by step; calls are numbered as they come.
#[derive(Default)]
pub(super) struct Story {
    pub(super) history: History,
    calls: u64,
}

impl Story {
    pub(super) fn event(&mut self, ms: u64, actor: &str, what: What) -> &mut Self {
        self.history.events.push(HistoryEntry { at: at(ms), actor: actor.into(), what });
        self
    }

    pub(super) fn campaigns(&mut self, ms: u64, actor: &str) -> &mut Self {
        self.event(ms, actor, What::Campaigning { ttl_ms: TTL_MS, poll_ms: 100 })
    }

    pub(super) fn sees(&mut self, sent: u64, received: u64, actor: &str, view: View) -> &mut Self {
        self.calls += 1;
        let call = self.calls;
        self.event(sent, actor, What::Sent { call, put: None });
        self.event(received, actor, What::Answered { call, answer: Answer::Seen(view) })
    }

    pub(super) fn fails_to_see(&mut self, sent: u64, received: u64, actor: &str) -> &mut Self {
        self.calls += 1;
        let call = self.calls;
        self.event(sent, actor, What::Sent { call, put: None });
        self.event(received, actor, What::Answered { call, answer: Answer::NotApplied })
    }

    pub(super) fn puts(
        &mut self,
        (sent, received): (u64, u64),
        actor: &str,
        change: Change,
        expected: View,
        record: Record,
        answer: impl FnOnce(View) -> Answer,
    ) -> &mut Self {
        self.calls += 1;
        let call = self.calls;
        let written = view(record.clone());
        self.event(sent, actor, What::Sent { call, put: Some(Box::new(Put { change, expected, record })) });
        self.event(received, actor, What::Answered { call, answer: answer(written) })
    }

    /// Acquires a free register and begins the term.
    pub(super) fn leads(&mut self, sent: u64, received: u64, actor: &str, epoch: u64) -> &mut Self {
        self.takes(sent, received, actor, epoch, free(epoch - 1))
    }

    pub(super) fn takes(
        &mut self,
        sent: u64,
        received: u64,
        actor: &str,
        epoch: u64,
        from: View,
    ) -> &mut Self {
        let record = record(Some(term(epoch)), epoch, 0);
        self.puts((sent, received), actor, Change::Acquire, from, record, Answer::Written);
        self.event(received, actor, What::Begun { term: term(epoch), deadline: deadline(sent) })
    }

    pub(super) fn renews(
        &mut self,
        sent: u64,
        received: u64,
        actor: &str,
        epoch: u64,
        beat: u64,
    ) -> &mut Self {
        let record = record(Some(term(epoch)), epoch, beat);
        self.puts((sent, received), actor, Change::Renew, held(epoch, beat - 1), record, Answer::Written);
        self.event(received, actor, What::Extended { term: term(epoch), deadline: deadline(sent) })
    }

    /// The work returns, the check turns false, and the register is released.
    pub(super) fn releases(&mut self, sent: u64, received: u64, actor: &str, epoch: u64) -> &mut Self {
        self.event(sent, actor, What::WorkReturned);
        self.ends(sent, actor, epoch, Loss::Returned);
        let free = record(None, epoch, 9);
        self.puts((sent, received), actor, Change::Release, held(epoch, 0), free, Answer::Written)
    }

    pub(super) fn ends(&mut self, ms: u64, actor: &str, epoch: u64, loss: Loss) -> &mut Self {
        self.event(ms, actor, What::Ended { term: term(epoch), loss })
    }
}

/// A clean hand-over from `a` to `b`.
pub(super) fn handover() -> History {
    let mut story = Story::default();
    story.campaigns(0, "a").campaigns(0, "b");
    story.sees(0, 1, "a", free(0)).leads(1, 2, "a", 1).sees(3, 4, "b", held(1, 0));
    story.renews(300, 301, "a", 1, 1).sees(310, 311, "b", held(1, 1));
    story.releases(400, 401, "a", 1).sees(402, 403, "b", free(1)).leads(403, 404, "b", 2);
    story.history
}

/// `a` dies at 500 ms, `b` takes over.
pub(super) fn takeover() -> History {
    let mut story = Story::default();
    story.campaigns(0, "a").campaigns(0, "b");
    story.leads(1, 2, "a", 1).renews(300, 301, "a", 1, 1).sees(310, 311, "b", held(1, 1));
    story.event(500, "a", What::Died).sees(800, 801, "b", held(1, 1));
    story.takes(1314, 1316, "b", 2, held(1, 1));
    story.history
}

#[test]
fn good_histories_violate_nothing() {
    assert_eq!(super::judge(&handover()), []);
    assert_eq!(super::judge(&takeover()), []);
}

#[test]
fn an_empty_history_is_no_evidence_for_any_invariant() {
    let empty = History::default();
    let facts = crate::facts::Facts::of(&empty);
    assert!(super::ALL.iter().all(|invariant| invariant.judge(&facts) == Ok(0)));
}

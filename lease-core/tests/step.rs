//! Schedules that chance finds once in ten thousand fleets, told to the step function by hand.

use std::time::Duration;

use lease_core::internal::step::{Action, CallId, CallRequest, Event, Jitter, Reply, Rules, State, step};
use lease_core::internal::writes::{self, Candidate, Fresh};
use lease_core::{Change, Grant, Instant, Lineage, Observation, PutOutcome, Tag, WallTime};

const TTL: Duration = Duration::from_secs(3);

fn ms(ms: u64) -> Instant {
    Instant::ZERO.plus(Duration::from_secs(100) + Duration::from_millis(ms))
}

/// One elector, its calls, and bits that never repeat.
struct One {
    state: State,
    bits: u128,
    calls: Vec<(CallId, CallRequest)>,
    /// Began a term.
    leads: bool,
}

impl One {
    fn new() -> Self {
        let who = Candidate {
            holder: "one".into(),
            region: String::new(),
            ttl: TTL,
            max_ttl: TTL,
            preemptible: false,
        };
        let rules = Rules {
            who,
            renew_every: TTL / 3,
            retry_every: TTL / 15,
            stop_grace: TTL / 5,
            max_silence: None,
            creates_registers: false,
        };
        Self { state: State::new(rules), bits: 0, calls: Vec::new(), leads: false }
    }

    fn happens(&mut self, now: Instant, event: Event) {
        self.bits += 1;
        let fresh = Fresh { tag: Tag(self.bits), grant: Grant(self.bits), wall: WallTime(0) };
        let (state, actions) = step(self.state.clone(), now, event, &fresh, Jitter(128));
        assert!(state.wake_at().is_none_or(|wake| wake > now), "left something undone that was due");
        self.state = state;
        for action in actions {
            match action {
                Action::Send(id, request) => self.calls.push((id, request)),
                Action::Begin(..) => self.leads = true,
                _ => {}
            }
        }
    }

    /// The newest call; time passes until there is one.
    fn sends(&mut self, mut now: Instant) -> (Instant, CallId, CallRequest) {
        loop {
            if let Some((id, request)) = self.calls.pop() {
                return (now, id, request);
            }
            now = now.max(self.state.wake_at().expect("a live elector has something to wait for"));
            self.happens(now, Event::Tick);
        }
    }
}

fn free() -> Observation {
    let nothing =
        Observation { record: None, lineage: Lineage("a".into()), floor: 7, version: String::new() };
    let fresh = Fresh { tag: Tag(900), grant: Grant(901), wall: WallTime(0) };
    let record = writes::init(&nothing, TTL, 0, None, &fresh);
    Observation { record: Some(record), ..nothing }
}

/// The observation once `request` is applied.
fn applied(request: &CallRequest) -> Observation {
    let CallRequest::Put { expected, record, change } = request else { panic!("a write, not {request:?}") };
    assert_eq!(*change, Change::Acquire);
    Observation { record: Some(record.clone()), ..expected.clone() }
}

/// An elector that has seen a free register and sent an acquisition, which is overdue now, and a look after it.
fn acquisition_without_an_answer() -> (One, Instant, (CallId, CallRequest), CallId) {
    let mut one = One::new();
    let (now, look, _) = one.sends(ms(0));
    one.happens(now, Event::Reply(look, Reply::Seen(free())));
    let (_, id, acquisition) = one.sends(now);
    let (now, look, request) = one.sends(now);
    assert_eq!(request, CallRequest::Observe, "no answer: it looks before it tries again");
    (one, now, (id, acquisition), look)
}

/// Otherwise a holder whose acquisition was answered at last might go by what it saw before, and find nothing to renew.
#[test]
fn forgets_an_answer_from_before_its_term() {
    let (mut one, now, (id, acquisition), look) = acquisition_without_an_answer();
    one.happens(now, Event::Reply(id, Reply::Put(PutOutcome::Written(applied(&acquisition)))));
    assert!(one.leads);
    let gone = Observation { record: None, ..free() };
    one.happens(now, Event::Reply(look, Reply::Seen(gone)));
    let (_, _, beat) = one.sends(now);
    let CallRequest::Put { expected, change: Change::Renew, .. } = beat else {
        panic!("a beat, not {beat:?}")
    };
    assert_eq!(expected, applied(&acquisition));
}

/// The look was answered first, and shows the register as it was before the acquisition.
#[test]
fn renews_what_it_acquired_and_not_what_a_later_call_saw_before() {
    let (mut one, now, (id, acquisition), look) = acquisition_without_an_answer();
    one.happens(now, Event::Reply(look, Reply::Seen(free())));
    one.calls.clear();
    one.happens(now, Event::Reply(id, Reply::Put(PutOutcome::Written(applied(&acquisition)))));
    assert!(one.leads);
    let (_, _, beat) = one.sends(now);
    let CallRequest::Put { expected, change: Change::Renew, .. } = beat else {
        panic!("a beat, not {beat:?}")
    };
    assert_eq!(expected, applied(&acquisition));
}

/// Others wait an acquisition out from its first attempt. A failover may bring it back after they have led
/// (`docs/decisions/0015-confirm-in-the-first-attempts-time.md`).
#[test]
fn confirms_its_own_grant_only_in_the_time_of_the_first_attempt() {
    let shows = |request: &CallRequest| Observation { lineage: Lineage("b".into()), ..applied(request) };
    let confirms =
        |one: &One| one.calls.iter().any(|(_, request)| matches!(request, CallRequest::Put { .. }));

    let (mut one, now, (_, first), look) = acquisition_without_an_answer();
    one.happens(now, Event::Reply(look, Reply::Seen(shows(&first))));
    assert!(confirms(&one), "half of its ttl after the sending");

    let (mut one, now, (_, first), look) = acquisition_without_an_answer();
    one.happens(now, Event::Reply(look, Reply::Seen(free())));
    let (now, _, second) = one.sends(now);
    assert_eq!(
        applied(&second).grant(),
        applied(&first).grant(),
        "one acquisition, whichever attempt applies"
    );
    let (now, look, _) = one.sends(now);
    assert!(
        now >= ms(0).plus(TTL - TTL / 500),
        "the second attempt is half a ttl old, the first a whole one"
    );
    one.happens(now, Event::Reply(look, Reply::Seen(shows(&first))));
    assert!(!confirms(&one), "somebody else may have led since");
}

/// The first try may have been applied, and lost by a failover with a successor's acquisition after it: another one
/// must not lead before that successor has ended (`docs/decisions/0016-a-release-tried-again.md`).
#[test]
fn a_release_that_is_tried_again_after_a_failover_is_not_free_in_the_new_lineage() {
    let (mut one, now, (id, acquisition), _) = acquisition_without_an_answer();
    one.happens(now, Event::Reply(id, Reply::Put(PutOutcome::Written(applied(&acquisition)))));
    let (_, id, beat) = one.sends(now);
    let CallRequest::Put { expected, record, change: Change::Renew } = beat else {
        panic!("a beat, not {beat:?}")
    };
    let renewed = Observation { record: Some(record), ..expected };
    one.happens(now, Event::Reply(id, Reply::Put(PutOutcome::Written(renewed.clone()))));
    one.happens(now, Event::WorkReturned);
    let (now, id, release) = one.sends(now);
    let CallRequest::Put { record, change: Change::Release, .. } = &release else {
        panic!("not {release:?}")
    };
    assert_eq!((record.grant, &record.lineage), (None, &renewed.lineage), "free at once");
    // Its answer is lost. The store fails over to the moment before it.
    let restored = Observation { lineage: Lineage("b".into()), ..renewed.clone() };
    one.happens(now, Event::Reply(id, Reply::Put(PutOutcome::Conflict(restored.clone()))));
    let (_, _, again) = one.sends(now);
    let CallRequest::Put { expected, record, change: Change::Release } = again else {
        panic!("not {again:?}")
    };
    assert_eq!((expected, record.grant), (restored, None));
    assert_eq!(record.lineage, renewed.lineage, "others wait it out at the maximum ttl");
}

/// The caller's word is about the holder that it knew (F-3). Whoever took the lease since is alive.
#[test]
fn the_word_that_a_holder_is_dead_does_not_outlive_that_holder() {
    let held_by = |grant: u128, epoch: u64| {
        let mut seen = free();
        let record = seen.record.as_mut().expect("a register");
        (record.grant, record.epoch, record.tag) = (Some(Grant(grant)), epoch, Tag(grant));
        record.holder = format!("holder {grant}");
        record.preemptible = true;
        seen
    };
    let takes = |one: &One| one.calls.iter().any(|(_, request)| matches!(request, CallRequest::Put { .. }));
    let mut one = One::new();
    let (now, look, _) = one.sends(ms(0));
    one.happens(now, Event::Reply(look, Reply::Seen(held_by(910, 11))));
    one.calls.clear();
    one.happens(now, Event::HolderIsDead);
    let (now, put, request) = one.sends(now);
    assert!(
        matches!(request, CallRequest::Put { change: Change::Acquire, .. }),
        "its record may be taken at once"
    );
    // Another candidate was quicker, and lives.
    one.happens(now, Event::Reply(put, Reply::Put(PutOutcome::Conflict(held_by(920, 12)))));
    assert!(!takes(&one), "nobody said that the new holder is dead");
    let (later, look, request) = one.sends(now);
    assert_eq!(request, CallRequest::Observe, "it waits as ever (T-2)");
    one.happens(later, Event::Reply(look, Reply::Seen(held_by(920, 12))));
    assert!(!takes(&one));
}

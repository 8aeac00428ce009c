//! Schedules that chance finds once in ten thousand fleets, told to the step function by hand.

use std::time::Duration;

use lease_core::internal::deadline::lengthened;
use lease_core::internal::step::{
    Action, CallId, CallRequest, Event, Jitter, Note, Reply, Rules, State, step,
};
use lease_core::internal::writes::{self, Candidate, Fresh};
use lease_core::{
    Change, Grant, Instant, Lineage, Observation, PutOutcome, Record, Revocation, Tag, Term, WallTime,
};

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
    notes: Vec<Note>,
}

fn rules() -> Rules {
    let who = Candidate {
        holder: "one".into(),
        region: String::new(),
        ttl: TTL,
        max_ttl: TTL,
        preemptible: false,
        work: None,
    };
    Rules {
        who,
        renew_every: TTL / 3,
        retry_every: TTL / 15,
        stop_grace: TTL / 5,
        max_silence: None,
        creates_registers: false,
    }
}

impl One {
    fn new() -> Self {
        Self { state: State::new(rules()), bits: 0, calls: Vec::new(), leads: false, notes: Vec::new() }
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
                Action::Note(note) => self.notes.push(note),
                _ => {}
            }
        }
    }

    /// Sees `shown` at `now` and again at each later look; returns when it sends its first write, and the write.
    fn acquires(&mut self, now: Instant, shown: &Observation) -> (Instant, Record) {
        let mut at = now;
        loop {
            assert!(at < now.plus(TTL * 1000), "it has waited for a thousand times the ttl");
            let (now, id, request) = self.sends(at);
            match request {
                CallRequest::Observe => self.happens(now, Event::Reply(id, Reply::Seen(shown.clone()))),
                CallRequest::Put { record, change: Change::Acquire, .. } => return (now, record),
                other => panic!("not {other:?}"),
            }
            at = now;
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

/// The same with a restore, which leaves the lineage as it was: the first try of the release may be among what is lost.
#[test]
fn a_release_that_is_tried_again_after_a_restore_is_free_in_no_lineage() {
    let (mut one, now, (id, acquisition), _) = acquisition_without_an_answer();
    one.happens(now, Event::Reply(id, Reply::Put(PutOutcome::Written(applied(&acquisition)))));
    let (_, id, beat) = one.sends(now);
    let CallRequest::Put { expected, record, change: Change::Renew } = beat else { panic!("not {beat:?}") };
    let renewed = Observation { record: Some(record), ..expected };
    one.happens(now, Event::Reply(id, Reply::Put(PutOutcome::Written(renewed))));
    one.happens(now, Event::WorkReturned);
    let (now, id, release) = one.sends(now);
    let CallRequest::Put { expected: held, record: free, change: Change::Release } = release else {
        panic!("not {release:?}")
    };
    // It is applied and its answer lost; the look after it shows the grant at an earlier beat, of before the release.
    let released = Observation { record: Some(free), ..held.clone() };
    one.happens(now, Event::Reply(id, Reply::Put(PutOutcome::Conflict(with_beat(&held, 5)))));
    let (now, id, again) = one.sends(now);
    let CallRequest::Put { record: first, .. } = &again else { panic!("not {again:?}") };
    assert_eq!(first.lineage, released.lineage, "nothing is known of a restore");
    one.happens(now, Event::Reply(id, Reply::Put(PutOutcome::Conflict(with_beat(&held, 3)))));
    let (_, _, again) = one.sends(now);
    let CallRequest::Put { record, change: Change::Release, .. } = again else { panic!("not {again:?}") };
    assert!(record.grant.is_none() && record.beat > 5, "{record:?}");
    assert_ne!(record.lineage, released.lineage, "others wait it out at the maximum ttl");
}

fn with_beat(seen: &Observation, beat: u64) -> Observation {
    let mut seen = seen.clone();
    seen.record.as_mut().expect("a register").beat = beat;
    seen
}

/// Whoever has seen it there knows that others may act on it, and that whoever starts now doesn't know.
#[test]
fn a_register_that_a_restore_has_forgotten_is_made_anew_closed_and_above_what_was_seen() {
    let mut one = One::new();
    one.state = State::new(Rules { creates_registers: true, ..rules() });
    let (now, look, _) = one.sends(ms(0));
    let mut held = free();
    let record = held.record.as_mut().expect("a register");
    (record.grant, record.epoch, held.floor) = (Some(Grant(910)), 11, 11);
    one.happens(now, Event::Reply(look, Reply::Seen(held)));
    let (now, look, _) = one.sends(now);
    one.happens(now, Event::Reply(look, Reply::Seen(Observation { record: None, floor: 0, ..free() })));
    let (_, _, creation) = one.sends(now);
    let CallRequest::Put { record, change: Change::Init, .. } = creation else { panic!("not {creation:?}") };
    assert!(record.grant.is_some() && record.epoch > 11, "{record:?}");
}

/// A register whose term an operator ended, as it was held by `holder`.
fn revoked(holder: &str, hold_off: Duration) -> Observation {
    let mut seen = free();
    let held = Record { grant: Some(Grant(910)), epoch: 10, holder: holder.into(), ..seen.record.unwrap() };
    seen.record = Some(held.clone());
    let fresh = Fresh { tag: Tag(920), grant: Grant(920), wall: WallTime(0) };
    let mut revoked = writes::revoke(&seen, &held, 0, false, "stuck", &fresh);
    let by_default = Revocation::of(&revoked).expect("a revocation names itself");
    assert_eq!(by_default.except.as_deref(), Some(holder));
    let told = Revocation { by: "op".into(), for_ms: hold_off.as_millis() as u64, ..by_default };
    revoked.extra.insert("revoked".into(), serde_json::to_value(told).unwrap());
    Observation { record: Some(revoked), ..seen }
}

const RETRY: Duration = Duration::from_millis(200);

#[test]
fn a_revoked_holder_comes_two_retry_intervals_after_the_others() {
    let first_look = ms(0);
    let others_may = first_look.plus(lengthened(TTL));
    let (at, term) = One::new().acquires(first_look, &revoked("somebody", Duration::ZERO));
    assert_eq!(at, others_may);
    assert_eq!(Revocation::of(&term), None, "it has had its effect");
    let mut one = One::new();
    let (at, _) = one.acquires(first_look, &revoked("one", Duration::ZERO));
    assert_eq!(at, others_may.plus(RETRY * 2));
    let said = Note::Revoked { by: "op".into(), note: "stuck".into(), hold_off: Some(Duration::ZERO) };
    assert_eq!(one.notes, [said], "once, and not that somebody else holds the lease");
}

#[test]
fn a_hold_off_counts_from_the_first_sight_also_of_a_process_that_starts_anew() {
    let minute = Duration::from_secs(60);
    for start in [ms(0), ms(7_000_000)] {
        let (at, term) = One::new().acquires(start, &revoked("one", minute));
        assert_eq!(at, start.plus(lengthened(minute)));
        assert_eq!(Revocation::of(&term), None);
    }
}

#[test]
fn a_hold_off_outlives_a_successors_term_until_its_time_is_over() {
    let minute = Duration::from_secs(60);
    let shown = revoked("one", minute);
    let (now, term) = One::new().acquires(ms(0), &revoked("another", minute));
    assert!(Revocation::of(&term).is_some(), "the first successor has not seen it for a minute");
    assert!(now < ms(0).plus(minute));
    // The successor gave the lease up at once; the one that was revoked still waits.
    let fresh = Fresh { tag: Tag(930), grant: Grant(930), wall: WallTime(0) };
    let held = Record { grant: Some(Grant(925)), epoch: 12, ..shown.record.clone().unwrap() };
    let seen = Observation { record: Some(held.clone()), ..shown };
    let given_up = Observation { record: Some(writes::release(&seen, &held, &fresh)), ..seen };
    let mut one = One::new();
    let (at, term) = one.acquires(ms(0), &given_up);
    assert_eq!(at, ms(0).plus(lengthened(minute)));
    assert_eq!(Revocation::of(&term), None);
    assert!(
        matches!(&one.notes[..], [Note::Revoked { hold_off: Some(span), .. }] if *span == minute),
        "{:?}",
        one.notes
    );
}

#[test]
fn a_candidate_says_once_that_no_epoch_is_left_polls_and_leads_when_it_is_repaired() {
    let at_epoch = |epoch| {
        let mut seen = free();
        seen.record.as_mut().expect("a register").epoch = epoch;
        seen
    };
    let mut one = One::new();
    let mut now = ms(0);
    for _ in 0..20 {
        let (at, look, request) = one.sends(now);
        assert_eq!(request, CallRequest::Observe);
        assert!(at >= now.plus(RETRY * 3 / 4) || now == ms(0), "a look each retry interval, not more");
        one.happens(at, Event::Reply(look, Reply::Seen(at_epoch(Term::MAX_EPOCH))));
        now = at;
    }
    assert_eq!(one.notes, [Note::EpochsExhausted(Term::MAX_EPOCH)]);
    let (_, term) = one.acquires(now, &at_epoch(41));
    assert_eq!(term.epoch, 42);
}

/// By hand, or by a version with an error: a count must not keep anybody from leading, nor a holder from beating.
#[test]
fn counts_at_the_end_of_the_number_line_stop_nobody() {
    let mut seen = free();
    let record = seen.record.as_mut().unwrap();
    (record.transitions, record.beat) = (i64::MAX as u64, i64::MAX as u64);
    let (_, term) = One::new().acquires(ms(0), &seen);
    assert_eq!(term.transitions, i64::MAX as u64);
    let before = seen.record.clone().unwrap();
    let fresh = Fresh { tag: Tag(930), grant: Grant(930), wall: WallTime(0) };
    for next in [writes::renew(&seen, &before, &fresh), writes::release(&seen, &before, &fresh)] {
        assert!(next.beat != before.beat && i64::try_from(next.beat).is_ok(), "{}", next.beat);
    }
}

/// Leads by an acknowledged acquisition; returns the moment, and the register.
fn leads(one: &mut One) -> (Instant, Observation) {
    let (now, look, _) = one.sends(ms(0));
    one.happens(now, Event::Reply(look, Reply::Seen(free())));
    let (now, id, acquisition) = one.sends(now);
    let held = applied(&acquisition);
    one.happens(now, Event::Reply(id, Reply::Put(PutOutcome::Written(held.clone()))));
    assert!(one.leads);
    (now, held)
}

/// It looked at nothing meanwhile, so the store may have gone back to what it saw last.
#[test]
fn work_that_returns_late_lets_nobody_claim_on_what_was_seen_before() {
    let mut one = One::new();
    let (now, mut theirs) = leads(&mut one);
    let record = theirs.record.as_mut().expect("a register");
    (record.epoch, record.grant, record.tag) = (record.epoch + 1, Some(Grant(920)), Tag(920));
    let (now, beat, _) = one.sends(now);
    one.happens(now, Event::Reply(beat, Reply::Put(PutOutcome::Conflict(theirs.clone()))));
    assert_eq!(one.state.leads(now), None);
    let returned = now.plus(TTL * 20);
    one.happens(returned, Event::WorkReturned);
    let (claimed, _) = one.acquires(returned, &theirs);
    assert!(claimed >= returned.plus(lengthened(TTL)), "it waited only {:?}", claimed.since(returned));
}

#[test]
fn a_holder_whose_beats_begin_anew_after_the_last_number_goes_on_counting() {
    let mut one = One::new();
    let (mut now, mut store) = leads(&mut one);
    let spoilt = store.record.as_mut().expect("a register");
    (spoilt.beat, spoilt.tag) = (i64::MAX as u64, Tag(930));
    let mut beats = Vec::new();
    while beats.len() < 4 {
        let (at, id, request) = one.sends(now);
        now = at;
        let CallRequest::Put { expected, record, change: Change::Renew } = request else {
            panic!("a beat, not {request:?}")
        };
        let applied = expected.tag() == store.tag();
        if applied {
            beats.push(record.beat);
            store.record = Some(record);
        }
        let answer = if applied { PutOutcome::Written } else { PutOutcome::Conflict };
        one.happens(now, Event::Reply(id, Reply::Put(answer(store.clone()))));
    }
    assert!(beats.windows(2).all(|two| two[0] != two[1]), "candidates must see each of {beats:?}");
}

/// The epochs of its own terms are known to it by its own writes alone.
#[test]
fn a_register_that_only_its_holder_saw_is_made_anew_closed() {
    let mut one = One::new();
    one.state = State::new(Rules { creates_registers: true, ..rules() });
    let (now, held) = leads(&mut one);
    one.happens(now, Event::WorkReturned);
    let (now, id, release) = one.sends(now);
    let CallRequest::Put { record, change: Change::Release, .. } = release else { panic!("not {release:?}") };
    let free = Observation { record: Some(record), ..held.clone() };
    one.happens(now, Event::Reply(id, Reply::Put(PutOutcome::Written(free))));
    let (now, id, request) = one.sends(now);
    assert!(matches!(request, CallRequest::Put { change: Change::Acquire, .. }), "{request:?}");
    let gone = Observation { record: None, ..held };
    one.happens(now, Event::Reply(id, Reply::Put(PutOutcome::Conflict(gone))));
    let (_, _, creation) = one.sends(now);
    let CallRequest::Put { record, change: Change::Init, .. } = creation else { panic!("not {creation:?}") };
    assert!(record.grant.is_some() && record.epoch > 8, "{record:?}");
}

/// W-1 is final, and a hint may be late.
#[test]
fn a_hint_that_shows_other_work_is_looked_at_before_the_run_ends() {
    let mut one = One::new();
    let (now, look, _) = one.sends(ms(0));
    let mut own = free();
    let record = own.record.as_mut().expect("a register");
    (record.grant, record.epoch) = (Some(Grant(910)), 9);
    one.happens(now, Event::Reply(look, Reply::Seen(own.clone())));
    // The same term, from before an operator had its work forgotten, or after.
    let mut others = own.clone();
    let record = others.record.as_mut().expect("a register");
    (record.tag, record.beat) = (Tag(930), 1);
    record.extra.insert("work".into(), "other".into());
    one.happens(now, Event::Shown(others.clone()));
    assert!(!one.state.is_stopped(), "it may be old");
    let (now, look, request) = one.sends(now);
    assert!(matches!(request, CallRequest::Observe), "{request:?}");
    one.happens(now, Event::Reply(look, Reply::Seen(others)));
    assert!(one.state.is_stopped());
    assert_eq!(one.notes.last(), Some(&Note::OthersWork("other".into())));
}

/// In Postgres anybody who may connect can send one, and everybody who listens has a held register's tag.
#[test]
fn a_forged_hint_neither_hastens_a_takeover_nor_postpones_it_by_more_than_the_leases_own_ttl() {
    let mut held = free();
    let record = held.record.as_mut().expect("a register");
    (record.grant, record.epoch, record.ttl_ms) = (Some(Grant(910)), 9, 4_000);
    record.max_ttl_ms = 6_000;
    let forge: [fn(&mut Record); 6] = [
        |record| record.max_ttl_ms = u64::MAX,
        |record| record.lineage = Lineage("another".into()),
        |record| drop(record.extra.insert("epochs_above".into(), Term::MAX_EPOCH.into())),
        |record| record.ttl_ms = 1,
        |record| record.preemptible = true,
        |record| record.sealed = Some("moved".into()),
    ];
    let wait = Duration::from_secs(4);
    for (forge, beat) in forge.into_iter().flat_map(|forge| [(forge, i64::MAX as u64), (forge, 0)]) {
        let mut one = One::new();
        let (now, look, _) = one.sends(ms(0));
        one.happens(now, Event::Reply(look, Reply::Seen(held.clone())));
        let mut forged = held.clone();
        let record = forged.record.as_mut().expect("a register");
        record.beat = beat;
        forge(record);
        one.happens(now, Event::Shown(forged));
        one.happens(now, Event::HolderIsDead);
        let (at, taken) = one.acquires(now, &held);
        let waited = at.since(now);
        assert!((lengthened(wait)..lengthened(wait) + TTL).contains(&waited), "it waited {waited:?}");
        assert!(taken.epoch < Term::MAX_EPOCH, "epoch {}", taken.epoch);
    }
}

/// T-3, M-1: what was seen to bar a takeover bars it until a read shows otherwise.
#[test]
fn a_forged_hint_makes_no_register_free_that_was_read_as_sealed_or_under_a_foreign_stamp() {
    let bars: [fn(&mut Record); 2] =
        [|record| record.sealed = Some("moved".into()), |record| record.lineage = Lineage("another".into())];
    for bar in bars {
        let mut barred = free();
        bar(barred.record.as_mut().expect("a register"));
        let mut one = One::new();
        let (now, look, _) = one.sends(ms(0));
        one.happens(now, Event::Reply(look, Reply::Seen(barred)));
        one.happens(now, Event::Shown(free()));
        let (_, _, request) = one.sends(now);
        assert_eq!(request, CallRequest::Observe, "it looks");
    }
}

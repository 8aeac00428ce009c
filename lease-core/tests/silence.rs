//! Work that reports no progress (H-4), told to the step function: the lease is renewed for as long as it reports, and
//! no longer than `max_silence` after that.

use std::time::Duration;

use lease_core::internal::deadline::Deadline;
use lease_core::internal::step::{Action, CallRequest, Event, Jitter, Note, Reply, Rules, State, step};
use lease_core::internal::writes::{self, Candidate, Fresh};
use lease_core::{
    Change, Grant, Instant, Lineage, Loss, Observation, PutOutcome, RequestId, StopReason, Tag, WallTime,
};

const TTL: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(200);
const SILENCE: Duration = Duration::from_secs(7);

fn at(seconds: u64) -> Instant {
    Instant::ZERO.plus(Duration::from_secs(100 + seconds))
}

/// A leader, and a store that acknowledges each write at once. Its term began at 0 s.
struct Leader {
    state: State,
    now: Instant,
    bits: u128,
    register: Observation,
    /// When each write was sent.
    writes: Vec<(Instant, Change)>,
    /// Everything else that happened.
    news: Vec<(Instant, Action)>,
}

impl Leader {
    fn new(max_silence: Option<Duration>) -> Self {
        let who = Candidate {
            holder: "one".into(),
            region: String::new(),
            ttl: TTL,
            max_ttl: TTL,
            preemptible: false,
            work: None,
        };
        let rules = Rules {
            who,
            renew_every: TTL / 3,
            retry_every: RETRY,
            stop_grace: TTL / 5,
            max_silence,
            creates_registers: false,
        };
        let nothing =
            Observation { record: None, lineage: Lineage("a".into()), floor: 0, version: String::new() };
        let fresh = Fresh { tag: Tag(900), grant: Grant(901), wall: WallTime(0) };
        let record = writes::init(&nothing, TTL, 0, None, &fresh);
        let mut leader = Self {
            state: State::new(rules),
            now: at(0),
            bits: 0,
            register: Observation { record: Some(record), ..nothing },
            writes: Vec::new(),
            news: Vec::new(),
        };
        leader.happens(Event::Tick);
        assert!(leader.state.leads(leader.now).is_some(), "free is taken at once");
        leader
    }

    fn step(&mut self, event: Event) -> Vec<Action> {
        self.bits += 1;
        let fresh = Fresh { tag: Tag(self.bits), grant: Grant(self.bits), wall: WallTime(0) };
        let (state, actions) = step(self.state.clone(), self.now, event, &fresh, Jitter(128));
        self.state = state;
        actions
    }

    fn happens(&mut self, event: Event) {
        let mut actions = self.step(event);
        while !actions.is_empty() {
            for action in std::mem::take(&mut actions) {
                let Action::Send(id, request) = action else {
                    self.news.push((self.now, action));
                    continue;
                };
                let reply = match request {
                    CallRequest::Observe => Reply::Seen(self.register.clone()),
                    CallRequest::Put { expected, record, change } => {
                        assert_eq!(expected.tag(), self.register.tag(), "the only writer");
                        self.writes.push((self.now, change));
                        self.register.record = Some(record);
                        Reply::Put(PutOutcome::Written(self.register.clone()))
                    }
                };
                actions.extend(self.step(Event::Reply(id, reply)));
            }
        }
        assert!(
            self.state.wake_at().is_none_or(|wake| wake > self.now),
            "left something undone that was due"
        );
    }

    /// Lets time pass; the driver tells what it knows of the work before each event.
    fn lives_until(&mut self, until: Instant, reported: impl Fn(Instant) -> Instant) {
        while let Some(wake) = self.state.wake_at().filter(|wake| *wake <= until) {
            self.now = wake;
            assert!(
                self.step(Event::Progressed(reported(wake))).is_empty(),
                "a report does nothing by itself"
            );
            self.happens(Event::Tick);
        }
        self.now = until;
    }

    fn last_beat(&self) -> Instant {
        let beats =
            self.writes.iter().filter(|(_, change)| matches!(change, Change::Renew | Change::Acquire));
        beats.map(|(at, _)| *at).max().expect("it acquired")
    }

    fn told(&self) -> Vec<(Instant, StopReason)> {
        let told = |(at, action): &(Instant, Action)| match action {
            Action::TellStop(reason) => Some((*at, reason.clone())),
            _ => None,
        };
        self.news.iter().filter_map(told).collect()
    }

    fn ended(&self) -> Option<(Instant, Loss)> {
        self.news.iter().find_map(|(at, action)| match action {
            Action::End(loss) => Some((*at, *loss)),
            _ => None,
        })
    }
}

#[test]
fn work_that_reports_keeps_its_lease_and_so_does_work_without_a_bound() {
    for (max_silence, lag) in [(Some(SILENCE), SILENCE - Duration::from_millis(1)), (None, SILENCE * 100)] {
        let mut leader = Leader::new(max_silence);
        leader.lives_until(at(600), |now| now.minus(lag));
        assert!(leader.told().is_empty() && leader.state.leads(at(600)).is_some(), "{max_silence:?}");
    }
}

#[test]
fn silent_work_is_told_to_stop_and_its_term_ends_by_its_own_deadline() {
    let mut leader = Leader::new(Some(SILENCE));
    leader.lives_until(at(600), |now| now.min(at(2)));
    let silent = at(2).plus(SILENCE);
    assert_eq!(leader.told(), [(silent, StopReason::Silent(SILENCE))]);
    let last_beat = leader.last_beat();
    assert!(last_beat < silent && last_beat.plus(TTL / 3) >= silent, "renewed until then, and not after");
    let deadline = Deadline::of_acknowledged(last_beat, TTL).at();
    assert_eq!(leader.ended(), Some((deadline, Loss::Silent)));
    assert!(leader.register.grant().is_some(), "never released before the work has returned (H-1)");
    assert!(!leader.writes.iter().any(|(_, change)| *change == Change::Release));
}

#[test]
fn a_report_that_comes_too_late_brings_no_renewal_back() {
    let mut leader = Leader::new(Some(SILENCE));
    leader.lives_until(at(9), |now| now.min(at(2)));
    assert_eq!(leader.told().len(), 1);
    let last_beat = leader.last_beat();
    leader.lives_until(at(600), |now| now);
    assert_eq!(leader.last_beat(), last_beat);
    assert_eq!(leader.ended(), Some((Deadline::of_acknowledged(last_beat, TTL).at(), Loss::Silent)));
}

#[test]
fn work_that_hangs_while_it_drains_is_bounded_too() {
    for asked in [Event::Shutdown, Event::Tick] {
        let mut leader = Leader::new(Some(SILENCE));
        if asked == Event::Tick {
            // Somebody asks for the lease, and a hint tells the holder.
            let (record, fresh) = (leader.register.record.clone().expect("held"), Fresh::random());
            let grant = record.grant.expect("held");
            leader.register.record = Some(writes::request(&record, grant, RequestId(7), "ops", &fresh));
            leader.happens(Event::Hint);
        } else {
            leader.happens(asked);
        }
        assert_eq!(leader.told().len(), 1, "it drains");
        leader.lives_until(at(600), |_| at(0));
        let silent = at(0).plus(SILENCE);
        assert!(leader.last_beat() < silent && leader.last_beat().plus(TTL / 3) >= silent);
        assert_eq!(leader.ended().map(|(_, loss)| loss), Some(Loss::Silent));
    }
}

#[test]
fn silent_work_that_returns_releases_at_once_and_lets_others_come_first() {
    let mut leader = Leader::new(Some(SILENCE));
    leader.lives_until(at(9), |now| now.min(at(2)));
    leader.happens(Event::WorkReturned);
    let released = leader.now;
    assert_eq!(leader.ended(), Some((released, Loss::Returned)));
    assert!(leader.news.contains(&(released, Action::Note(Note::Released { answered: None }))));
    leader.lives_until(at(600), |now| now);
    let acquired: Vec<_> = leader.writes.iter().filter(|(_, change)| *change == Change::Acquire).collect();
    assert_eq!(acquired.len(), 2, "nobody else came");
    assert!(acquired[1].0 >= released.plus(RETRY * 2));
}

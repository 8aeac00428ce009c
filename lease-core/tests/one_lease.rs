//! "One lease's life" in docs/protocol.md, played on the step function: the page's times and numbers are those that the
//! protocol computes.

use std::time::Duration;

use lease_core::fence::{NotAdmitted, Stale, admit};
use lease_core::internal::deadline::Deadline;
use lease_core::internal::step::{Action, CallId, CallRequest, Event, Jitter, Reply, Rules, State, step};
use lease_core::internal::writes::{self, Candidate, Fresh};
use lease_core::{
    Certainty, Change, Grant, Instant, Lineage, Loss, Observation, PutOutcome, Record, StopReason, Tag, Term,
    WallTime,
};

const PAGE: &str = include_str!("../../docs/protocol.md");
const TTL: Duration = Duration::from_secs(15);

/// The row of the page's table at this time that has all of these words.
fn page_says(time: &str, words: &[String]) {
    let rows = PAGE.lines().filter(|line| line.starts_with(&format!("| {time} |")));
    let found = rows.clone().any(|row| words.iter().all(|word| row.contains(word)));
    assert!(found, "the page doesn't say {words:?} at {time}: {:?}", rows.collect::<Vec<_>>());
}

fn at(seconds: f64) -> Instant {
    Instant::ZERO.plus(Duration::from_secs(100) + Duration::from_secs_f64(seconds))
}

fn seconds(instant: Instant) -> f64 {
    instant.since(at(0.0)).as_secs_f64()
}

fn deadline_in_words(deadline: Deadline) -> String {
    format!("D = {:.2}", seconds(deadline.at()))
}

/// A store that loses nothing.
struct Register {
    shown: Observation,
}

impl Register {
    /// As `leasehold init --new` makes it.
    fn init(fresh: &Fresh) -> Self {
        let nothing =
            Observation { record: None, lineage: Lineage("a".into()), floor: 0, version: String::new() };
        let record = writes::init(&nothing, TTL, 0, None, fresh);
        Self { shown: Observation { record: Some(record), ..nothing } }
    }

    fn answer(&mut self, request: &CallRequest) -> Reply {
        match request {
            CallRequest::Observe => Reply::Seen(self.shown.clone()),
            CallRequest::Put { expected, record, .. } if expected.tag() == self.shown.tag() => {
                self.shown.floor = self.shown.floor.max(record.epoch);
                self.shown.record = Some(record.clone());
                Reply::Put(PutOutcome::Written(self.shown.clone()))
            }
            CallRequest::Put { .. } => Reply::Put(PutOutcome::Conflict(self.shown.clone())),
        }
    }

    fn record(&self) -> &Record {
        self.shown.record.as_ref().expect("it was made")
    }
}

#[derive(Clone)]
struct Process {
    state: State,
    bits: u128,
    actions: Vec<Action>,
}

impl Process {
    fn new(name: &str, number: u128) -> Self {
        let who = Candidate {
            holder: name.into(),
            region: String::new(),
            ttl: TTL,
            max_ttl: TTL,
            preemptible: false,
            work: None,
        };
        let rules = Rules {
            who,
            renew_every: TTL / 3,
            retry_every: TTL / 15,
            stop_grace: TTL / 5,
            max_silence: None,
            creates_registers: false,
        };
        Self { state: State::new(rules), bits: number << 32, actions: Vec::new() }
    }

    fn fresh(&mut self) -> Fresh {
        self.bits += 1;
        Fresh { tag: Tag(self.bits), grant: Grant(self.bits), wall: WallTime(0) }
    }

    fn happens(&mut self, time: f64, event: Event) {
        let fresh = self.fresh();
        // A pause of 0.9 s after a failure.
        let (state, actions) = step(self.state.clone(), at(time), event, &fresh, Jitter(154));
        self.state = state;
        self.actions = actions;
    }

    /// Time passes until the elector has something to do.
    fn wakes(&mut self) -> f64 {
        let time = seconds(self.state.wake_at().expect("it is alive"));
        self.happens(time, Event::Tick);
        time
    }

    fn sent(&self) -> (CallId, CallRequest) {
        let sent = self.actions.iter().find_map(|action| match action {
            Action::Send(id, request) => Some((*id, request.clone())),
            _ => None,
        });
        sent.unwrap_or_else(|| panic!("nothing was sent: {:?}", self.actions))
    }

    fn sent_record(&self, change: Change) -> Record {
        match self.sent().1 {
            CallRequest::Put { record, change: sent, .. } if sent == change => record,
            request => panic!("not {change:?}: {request:?}"),
        }
    }

    /// The store answers the newest call at this time.
    fn answered(&mut self, time: f64, store: &mut Register) {
        let (id, request) = self.sent();
        let reply = store.answer(&request);
        self.happens(time, Event::Reply(id, reply));
    }

    /// The store applies the newest call, and its reply is lost.
    fn applied_without_an_answer(&mut self, time: f64, store: &mut Register) {
        let (id, request) = self.sent();
        store.answer(&request);
        self.happens(time, Event::Reply(id, Reply::Failed(Certainty::Unknown)));
    }

    fn began(&self) -> (Term, Deadline) {
        let began = self.actions.iter().find_map(|action| match action {
            Action::Begin(term, deadline) => Some((*term, *deadline)),
            _ => None,
        });
        began.unwrap_or_else(|| panic!("no term began: {:?}", self.actions))
    }

    fn extended(&self) -> Deadline {
        let extended = self.actions.iter().find_map(|action| match action {
            Action::Extend(deadline) => Some(*deadline),
            _ => None,
        });
        extended.unwrap_or_else(|| panic!("D did not move: {:?}", self.actions))
    }
}

fn about(time: f64, wanted: f64) -> bool {
    (time - wanted).abs() < 0.01
}

#[test]
fn the_page_tells_one_leases_life_as_the_step_function_plays_it() {
    let (mut a, mut b, mut c) = (Process::new("a", 1), Process::new("b", 2), Process::new("c", 3));
    let mut store = Register::init(&a.fresh());
    page_says("–", &[format!("epoch {}", store.record().epoch), "free".into()]);

    // A reads and acquires.
    a.happens(0.0, Event::Tick);
    assert_eq!(a.sent().1, CallRequest::Observe);
    a.answered(0.0, &mut store);
    let acquired = a.sent_record(Change::Acquire);
    page_says(
        "0.0",
        &["Acquire".into(), format!("epoch {}", acquired.epoch), format!("beat {}", acquired.beat)],
    );
    a.answered(0.1, &mut store);
    let (first, deadline) = a.began();
    page_says("0.1", &[deadline_in_words(deadline)]);
    assert_eq!(admit(None, first), Ok(first));

    // B and C are standbys with a live watch.
    for standby in [&mut b, &mut c] {
        standby.happens(0.2, Event::Watching(true));
        standby.answered(0.2, &mut store);
    }

    // A renews, loses a reply, and goes on.
    assert!(about(a.wakes(), 5.0));
    assert_eq!(a.sent_record(Change::Renew).beat, 1);
    a.answered(5.0, &mut store);
    page_says("5.0", &["Beat 1".into(), deadline_in_words(a.extended())]);
    assert!(about(a.wakes(), 10.0));
    assert_eq!(a.sent_record(Change::Renew).beat, 2);
    a.applied_without_an_answer(10.0, &mut store);
    let again = a.wakes();
    assert!(about(again, 10.9), "the pause: {again}");
    assert_eq!(a.sent_record(Change::Renew).beat, 2);
    a.answered(again, &mut store);
    let next = a.sent_record(Change::Renew);
    a.answered(again, &mut store);
    page_says("10.9", &[format!("beat {}", next.beat), deadline_in_words(a.extended())]);

    // Meanwhile the others look once in a renew interval.
    for standby in [&mut b, &mut c] {
        while seconds(standby.state.wake_at().expect("it is alive")) < 12.0 {
            let poll = standby.wakes();
            standby.answered(poll, &mut store);
        }
    }

    // A stops: the work is told, returns, and only then the lease is released.
    a.happens(12.0, Event::Shutdown);
    assert_eq!(a.actions, [Action::TellStop(StopReason::Shutdown)]);
    a.happens(12.4, Event::WorkReturned);
    assert!(matches!(a.actions[..], [Action::End(Loss::Returned), Action::Send(..)]), "{:?}", a.actions);
    let released = a.sent_record(Change::Release);
    assert_eq!(released.grant, None);
    page_says(
        "12.4",
        &[format!("epoch {}", released.epoch), format!("beat {}", released.beat), "free".into()],
    );
    a.answered(12.4, &mut store);
    assert!(a.state.is_stopped());

    // The watch shows B and C the release. B's write comes first.
    for standby in [&mut b, &mut c] {
        standby.happens(12.4, Event::Shown(store.shown.clone()));
    }
    b.answered(12.4, &mut store);
    c.answered(12.5, &mut store);
    let (second, _) = b.began();
    page_says("12.4", &["Takeover".into(), format!("epoch {}", second.epoch)]);
    assert_eq!(c.sent().1, CallRequest::Observe, "it lost, and follows B");
    c.answered(12.5, &mut store);

    // B renews once more and is killed.
    assert!(about(b.wakes(), 17.4));
    b.answered(17.4, &mut store);
    let last = b.extended();
    page_says("17.4", &[format!("beat {}", store.record().beat), deadline_in_words(last), "17.5".into()]);

    // C's wait starts anew with that beat, goes on while nothing changes, and ends after B's deadline.
    for poll in [17.5, 22.5, 27.5, 32.5] {
        assert!(about(c.wakes(), poll), "a poll at {poll}");
        assert_eq!(c.sent().1, CallRequest::Observe);
        c.answered(poll, &mut store);
    }
    page_says("22.5", &["27.5 and 32.5".into()]);
    let expired = c.wakes();
    assert!(at(expired) > last.at(), "C takes over at {expired}, and B may act until {last:?}");
    let taken = c.sent_record(Change::Acquire);
    page_says(&format!("{expired:.2}"), &["Expiry".into(), format!("epoch {}", taken.epoch)]);

    // Its acknowledgement is lost: only an acknowledged renewal begins the term.
    c.applied_without_an_answer(32.6, &mut store);
    let read = c.wakes();
    page_says(&format!("{read:.1}"), &["renewal".into()]);
    assert_eq!(c.sent().1, CallRequest::Observe);
    c.answered(read, &mut store);
    assert_eq!(c.state.leads(at(read)), None, "seeing its own grant proves nothing");
    assert_eq!(c.sent_record(Change::Renew).grant, taken.grant);
    c.answered(read, &mut store);
    let (third, _) = c.began();
    assert_eq!(third.epoch, taken.epoch);

    // Had B only been paused: its term is over before it sends anything, and its late write is refused.
    let expected = b.clone().state.leads(at(32.0));
    assert_eq!(expected, Some(second), "before its deadline it led");
    b.happens(34.0, Event::Tick);
    assert_eq!(b.actions, [Action::End(Loss::Expired)]);
    assert_eq!(admit(Some(third), second), Err(NotAdmitted::Stale(Stale { refused: second })));
    page_says("later", &[format!("mark is {}", third.epoch), "FENCING_EPOCH_STALE".into()]);
}

//! A candidate that meets a register, in simulated time: the real step function over one register that compares tags.

use std::time::Duration;

use lease_core::internal::deadline::lengthened;
use lease_core::internal::step::{Action, CallId, CallRequest, Event, Jitter, Reply, Rules, State, step};
use lease_core::internal::writes::{self, Candidate, Fresh};
use lease_core::{Grant, Instant, Observation, PutOutcome, Record, Revocation, Tag, Term, WallTime};

const TTL: Duration = Duration::from_secs(2);
const MAX_TTL: Duration = Duration::from_secs(4);
const BEAT: Duration = Duration::from_millis(500);
const HOLDER: &str = "candidate";

/// A register that asks for a longer wait is watched for this long.
const PATIENCE: Duration = Duration::from_secs(30);
/// A candidate polls at least this often, and needs a few polls.
const POLLS: Duration = Duration::from_secs(2);
const START: Instant = Instant(1_000_000_000);

struct Room {
    now: Instant,
    state: State,
    store: Observation,
    /// Numbers that are different each time, far from any input's.
    fresh: u128,
    led: Option<(Term, Instant)>,
}

impl Room {
    fn new(store: Observation) -> Self {
        let rules = Rules {
            who: Candidate {
                holder: HOLDER.to_owned(),
                region: String::new(),
                ttl: TTL,
                max_ttl: MAX_TTL,
                preemptible: false,
                work: None,
            },
            renew_every: BEAT,
            retry_every: BEAT,
            stop_grace: Duration::ZERO,
            max_silence: None,
            creates_registers: false,
        };
        Self { now: START, state: State::new(rules), store, fresh: u128::MAX / 3, led: None }
    }

    fn fresh(&mut self) -> Fresh {
        self.fresh += 1;
        Fresh { tag: Tag(self.fresh), grant: Grant(self.fresh), wall: WallTime(0) }
    }

    fn happens(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let fresh = self.fresh();
            let (state, actions) = step(self.state.clone(), self.now, event, &fresh, Jitter(0));
            self.state = state;
            for action in actions {
                match action {
                    Action::Send(call, request) => events.push(self.serve(call, request)),
                    Action::Begin(term, _) => self.led = Some((term, self.now)),
                    _ => {}
                }
            }
        }
    }

    fn serve(&mut self, call: CallId, request: CallRequest) -> Event {
        let CallRequest::Put { expected, record, .. } = request else {
            return Event::Reply(call, Reply::Seen(self.store.clone()));
        };
        // As the statement in Postgres compares, whose hints can be forged.
        let key =
            |seen: &Observation| seen.record.as_ref().map(|record| (record.tag, record.grant, record.epoch));
        let same = key(&expected) == key(&self.store) && expected.lineage == self.store.lineage;
        Event::Reply(call, Reply::Put(if same { self.write(record) } else { self.conflict() }))
    }

    fn conflict(&self) -> PutOutcome {
        PutOutcome::Conflict(self.store.clone())
    }

    fn write(&mut self, record: Record) -> PutOutcome {
        self.store.floor = self.store.floor.max(record.epoch);
        self.store.record = Some(record);
        PutOutcome::Written(self.store.clone())
    }

    /// Lets time pass until `end`, or until the candidate leads.
    fn run_until(&mut self, end: Instant) {
        while self.led.is_none() {
            match self.state.wake_at() {
                Some(at) if at <= end => {
                    self.now = self.now.max(at);
                    self.happens(Event::Tick);
                }
                _ => break,
            }
        }
        if self.led.is_none() {
            self.now = end;
        }
    }
}

/// Judges what a candidate does with a register that somebody put there and that nobody touches any more.
///
/// # Panics
/// It leads too early, or never although nothing says so, or in an epoch that isn't new.
pub(crate) fn meets(seen: &Observation) {
    let mut room = Room::new(seen.clone());
    room.run_until(START.plus(PATIENCE));
    let Some(record) = &seen.record else {
        return assert!(room.led.is_none(), "it acquired from absence (T-5)");
    };
    let max_ttl = record.max_ttl().max(MAX_TTL);
    let wait = match (record.lineage == seen.lineage, record.grant) {
        (false, _) => max_ttl,
        (true, None) => Duration::ZERO,
        (true, Some(_)) => record.ttl().max(TTL),
    };
    let revocation = Revocation::of(record);
    let held_off = revocation.as_ref().is_some_and(|by| by.except.as_deref() == Some(HOLDER));
    let never = record.sealed.is_some()
        || seen.next_epoch() > Term::MAX_EPOCH
        || record.work().is_some()
        || held_off
        || lengthened(wait.min(PATIENCE)) + POLLS > PATIENCE;
    match room.led {
        Some((term, at)) => {
            assert!(
                at.since(START) >= wait,
                "it led {:?} after it came, and must wait {wait:?}",
                at.since(START)
            );
            assert!(record.sealed.is_none(), "it took a sealed register (M-1)");
            assert!(
                term.epoch > record.issued() && term.epoch > seen.floor,
                "epoch {} is not new",
                term.epoch
            );
            assert!(term.epoch <= Term::MAX_EPOCH, "epoch {} is above the ceiling (E-1)", term.epoch);
            keeps_what_it_does_not_know(record, room.store.record.as_ref().expect("it was written"));
        }
        None => assert!(never, "nobody leads {PATIENCE:?} after the wait of {wait:?} began: {record:?}"),
    }
}

/// Fields of another version survive.
fn keeps_what_it_does_not_know(before: &Record, after: &Record) {
    let theirs = |name: &String| name.starts_with("future");
    for (name, value) in before.extra.iter().filter(|(name, _)| theirs(name)) {
        assert_eq!(after.extra.get(name), Some(value), "the field {name} of another version is lost");
    }
}

/// Judges what a candidate does with a hint, while a holder lives and after it died.
///
/// # Panics
/// It leads beside the living holder, or not in time after its death.
pub(crate) fn hears(hint: impl Fn(&Observation) -> Event) {
    let mut seen = Observation {
        record: None,
        lineage: lease_core::Lineage("here".to_owned()),
        floor: 7,
        version: String::new(),
    };
    let free = writes::init(&seen, MAX_TTL, 0, None, &fixed(1));
    seen.record = Some(free.clone());
    let who = Candidate {
        holder: "holder".to_owned(),
        region: String::new(),
        ttl: TTL,
        max_ttl: MAX_TTL,
        preemptible: false,
        work: None,
    };
    seen.record = Some(writes::acquire(&seen, &free, &who, Grant(2), &fixed(2)));
    let mut room = Room::new(seen.clone());
    room.happens(Event::Watching(true));
    let mut last = START;
    for beat in 0..20_u32 {
        last = START.plus(BEAT * beat);
        room.run_until(last);
        let held = room.store.record.clone().expect("it is there");
        let next = writes::renew(&room.store, &held, &fixed(10 + u128::from(beat)));
        room.write(next);
        if beat % 5 == 4 {
            room.happens(hint(&room.store));
        }
        assert!(room.led.is_none(), "it led beside a holder that renews");
    }
    // The last words come when the holder is dead.
    room.run_until(last.plus(TTL / 2));
    room.happens(hint(&room.store));
    let again = room.now;
    room.run_until(again.plus(PATIENCE));
    let (_, at) = room.led.expect("a hint must not keep everybody from a dead holder's lease");
    assert!(at.since(last) >= TTL, "it led {:?} after the last beat, whose ttl is {TTL:?}", at.since(last));
    // A hint may start the wait anew, at most at the maximum.
    let limit = lengthened(MAX_TTL) + POLLS;
    assert!(
        at.since(again) <= limit,
        "it led {:?} after the hint, and {limit:?} are enough",
        at.since(again)
    );
}

fn fixed(number: u128) -> Fresh {
    Fresh { tag: Tag(number), grant: Grant(number), wall: WallTime(0) }
}

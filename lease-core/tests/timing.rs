//! The figures of `timing()` for failover, outages and load agree with the step function.

use std::time::Duration;

use lease_core::internal::step::{Action, CallId, CallRequest, Event, Jitter, Reply, State, step};
use lease_core::internal::writes::{Fresh, init};
use lease_core::{
    BackendError, Certainty, Elector, Instant, LeaseName, Lineage, Observation, PutOutcome, Record,
    StopReason, Timing, WorkloadId,
};

/// A store that answers at once, or fails at once during its outage, and counts.
struct Store {
    record: Record,
    outage: std::ops::Range<Instant>,
    reads: u32,
    writes: u32,
}

impl Store {
    /// A register that is free.
    fn new() -> Self {
        let empty =
            Observation { record: None, lineage: Lineage("a".into()), floor: 0, version: String::new() };
        let record = init(&empty, Duration::from_secs(60), 0, None, &Fresh::random());
        Self { record, outage: Instant::ZERO..Instant::ZERO, reads: 0, writes: 0 }
    }

    fn seen(&self) -> Observation {
        let record = Some(self.record.clone());
        Observation { record, lineage: Lineage("a".into()), floor: 0, version: String::new() }
    }

    fn answer(&mut self, now: Instant, request: CallRequest) -> Reply {
        if self.outage.contains(&now) {
            return Reply::Failed(Certainty::NotApplied);
        }
        match request {
            CallRequest::Observe => {
                self.reads += 1;
                Reply::Seen(self.seen())
            }
            CallRequest::Put { expected, record, .. } => {
                self.writes += 1;
                if expected.record.map(|record| record.tag) != Some(self.record.tag) {
                    return Reply::Put(PutOutcome::Conflict(self.seen()));
                }
                self.record = record;
                Reply::Put(PutOutcome::Written(self.seen()))
            }
        }
    }
}

/// One elector, driven by hand.
struct One {
    state: State,
    jitter: Jitter,
    /// When it was told to stop because its deadline was near, and when its term ended.
    told: Option<Instant>,
    ended: Option<Instant>,
}

impl One {
    fn new(elector: &Elector, jitter: u8) -> Self {
        let state = State::new(elector.rules().clone());
        Self { state, jitter: Jitter(jitter), told: None, ended: None }
    }

    fn take(&mut self, store: &mut Store, now: Instant, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let (state, actions) = step(self.state.clone(), now, event, &Fresh::random(), self.jitter);
            self.state = state;
            let mut calls: Vec<(CallId, CallRequest)> = Vec::new();
            for action in actions {
                match action {
                    Action::Send(id, request) => calls.push((id, request)),
                    Action::TellStop(StopReason::Expiring) => self.told = Some(now),
                    Action::End(_) => self.ended = Some(now),
                    _ => {}
                }
            }
            events
                .extend(calls.into_iter().map(|(id, request)| Event::Reply(id, store.answer(now, request))));
        }
    }

    /// Runs until `end`, waking exactly when the step function asks for it.
    fn run(&mut self, store: &mut Store, end: Instant) {
        while let Some(at) = self.state.wake_at().filter(|at| *at <= end) {
            self.take(store, at, Event::Tick);
        }
    }
}

fn elector() -> Elector {
    let nobody = || async { Err(BackendError::refused("never connected")) };
    let workload = WorkloadId::new("a").expect("valid");
    Elector::builder(nobody, LeaseName::new("timing").expect("valid"), workload)
        .build()
        .expect("the defaults")
}

fn start() -> Instant {
    Instant::ZERO.plus(Duration::from_secs(1_000))
}

/// A leader since `start()`, which has renewed until just before its beat number `beats` is due.
fn leader(store: &mut Store, timing: &Timing, beats: u32) -> (One, Instant) {
    let mut leader = One::new(&elector(), u8::MAX);
    leader.take(store, start(), Event::Tick);
    assert!(leader.state.leads(start()).is_some());
    let due = start().plus(timing.renew_every * beats);
    leader.run(store, due.minus(Duration::from_nanos(1)));
    (leader, due)
}

const A_BIT: Duration = Duration::from_millis(1);

#[test]
fn an_outage_of_the_computed_length_goes_unnoticed_and_a_longer_one_does_not() {
    let timing = elector().timing();
    for (length, told, ended) in [
        (timing.outage_unnoticed - A_BIT, false, false),
        (timing.outage_unnoticed + timing.retry_every, true, false),
        (timing.outage_survived - A_BIT, true, false),
        (timing.outage_survived + timing.retry_every, true, true),
    ] {
        let mut store = Store::new();
        let (mut leader, due) = leader(&mut store, &timing, 3);
        store.outage = due..due.plus(length);
        leader.run(&mut store, due.plus(timing.ttl * 3));
        assert_eq!((leader.told.is_some(), leader.ended.is_some()), (told, ended), "{length:?}");
    }
}

#[test]
fn a_standby_leads_within_the_computed_failover_and_no_earlier_than_it_may() {
    let timing = elector().timing();
    for (watching, worst) in [(false, timing.failover_polling), (true, timing.failover_watching)] {
        let mut store = Store::new();
        let (mut leader, due) = leader(&mut store, &timing, 3);
        let mut standby = One::new(&elector(), u8::MAX);
        standby.take(&mut store, start(), Event::Watching(watching));
        standby.run(&mut store, due.minus(Duration::from_nanos(1)));
        // The last beat is acknowledged, and its holder dies.
        leader.run(&mut store, due);
        let took = (0..)
            .map(|n| due.plus(A_BIT * n))
            .find(|at| {
                standby.run(&mut store, *at);
                standby.state.leads(*at).is_some()
            })
            .expect("it leads some day");
        assert!(took.since(due) <= worst + A_BIT, "{:?} > {worst:?}", took.since(due));
        assert!(took.since(due) >= timing.acted_on_for, "before the holder's own deadline");
    }
}

#[test]
fn the_load_is_as_computed() {
    let timing = elector().timing();
    let seconds = 600;
    let end = start().plus(Duration::from_secs(seconds));
    let rate = |count: u32| f64::from(count) / seconds as f64;
    let near = |measured: f64, computed: f64| {
        assert!((measured / computed - 1.0).abs() < 0.03, "{measured} ≠ {computed}")
    };
    let mut store = Store::new();
    let (mut leader, _) = leader(&mut store, &timing, 1);
    leader.run(&mut store, end);
    near(rate(store.writes), timing.leader_writes_per_second());
    assert!(store.reads <= 1, "a leader reads nothing");
    for (watching, computed) in [
        (true, timing.standby_reads_per_second_watching()),
        (false, timing.standby_reads_per_second_polling()),
    ] {
        store.reads = 0;
        let mut standby = One::new(&elector(), 128);
        standby.take(&mut store, start(), Event::Watching(watching));
        // The leader goes on meanwhile.
        let mut at = start();
        while at < end {
            at = at.plus(Duration::from_millis(100));
            store.record.beat += 1;
            standby.run(&mut store, at);
        }
        near(rate(store.reads), computed);
    }
}

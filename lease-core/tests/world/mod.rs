//! A whole fleet in one thread: real step functions, one register, and a network, clocks and processes that misbehave
//! as a seed and a list of faults say. Time is simulated; nothing here waits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use lease_core::internal::step::{Action, CallId, CallRequest, Event, Jitter, Reply, Rules, State};
use lease_core::internal::writes::{self, Candidate, Fresh};
use lease_core::{
    Certainty, Change, Grant, Instant, Lineage, Observation, PutOutcome, Record, RequestId, Tag, Term,
    WallTime,
};

pub(crate) const TTL: Duration = Duration::from_millis(3_000);
pub(crate) const MAX_TTL: Duration = Duration::from_millis(4_000);
pub(crate) const RETRY: Duration = Duration::from_millis(200);
pub(crate) const MAX_SILENCE: Duration = Duration::from_millis(5_000);
pub(crate) const RENEW: Duration = Duration::from_millis(1_000);

/// A fault, or an operator's action, at some moment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// A process dies and starts anew after this many milliseconds.
    Crash(usize, u64),
    /// A process stands still for this many milliseconds; its clock doesn't.
    Pause(usize, u64),
    /// A process's work hangs for this many milliseconds: it neither reports progress nor returns (H-4).
    Stall(usize, u64),
    /// A process is asked to stop, and starts anew 100 ms after it has ended.
    Stop(usize),
    /// Requests to the store are lost for this many milliseconds.
    LoseRequests(u64),
    /// Replies of the store are lost for this many milliseconds: applied all the same.
    LoseReplies(u64),
    /// Messages take up to this many milliseconds for the next two seconds.
    Slow(u64),
    /// The store goes on in another lineage, without what it wrote in the last so many milliseconds.
    FailOver(u64),
    /// The store is put back to its state of so many milliseconds ago, in the same lineage; with an outage, in which
    /// every connection ends, or under running ones.
    Restore(u64, bool),
    /// An administrator deletes the register.
    Delete,
    /// An operator runs `init`.
    Init,
    /// An operator asks the holder to step down.
    StepDown,
    /// An operator revokes the holder's grant.
    Revoke,
    /// Somebody says that the holder is dead, which must count for nothing on a record not marked pre-emptible.
    HolderIsDead(usize),
}

#[derive(Clone, Debug)]
enum Happens {
    Arrives { node: usize, incarnation: u64, call: CallId, request: Box<CallRequest> },
    Replies { node: usize, incarnation: u64, call: CallId, reply: Box<Reply> },
    Wakes { node: usize, alarm: u64 },
    Shows { node: usize, observation: Box<Observation> },
    Returns { node: usize, incarnation: u64, term: Term },
    Starts { node: usize },
    Faults(Fault),
}

struct Node {
    state: Option<State>,
    incarnation: u64,
    /// Clock rate in parts per million beside one, and its offset.
    drift_ppm: i64,
    offset: u64,
    paused_until: u64,
    /// Each step sets the alarm anew; an older one rings for nobody.
    alarm: u64,
    /// The term whose work runs, and when it began.
    working: Option<(Term, u64)>,
    /// From when until when its work hangs.
    stalled: (u64, u64),
    /// When its work last reported progress, by its own clock.
    reported: Instant,
    return_delay: u64,
    /// Its connection has ended, which it finds out with its next call.
    cut: bool,
}

#[derive(Clone)]
struct Store {
    register: Option<Record>,
    floor: u64,
}

/// The step function, or a wrong one.
pub(crate) type StepFn = fn(State, Instant, Event, &Fresh, Jitter) -> (State, Vec<Action>);

pub(crate) struct World {
    step: StepFn,
    /// True time, in nanoseconds.
    now: u64,
    nodes: Vec<Node>,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happens>,
    next: u64,
    random: u64,
    store: Store,
    lineage: u64,
    /// It was restored, and no operator has said so yet.
    untold: bool,
    past: Vec<(u64, Store)>,
    requests_lost_until: u64,
    replies_lost_until: u64,
    slow: (u64, u64),
    /// Every term that began, in order of beginning.
    pub(crate) terms: Vec<(Term, usize)>,
    /// Renewals that the store applied.
    pub(crate) renewals: u64,
    pub(crate) events: u64,
    creates_registers: bool,
}

pub(crate) const MS: u64 = 1_000_000;

/// A message takes less than this when nothing is slow.
const USUAL_MS: u64 = 5;

/// The margin by which a process lifts epochs above those that it has seen (T-6).
const UNSEEN_EPOCHS: u64 = 1 << 20;

/// More events than any fleet of these tests has in its time: a failure, and not a test that never ends.
const SPIN: u64 = 200_000;

impl World {
    pub(crate) fn new(nodes: usize, seed: u64, creates_registers: bool, step: StepFn) -> Self {
        let mut world = Self {
            step,
            now: 0,
            nodes: Vec::new(),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next: 0,
            random: seed | 1,
            store: Store { register: None, floor: 0 },
            lineage: 1,
            untold: false,
            past: Vec::new(),
            requests_lost_until: 0,
            replies_lost_until: 0,
            slow: (0, 0),
            terms: Vec::new(),
            renewals: 0,
            events: 0,
            creates_registers,
        };
        for node in 0..nodes {
            let drift_ppm = world.below(4001) as i64 - 2000; // ρ = 1/500 = 2000 ppm
            let offset = world.below(1_000_000) * MS;
            let start = world.below(500) * MS;
            world.nodes.push(Node {
                state: None,
                incarnation: 0,
                drift_ppm,
                offset,
                paused_until: 0,
                alarm: 0,
                working: None,
                stalled: (0, 0),
                reported: Instant::ZERO,
                return_delay: 0,
                cut: false,
            });
            world.schedule(start, Happens::Starts { node });
        }
        if !creates_registers {
            world.admin_init();
        }
        world
    }

    /// From now on no call takes longer than `limit`, and many take nearly as long.
    pub(crate) fn round_trips_up_to(&mut self, limit: Duration) {
        self.slow = ((limit / 2).as_millis() as u64 - USUAL_MS, u64::MAX);
    }

    pub(crate) fn fault_at(&mut self, at_ms: u64, fault: Fault) {
        self.schedule(at_ms * MS, Happens::Faults(fault));
    }

    /// xorshift64*: the schedule is a function of the seed alone.
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % bound.max(1)
    }

    fn bits(&mut self) -> u128 {
        (u128::from(self.below(u64::MAX)) << 64) | u128::from(self.below(u64::MAX))
    }

    fn fresh(&mut self) -> Fresh {
        Fresh { tag: Tag(self.bits()), grant: Grant(self.bits()), wall: WallTime(self.below(1 << 40) as i64) }
    }

    fn schedule(&mut self, at: u64, what: Happens) {
        self.next += 1;
        self.queue.push(Reverse((at.max(self.now), self.next)));
        self.happenings.insert(self.next, what);
    }

    fn clock(&self, node: usize) -> Instant {
        let node = &self.nodes[node];
        Instant(
            node.offset + (self.now as i128 * (1_000_000 + i128::from(node.drift_ppm)) / 1_000_000) as u64,
        )
    }

    /// True time at which a node's clock shows `at`, rounded up.
    fn true_time(&self, node: usize, at: Instant) -> u64 {
        let node = &self.nodes[node];
        let own = at.0.saturating_sub(node.offset);
        (i128::from(own) * 1_000_000 / i128::from(1_000_000 + node.drift_ppm)) as u64 + 1
    }

    fn rules(&self, node: usize) -> Rules {
        Rules {
            who: Candidate {
                holder: format!("node-{node}"),
                region: String::new(),
                ttl: if node.is_multiple_of(2) { TTL } else { MAX_TTL },
                max_ttl: MAX_TTL,
                preemptible: false,
                work: None,
            },
            renew_every: RENEW,
            retry_every: RETRY,
            stop_grace: Duration::from_millis(600),
            max_silence: Some(MAX_SILENCE),
            creates_registers: self.creates_registers,
        }
    }

    /// Lets the fleet run until `until_ms`, checking L-1 and L-2 after every event.
    pub(crate) fn run_until(&mut self, until_ms: u64) {
        while let Some(Reverse((at, _))) = self.queue.peek().copied()
            && at <= until_ms * MS
        {
            let Some(Reverse((at, id))) = self.queue.pop() else { return };
            let Some(what) = self.happenings.remove(&id) else { continue };
            self.now = at;
            self.events += 1;
            assert!(self.events < SPIN, "{SPIN} events by {} ms: somebody spins", self.now / MS);
            self.happen(what);
            let leaders: Vec<_> = self.leaders().collect();
            assert!(leaders.len() <= 1, "L-1 at {} ms: {leaders:?}", self.now / MS);
            for (node, _) in leaders {
                self.check_silence(node);
            }
        }
        self.now = self.now.max(until_ms * MS);
    }

    /// H-4: hung work keeps its lease for `max_silence` and a ttl, by a clock that may be slow.
    fn check_silence(&self, node: usize) {
        let bound = (MAX_SILENCE + self.rules(node).who.ttl) * 502 / 500;
        let Node { stalled: (from, until), working, .. } = self.nodes[node];
        let hung = working.filter(|_| self.now < until).map(|(_, began)| self.now - from.max(began));
        assert!(
            hung.is_none_or(|hung| hung <= bound.as_nanos() as u64),
            "H-4 at {} ms: node {node} leads, and its work has hung for {hung:?} ns",
            self.now / MS
        );
    }

    /// The time since the fleet's beginning.
    pub(crate) fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.now)
    }

    pub(crate) fn leaders(&self) -> impl Iterator<Item = (usize, Term)> + '_ {
        self.nodes.iter().enumerate().filter_map(|(index, node)| {
            node.state.as_ref().and_then(|state| state.leads(self.clock(index))).map(|term| (index, term))
        })
    }

    fn happen(&mut self, what: Happens) {
        match what {
            Happens::Starts { node } => {
                if self.nodes[node].state.is_none() {
                    // The runbook: before anything is started.
                    if self.untold {
                        self.tell_of_restore();
                    }
                    self.nodes[node].incarnation += 1;
                    self.nodes[node].working = None;
                    self.nodes[node].state = Some(State::new(self.rules(node)));
                    self.nodes[node].return_delay = self.below(1500) * MS;
                    self.step(node, Event::Tick);
                }
            }
            Happens::Wakes { node, alarm }
                if self.nodes[node].alarm == alarm && self.nodes[node].state.is_some() =>
            {
                let paused = self.nodes[node].paused_until;
                if paused > self.now {
                    self.schedule(paused, Happens::Wakes { node, alarm });
                } else {
                    self.step(node, Event::Tick);
                }
            }
            Happens::Arrives { node, incarnation, call, request } => {
                if self.now < self.requests_lost_until {
                    return self.fail(node, incarnation, call, Certainty::NotApplied);
                }
                let reply = self.serve(&request);
                if self.now < self.replies_lost_until {
                    return self.fail(node, incarnation, call, Certainty::Unknown);
                }
                let delay = self.delay();
                let reply = Happens::Replies { node, incarnation, call, reply: Box::new(reply) };
                self.schedule(self.now + delay, reply);
            }
            Happens::Replies { node, incarnation, call, reply } if self.is_live(node, incarnation) => {
                let paused = self.nodes[node].paused_until;
                if paused > self.now {
                    let later = Happens::Replies { node, incarnation, call, reply };
                    self.schedule(paused, later);
                } else {
                    self.step(node, Event::Reply(call, *reply));
                }
            }
            Happens::Returns { node, incarnation, term } if self.is_live(node, incarnation) => {
                let held_up = self.nodes[node].paused_until.max(self.nodes[node].stalled.1);
                if held_up > self.now {
                    self.schedule(held_up, Happens::Returns { node, incarnation, term });
                } else if self.nodes[node].working.is_some_and(|(working, _)| working == term) {
                    self.nodes[node].working = None;
                    self.step(node, Event::WorkReturned);
                }
            }
            Happens::Shows { node, observation } => self.tell(node, Event::Shown(*observation)),
            Happens::Wakes { .. } | Happens::Replies { .. } | Happens::Returns { .. } => {}
            Happens::Faults(fault) => self.suffer(fault),
        }
    }

    fn is_live(&self, node: usize, incarnation: u64) -> bool {
        self.nodes[node].incarnation == incarnation && self.nodes[node].state.is_some()
    }

    /// A connection error reaches the caller half of the time; else it hears nothing at all.
    fn fail(&mut self, node: usize, incarnation: u64, call: CallId, certainty: Certainty) {
        if self.below(2) == 0 {
            let delay = self.delay();
            let reply = Box::new(Reply::Failed(certainty));
            self.schedule(self.now + delay, Happens::Replies { node, incarnation, call, reply });
        }
    }

    fn delay(&mut self) -> u64 {
        let usual = self.below(USUAL_MS * MS);
        if self.now < self.slow.1 { usual + self.below(self.slow.0 * MS) } else { usual }
    }

    fn step(&mut self, node: usize, event: Event) {
        let (now, fresh, jitter) = (self.clock(node), self.fresh(), Jitter(self.below(256) as u8));
        let incarnation = self.nodes[node].incarnation;
        let state = self.nodes[node].state.take().expect("a live node steps");
        if self.nodes[node].stalled.1 <= self.now {
            self.nodes[node].reported = now;
        }
        let reported = Event::Progressed(self.nodes[node].reported);
        let (state, _) = (self.step)(state, now, reported, &fresh, jitter);
        let (state, actions) = (self.step)(state, now, event, &fresh, jitter);
        let wake = state.wake_at();
        assert!(
            wake.is_none_or(|wake| wake > now),
            "a step left something that was due: it would be called at once"
        );
        let stopped = state.is_stopped();
        self.nodes[node].state = Some(state);
        for action in actions {
            self.act(node, incarnation, action);
        }
        if stopped {
            self.nodes[node].state = None;
            self.schedule(self.now + 100 * MS, Happens::Starts { node });
        } else if let Some(wake) = wake {
            let at = self.true_time(node, wake);
            self.nodes[node].alarm += 1;
            let alarm = self.nodes[node].alarm;
            self.schedule(at, Happens::Wakes { node, alarm });
        }
    }

    fn act(&mut self, node: usize, incarnation: u64, action: Action) {
        let delay = self.nodes[node].return_delay;
        match action {
            Action::Send(call, _) if self.nodes[node].cut => {
                self.nodes[node].cut = false;
                let reply = Box::new(Reply::Failed(Certainty::NotApplied));
                let delay = self.delay();
                self.schedule(self.now + delay, Happens::Replies { node, incarnation, call, reply });
            }
            Action::Send(call, request) => {
                let delay = self.delay();
                let request = Box::new(request);
                self.schedule(self.now + delay, Happens::Arrives { node, incarnation, call, request });
            }
            Action::Begin(term, _) => {
                if let Some((last, who)) = self.terms.last() {
                    assert!(term.epoch > last.epoch, "L-2: {term} of {node} after {last} of {who}");
                }
                assert_eq!(self.nodes[node].working, None, "one term's work at a time");
                self.terms.push((term, node));
                self.nodes[node].working = Some((term, self.now));
            }
            Action::TellStop(_) | Action::End(_) => {
                if let Some((term, _)) = self.nodes[node].working {
                    self.schedule(self.now + delay, Happens::Returns { node, incarnation, term });
                }
            }
            Action::Drop(_) | Action::Extend(_) | Action::Note(_) | Action::Stopped => {}
        }
    }

    // === the store ===

    fn observation(&self) -> Observation {
        Observation {
            record: self.store.register.clone(),
            lineage: Lineage(self.lineage.to_string()),
            floor: self.store.floor,
            version: String::new(),
        }
    }

    fn serve(&mut self, request: &CallRequest) -> Reply {
        match request {
            CallRequest::Observe => Reply::Seen(self.observation()),
            CallRequest::Put { expected, record, change } => {
                let present = self.observation();
                if present.tag() != expected.tag() || present.lineage != expected.lineage {
                    return Reply::Put(PutOutcome::Conflict(present));
                }
                self.write(record.clone(), *change);
                Reply::Put(PutOutcome::Written(self.observation()))
            }
        }
    }

    fn write(&mut self, record: Record, change: Change) {
        self.past.push((self.now, self.store.clone()));
        self.renewals += u64::from(change == Change::Renew);
        if change == Change::Acquire || record.grant.is_some() {
            self.store.floor = self.store.floor.max(record.epoch);
        }
        self.store.register = Some(record);
        self.show();
    }

    /// The watch: one in four hints is lost, one in four is seconds late.
    fn show(&mut self) {
        for node in 0..self.nodes.len() {
            let delay = match self.below(4) {
                0 => continue,
                1 => self.below(8_000 * MS),
                _ => self.delay(),
            };
            let observation = Box::new(self.observation());
            self.schedule(self.now + delay, Happens::Shows { node, observation });
        }
    }

    fn admin_init(&mut self) {
        if self.store.register.is_none() {
            let fresh = self.fresh();
            let record = writes::init(&self.observation(), MAX_TTL, 0, Some(fresh.grant), &fresh);
            self.write(record, Change::Init);
        }
    }

    fn restore(&mut self, ms: u64, outage: bool) {
        let since = self.now.saturating_sub(ms * MS);
        let Some((_, old)) = self.past.iter().find(|(at, _)| *at >= since) else { return };
        let lost = std::mem::replace(&mut self.store, old.clone());
        self.past.clear();
        if outage {
            self.cut_connections();
        }
        // Whoever has seen more, or runs into the outage, keeps out of the way of the holder that is forgotten. Anybody
        // else needs to be told; also whoever starts later.
        let position = |record: &Record| (record.epoch, record.beat);
        let epoch = |store: &Store| store.register.as_ref().map(|record| record.epoch);
        let only_beats = epoch(&lost) == epoch(&self.store);
        let issued = lost.register.as_ref().map_or(0, Record::issued).max(lost.floor);
        let knows = |node: &Node| {
            let seen = node.state.as_ref().and_then(State::observation).and_then(|seen| seen.record.as_ref());
            // Nobody else lifts epochs above those of an earlier restore that was told.
            let seen = seen.filter(|record| record.epoch + UNSEEN_EPOCHS > issued);
            match (seen.map(position), self.store.register.as_ref()) {
                (Some(seen), Some(old)) if seen == position(old) => {
                    // Whoever doesn't look while its work goes on looks before it claims.
                    (outage || node.working.is_some()) && old.grant.is_some() && only_beats
                }
                (Some(seen), Some(old)) => seen > position(old),
                (seen, None) => seen.is_some_and(|(epoch, _)| epoch > 0),
                (None, Some(_)) => false,
            }
        };
        let again = std::mem::replace(&mut self.untold, true);
        if again || !self.nodes.iter().all(knows) {
            self.tell_of_restore();
        }
    }

    /// Requests and replies that are under way are lost.
    fn cut_connections(&mut self) {
        for node in &mut self.nodes {
            node.cut = true;
        }
        for happens in self.happenings.values_mut() {
            if let Happens::Arrives { node, incarnation, call, .. } = happens {
                let reply = Box::new(Reply::Failed(Certainty::Unknown));
                *happens = Happens::Replies { node: *node, incarnation: *incarnation, call: *call, reply };
            }
        }
    }

    fn tell_of_restore(&mut self) {
        self.untold = false;
        let fresh = self.fresh();
        // A time of these years; from one restore to the next an operator takes half a minute.
        let wall = WallTime((1 << 41) + (self.now / MS * (1 << 15)) as i64);
        let above = writes::epochs_lost(&self.observation(), wall);
        match self.store.register.clone() {
            Some(record) => self.write(writes::restored(&record, above, "", &fresh), Change::Restore),
            None => {
                let closed = writes::init(&self.observation(), MAX_TTL, above, Some(fresh.grant), &fresh);
                self.write(closed, Change::Init);
            }
        }
    }

    fn suffer(&mut self, fault: Fault) {
        let count = self.nodes.len();
        match fault {
            Fault::Crash(node, ms) => {
                let node = node % count;
                self.nodes[node].state = None;
                self.nodes[node].incarnation += 1;
                self.schedule(self.now + ms * MS, Happens::Starts { node });
            }
            Fault::Pause(node, ms) => self.nodes[node % count].paused_until = self.now + ms * MS,
            Fault::Stall(node, ms) => {
                let node = node % count;
                let now = self.clock(node);
                let until = self.now + ms * MS;
                let node = &mut self.nodes[node];
                if node.stalled.1 <= self.now {
                    (node.stalled.0, node.reported) = (self.now, now);
                }
                node.stalled.1 = node.stalled.1.max(until);
            }
            Fault::Stop(node) => self.tell(node % count, Event::Shutdown),
            Fault::HolderIsDead(node) => self.tell(node % count, Event::HolderIsDead),
            Fault::LoseRequests(ms) => self.requests_lost_until = self.now + ms * MS,
            Fault::LoseReplies(ms) => self.replies_lost_until = self.now + ms * MS,
            Fault::Slow(ms) => self.slow = (ms, self.now + 2_000 * MS),
            Fault::FailOver(ms) => {
                let since = self.now.saturating_sub(ms * MS);
                if let Some((_, store)) = self.past.iter().find(|(at, _)| *at >= since) {
                    self.store = store.clone();
                }
                self.past.clear();
                self.lineage += 1;
                self.store.floor = self.lineage << 46;
            }
            Fault::Restore(ms, outage) => self.restore(ms, outage),
            // E-1's gap, which an operator sees to: the record says more than the store's floor does.
            Fault::Delete if self.store.register.as_ref().is_some_and(|r| r.issued() > self.store.floor) => {}
            Fault::Delete => self.store.register = None,
            // After a restore an operator that makes a lost lease anew says so.
            Fault::Init if self.untold && self.store.register.is_none() => self.tell_of_restore(),
            Fault::Init => self.admin_init(),
            Fault::StepDown => {
                let Some(record) = self.store.register.clone() else { return };
                if let Some(grant) = record.grant {
                    let (id, fresh) = (RequestId(self.bits()), self.fresh());
                    self.write(writes::request(&record, grant, id, "operator", &fresh), Change::Request);
                }
            }
            Fault::Revoke => {
                let Some(record) = self.store.register.clone() else { return };
                let fresh = self.fresh();
                let revoked = writes::revoke(&self.observation(), &record, 0, false, "", &fresh);
                self.write(revoked, Change::Revoke);
            }
        }
    }

    fn tell(&mut self, node: usize, event: Event) {
        if self.nodes[node].state.is_some() && self.nodes[node].paused_until <= self.now {
            self.step(node, event);
        }
    }
}

//! A fleet in simulated time, judged by the invariants alone: the electors' step functions, a store and a fenced
//! resource, each of them real or a mutant's, and faults as a seed says. Nothing here waits, and one seed is one history.
//!
//! `lease-core/tests/world` explores the real step function with harsher faults and judges by assertions of its own.
//! Here the histories are recorded as the suite records them, so what is told is what the ten invariants see.

mod mishap;
mod node;
mod store;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Poll;

use futures::FutureExt;
use lease_core::internal::step::{Action, CallId, CallRequest, Event, Jitter, Reply, State};
use lease_core::internal::writes::Fresh;
use lease_core::{Certainty, Change, Grant, Instant, LeaseName, Tag, Term, WallTime};
use lease_judge::history::{History, Outcome, What};
use lease_judge::recording::recorded;
use lease_judge::{EffectError, FencedResource, Recorder};

use crate::mutants::WrongStore;
use crate::step::Core;
use mishap::{CALM_MS, FAULTY_MS, FleetSetting, Mishap, mishaps};
use node::{FleetNode, rules};
use store::Stage;

const NODES: usize = 3;
const MS: u64 = 1_000_000;
const RESOURCE: &str = "resource";

/// More events than any right fleet has in its time; a mutant that spins is judged by what it did until then.
const SPIN: u64 = 12_000;

/// A call that is still pending after so many looks is never answered: somebody left a lock behind.
const LOOKS: u32 = 40;

/// What the fleet is made of.
pub(crate) struct Parts {
    pub(crate) core: Core,
    pub(crate) store: Option<WrongStore>,
    pub(crate) resource: Arc<dyn FencedResource>,
}

/// Plays the fleet of this seed, and returns what happened to its lease.
pub(crate) fn play(seed: u64, parts: Parts) -> History {
    let mut fleet = Fleet::new(seed, parts);
    fleet.run();
    fleet.history()
}

enum Happens {
    Starts(usize),
    Wakes {
        node: usize,
        alarm: u64,
    },
    /// A request or an effect is at the store, or still is.
    Runs(u64),
    Replies {
        node: usize,
        incarnation: u64,
        call: CallId,
        reply: Box<Reply>,
    },
    Hints {
        node: usize,
        incarnation: u64,
        event: Box<Event>,
    },
    Returns {
        node: usize,
        incarnation: u64,
        term: Term,
    },
    Acts {
        node: usize,
        incarnation: u64,
    },
    Befalls(Mishap),
    Inits,
}

type Running<T> = futures::future::BoxFuture<'static, T>;

/// What is under way to the store or the resource.
enum Job {
    Call {
        node: usize,
        incarnation: u64,
        call: CallId,
        future: Running<Reply>,
        looks: u32,
    },
    Effect {
        node: usize,
        incarnation: u64,
        term: Term,
        id: String,
        sent: u64,
        future: Running<Result<(), EffectError>>,
    },
}

struct Fleet {
    /// True time, in nanoseconds: all clocks agree, as those of a history do.
    now: u64,
    setting: FleetSetting,
    random: u64,
    queue: BTreeMap<(u64, u64), Happens>,
    next: u64,
    jobs: BTreeMap<u64, Job>,
    nodes: Vec<FleetNode>,
    core: Core,
    stage: Stage,
    resource: Arc<dyn FencedResource>,
    recorder: Recorder,
    lease: LeaseName,
}

impl Fleet {
    fn new(seed: u64, parts: Parts) -> Self {
        let setting = FleetSetting::of(seed);
        let recorder = Recorder::default();
        let lease = LeaseName::new("fleet").expect("a lease's name");
        let mut fleet = Self {
            now: 0,

            setting,
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            queue: BTreeMap::new(),
            next: 0,
            jobs: BTreeMap::new(),
            nodes: (0..NODES).map(|_| FleetNode::default()).collect(),
            core: parts.core,
            stage: Stage::new(setting.loses_registers, parts.store, recorder.clone(), lease.clone()),
            resource: parts.resource,
            recorder,
            lease,
        };
        for node in 0..NODES {
            let at = fleet.below(500) * MS;
            fleet.schedule(at, Happens::Starts(node));
        }
        if setting.loses_registers {
            fleet.schedule(0, Happens::Inits);
        }
        for (at, mishap) in
            mishaps(seed, NODES, setting.loses_registers, |bound| draw(&mut fleet.random, bound))
        {
            fleet.schedule(at * MS, Happens::Befalls(mishap));
        }
        fleet
    }

    fn run(&mut self) {
        let mut events = 0;
        while let Some(((at, _), what)) = self.queue.pop_first()
            && at <= (FAULTY_MS + CALM_MS) * MS
            && events < SPIN
        {
            events += 1;
            self.now = at;
            self.happen(what);
        }
        self.now = self.now.max((FAULTY_MS + CALM_MS) * MS);
    }

    fn history(mut self) -> History {
        let mut history = self.recorder.history(&self.lease);
        history.rows = self.stage.rows();
        let effects = self.resource.effects().now_or_never().and_then(Result::ok).unwrap_or_default();
        history
            .effects
            .push(lease_judge::history::Effects { resource: RESOURCE.to_owned(), admitted: effects });
        history
    }

    // === chance and time ===

    fn below(&mut self, bound: u64) -> u64 {
        draw(&mut self.random, bound)
    }

    fn fresh(&mut self, wall_off_ms: i64) -> Fresh {
        let mut bits = || (u128::from(self.below(u64::MAX)) << 64) | u128::from(self.below(u64::MAX));
        let (tag, grant) = (Tag(bits()), Grant(bits()));
        // A day that this machine's own clock hasn't reached: a seed must be one history on all days.
        let wall = WallTime(4_100_000_000_000 + (self.now / MS) as i64 + wall_off_ms);
        Fresh { tag, grant, wall }
    }

    fn schedule(&mut self, at: u64, what: Happens) {
        self.next += 1;
        self.queue.insert((at.max(self.now), self.next), what);
    }

    fn clock(&self) -> Instant {
        Instant(self.now)
    }

    /// The time of one message from or to a node.
    fn delay(&mut self, node: usize) -> u64 {
        let usual = self.below(5 * MS);
        let (most, until) = self.nodes[node].slow;
        if self.now < until { usual + self.below(most * MS) } else { usual }
    }

    fn tell(&self, node: usize, what: What) {
        self.recorder.record(&self.lease, self.clock(), &self.nodes[node].actor, what);
    }

    // === what happens ===

    fn happen(&mut self, what: Happens) {
        match what {
            Happens::Starts(node) => self.start(node),
            Happens::Wakes { node, alarm } => {
                if self.nodes[node].alarm == alarm && self.nodes[node].state.is_some() {
                    match self.paused(node) {
                        Some(until) => self.schedule(until, Happens::Wakes { node, alarm }),
                        None => self.step(node, Event::Tick),
                    }
                }
            }
            Happens::Runs(job) => self.look_at(job),
            Happens::Replies { node, incarnation, call, reply } if self.is_live(node, incarnation) => {
                match self.paused(node) {
                    Some(until) => self.schedule(until, Happens::Replies { node, incarnation, call, reply }),
                    None if self.nodes[node].calls.remove(&call) => {
                        self.step(node, Event::Reply(call, *reply));
                    }
                    // Its future was dropped.
                    None => {}
                }
            }
            Happens::Hints { node, incarnation, event } if self.is_live(node, incarnation) => {
                match self.paused(node) {
                    Some(until) => self.schedule(until, Happens::Hints { node, incarnation, event }),
                    None => self.step(node, *event),
                }
            }
            Happens::Returns { node, incarnation, term } if self.is_live(node, incarnation) => {
                match self.paused(node) {
                    Some(until) => self.schedule(until, Happens::Returns { node, incarnation, term }),
                    None if self.nodes[node].working == Some(term) => {
                        self.nodes[node].working = None;
                        self.step(node, Event::WorkReturned);
                    }
                    None => {}
                }
            }
            Happens::Acts { node, incarnation } if self.is_live(node, incarnation) => self.act(node),
            Happens::Replies { .. }
            | Happens::Hints { .. }
            | Happens::Returns { .. }
            | Happens::Acts { .. } => {}
            Happens::Befalls(mishap) => self.befall(mishap),
            Happens::Inits => {
                let fresh = self.fresh(0);
                self.stage.init(self.now, &fresh);
                self.show();
            }
        }
    }

    fn is_live(&self, node: usize, incarnation: u64) -> bool {
        self.nodes[node].incarnation == incarnation && self.nodes[node].state.is_some()
    }

    fn paused(&self, node: usize) -> Option<u64> {
        Some(self.nodes[node].paused_until).filter(|until| *until > self.now)
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].state.is_some() {
            return;
        }
        // Some work drains for longer than a ttl.
        let return_delay = if self.below(3) == 0 { 5_000 } else { 1_500 };
        let return_delay = self.below(return_delay) * MS;
        let hints = self.setting.watches.then(|| self.stage.watch()).flatten();
        let rules = rules(node, &self.setting);
        let (holder, ttl) = (rules.who.holder.clone(), rules.who.ttl);
        let here = &mut self.nodes[node];
        here.incarnation += 1;
        here.actor = format!("node-{node}#{}", here.incarnation);
        here.working = None;
        here.calls.clear();
        here.return_delay = return_delay;
        here.hints = hints;
        here.store = Some(self.stage.connect());
        let inner = (self.core)(&holder, ttl);
        here.step = Some(recorded(self.recorder.clone(), self.lease.clone(), here.actor.clone(), inner));
        here.state = Some(State::new(rules.clone()));
        let (ttl_ms, poll_ms) = (ttl.as_millis() as u64, rules.renew_every.as_millis() as u64);
        self.tell(node, What::Campaigning { ttl_ms, poll_ms });
        self.step(node, Event::Tick);
        if self.nodes[node].hints.is_some() && self.nodes[node].state.is_some() {
            self.step(node, Event::Watching(true));
        }
    }

    fn step(&mut self, node: usize, event: Event) {
        let (now, jitter) = (self.clock(), Jitter(self.below(256) as u8));
        let ahead = self.setting.wall_clocks_differ && node % 2 == 1;
        let fresh = self.fresh(if ahead { 3_600_000 } else { 0 });
        let incarnation = self.nodes[node].incarnation;
        let (Some(step), Some(state)) = (self.nodes[node].step.clone(), self.nodes[node].state.take()) else {
            return;
        };
        let (state, actions) = step(state, now, event, &fresh, jitter);
        let (wake, stopped) = (state.wake_at(), state.is_stopped());
        self.nodes[node].state = Some(state);
        for action in actions {
            self.carry_out(node, incarnation, action);
        }
        if stopped {
            self.nodes[node].state = None;
            self.tell(node, What::Left);
            self.schedule(self.now + 300 * MS, Happens::Starts(node));
        } else if let Some(wake) = wake {
            // A mutant may leave something due for ever; time passes all the same.
            let at = if wake > now { wake.0 } else { self.now + MS };
            self.nodes[node].alarm += 1;
            let alarm = self.nodes[node].alarm;
            self.schedule(at, Happens::Wakes { node, alarm });
        }
    }

    fn carry_out(&mut self, node: usize, incarnation: u64, action: Action) {
        match action {
            Action::Send(call, request) => self.send(node, incarnation, call, request),
            Action::Drop(call) => {
                self.nodes[node].calls.remove(&call);
                // The store may go on with the request, as if it knew nothing.
                let goes_on = self.below(2) == 0;
                let dropped = (node, incarnation, call);
                self.jobs.retain(|_, job| match job {
                    Job::Call { node, incarnation, call, .. } => {
                        goes_on || (*node, *incarnation, *call) != dropped
                    }
                    Job::Effect { .. } => true,
                });
            }
            Action::Begin(term, _) => {
                self.nodes[node].working = Some(term);
                let at = self.now + self.below(200) * MS;
                self.schedule(at, Happens::Acts { node, incarnation });
            }
            Action::TellStop(_) | Action::End(_) => {
                if let Some(term) = self.nodes[node].working {
                    let at = self.now + self.nodes[node].return_delay;
                    self.schedule(at, Happens::Returns { node, incarnation, term });
                }
            }
            Action::Extend(_) | Action::Note(_) | Action::Stopped => {}
        }
    }

    // === calls and effects ===

    fn send(&mut self, node: usize, incarnation: u64, call: CallId, request: CallRequest) {
        let Some(store) = self.nodes[node].store.clone() else { return };
        self.nodes[node].calls.insert(call);
        let lease = self.lease.clone();
        let acquires = matches!(request, CallRequest::Put { change: Change::Acquire, .. });
        let future = async move {
            match request {
                CallRequest::Observe => match store.observe(&lease).await {
                    Ok(seen) => Reply::Seen(seen),
                    Err(_) => Reply::Failed(Certainty::NotApplied),
                },
                CallRequest::Put { expected, record, change } => {
                    match store.put_if(&lease, &expected, &record, change).await {
                        Ok(outcome) => Reply::Put(outcome),
                        Err(error) => Reply::Failed(error.certainty),
                    }
                }
            }
        };
        let job = Job::Call { node, incarnation, call, future: future.boxed(), looks: 0 };
        let at = self.now + self.delay(node);
        self.runs_at(at, job);
        if acquires && let Some(mishap) = self.nodes[node].when_acquiring.take() {
            self.befall(mishap);
        }
    }

    fn runs_at(&mut self, at: u64, job: Job) {
        self.next += 1;
        let id = self.next;
        self.jobs.insert(id, job);
        self.schedule(at, Happens::Runs(id));
    }

    /// While it leads, an elector's work makes an effect every so often; one in ten is late by seconds.
    fn act(&mut self, node: usize) {
        let Some(term) = self.nodes[node].working else { return };
        let incarnation = self.nodes[node].incarnation;
        let again = self.paused(node).unwrap_or(self.now + 200 * MS);
        self.schedule(again, Happens::Acts { node, incarnation });
        let leads = self.nodes[node].state.as_ref().and_then(|state| state.leads(self.clock()));
        if self.paused(node).is_some() || leads != Some(term) {
            return;
        }
        let late = if self.below(10) == 0 { self.below(7_000) * MS } else { 0 };
        let at = self.now + self.delay(node) + late;
        self.next += 1;
        let id = format!("effect-{}", self.next);
        let (resource, its) = (self.resource.clone(), id.clone());
        let future = async move { resource.effect(term, &its).await }.boxed();
        self.runs_at(at, Job::Effect { node, incarnation, term, id, sent: self.now, future });
    }

    fn look_at(&mut self, id: u64) {
        let Some(mut job) = self.jobs.remove(&id) else { return };
        let mut context = std::task::Context::from_waker(futures::task::noop_waker_ref());
        let again = match &mut job {
            Job::Call { node, incarnation, call, future, looks } => {
                let (node, incarnation, call) = (*node, *incarnation, *call);
                if *looks == 0 && self.now < self.nodes[node].requests_lost_until {
                    return self.fail(node, incarnation, call, Certainty::NotApplied);
                }
                *looks += 1;
                let looked = future.poll_unpin(&mut context);
                self.stage.written(self.now);
                self.show();
                match looked {
                    Poll::Ready(_) if self.now < self.nodes[node].replies_lost_until => {
                        return self.fail(node, incarnation, call, Certainty::Unknown);
                    }
                    Poll::Ready(reply) => {
                        let at = self.now + self.delay(node);
                        let reply = Box::new(reply);
                        return self.schedule(at, Happens::Replies { node, incarnation, call, reply });
                    }
                    Poll::Pending => *looks < LOOKS,
                }
            }
            Job::Effect { node, incarnation, term, id, sent, future } => {
                match future.poll_unpin(&mut context) {
                    Poll::Ready(end) => {
                        let (node, incarnation, term, sent) = (*node, *incarnation, *term, Instant(*sent));
                        let refused =
                            matches!(end, Err(EffectError::Stale(_) | EffectError::AboveCeiling(_)));
                        let outcome = match end {
                            Ok(()) => Outcome::Written,
                            Err(_) if refused => Outcome::Refused,
                            Err(error) => Outcome::Failed(error.to_string()),
                        };
                        let (resource, id) = (RESOURCE.to_owned(), id.clone());
                        self.tell(node, What::Effect { resource, id, term, sent, outcome });
                        if refused
                            && self.is_live(node, incarnation)
                            && self.nodes[node].working == Some(term)
                        {
                            self.step(node, Event::FenceRefused(term));
                        }
                        return;
                    }
                    Poll::Pending => true,
                }
            }
        };
        if again {
            let at = self.now + self.below(2 * MS);
            self.jobs.insert(id, job);
            self.schedule(at, Happens::Runs(id));
        }
    }

    /// A connection's error reaches the caller half of the time; else it hears nothing at all.
    fn fail(&mut self, node: usize, incarnation: u64, call: CallId, certainty: Certainty) {
        if self.below(2) == 0 {
            let at = self.now + self.delay(node);
            let reply = Box::new(Reply::Failed(certainty));
            self.schedule(at, Happens::Replies { node, incarnation, call, reply });
        }
    }

    /// Passes on what the watches say: one hint in four is lost, one in four is seconds late, some only say that
    /// something has changed.
    fn show(&mut self) {
        for node in 0..NODES {
            let incarnation = self.nodes[node].incarnation;
            let Some(mut hints) = self.nodes[node].hints.take() else { continue };
            while let Some(event) = store::next_hint(&mut hints, &self.lease) {
                let delay = match self.below(4) {
                    0 => continue,
                    1 => self.below(8_000 * MS),
                    _ => self.delay(node),
                };
                let event = Box::new(if self.below(6) == 0 { Event::Hint } else { event });
                self.schedule(self.now + delay, Happens::Hints { node, incarnation, event });
            }
            self.nodes[node].hints = Some(hints);
        }
    }

    // === faults ===

    fn befall(&mut self, mishap: Mishap) {
        let until = |ms: u64| self.now + ms * MS;
        let (whom, name) = mishap.told();
        let actor = whom.map_or("store", |node| &self.nodes[node].actor);
        self.recorder.record(&self.lease, self.clock(), actor, What::Fault { name: name.to_owned() });
        match mishap {
            Mishap::Crash(node, ms) => {
                let at = until(ms);
                if self.nodes[node].state.take().is_some() {
                    self.nodes[node].hints = None;
                    self.tell(node, What::Died);
                }
                self.nodes[node].incarnation += 1;
                self.schedule(at, Happens::Starts(node));
            }
            Mishap::Pause(node, ms) => {
                self.nodes[node].paused_until = until(ms);
                if self.nodes[node].state.is_some() {
                    self.tell(node, What::Paused);
                }
            }
            Mishap::PauseAcquiring(node, ms) => {
                self.nodes[node].when_acquiring = Some(Mishap::Pause(node, ms))
            }
            Mishap::LoseAcquired(node, ms) => {
                self.nodes[node].when_acquiring = Some(Mishap::LoseReplies(node, ms));
            }
            Mishap::LoseRequests(node, ms) => self.nodes[node].requests_lost_until = until(ms),
            Mishap::LoseReplies(node, ms) => self.nodes[node].replies_lost_until = until(ms),
            Mishap::Slow(node, ms) => self.nodes[node].slow = (ms, until(2_000)),
            Mishap::Stop(node) => self.notify(node, Event::Shutdown),
            Mishap::HolderIsDead(node) => self.notify(node, Event::HolderIsDead),
            Mishap::FailOver(ms) => self.stage.fail_over(self.now.saturating_sub(ms * MS)),
            Mishap::Delete(ms) => {
                self.stage.delete(self.now);
                self.schedule(until(ms), Happens::Inits);
            }
            Mishap::StepDown => {
                let fresh = self.fresh(0);
                self.stage.ask_to_step_down(self.now, &fresh);
            }
            Mishap::Revoke => {
                let fresh = self.fresh(0);
                self.stage.revoke(self.now, &fresh);
            }
        }
        self.show();
    }

    fn notify(&mut self, node: usize, event: Event) {
        if self.nodes[node].state.is_some() && self.paused(node).is_none() {
            self.step(node, event);
        }
    }
}

/// xorshift64*: a fleet is a function of its seed alone.
fn draw(random: &mut u64, bound: u64) -> u64 {
    *random ^= *random >> 12;
    *random ^= *random << 25;
    *random ^= *random >> 27;
    (random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % bound.max(1)
}

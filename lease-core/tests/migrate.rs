//! M-1 under the model checker and under long random schedules: movers that crash, repeat and meet each other, and a
//! worker in each store, over the very function that production runs.
//!
//! The workers are simpler than electors, but their time and their writes are the core's (T-1, T-2, `writes`).

use std::time::Duration;

use lease_core::internal::deadline::{Claim, Deadline, Sighting};
use lease_core::internal::next::{MayMove, MoveRules, Next, Run, Side, Step, next};
use lease_core::internal::writes::{self, Candidate, Fresh};
use lease_core::{Grant, Instant, Lineage, Observation, Record, RequestId, Tag, Term, WallTime};
use stateright::{Checker, Model, Property};

const TTL: Duration = Duration::from_millis(900);
const TICK: Duration = Duration::from_millis(500);
const START: u64 = 10;

type NextFn = fn(&MoveRules, &Run, &Observation, Instant, &Fresh) -> Next;

/// The explored world: movers from the first store to the second, and back if so.
struct Moves {
    ticks: u64,
    faults: u8,
    terms: u8,
    back: Vec<bool>,
    next: NextFn,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    tick: u64,
    faults: u8,
    registers: [Option<Record>; 2],
    /// An operator knows the last epoch of a register that vanished (`init --above N`); else epochs rise by the records
    /// alone.
    floors: [u64; 2],
    lineages: [u64; 2],
    failover_floor: u64,
    /// The second register when it was last final: what an asynchronous failover may bring back.
    prepared: Option<Record>,
    /// One of the first store, two of the second.
    workers: [Worker; 3],
    movers: Vec<Mover>,
    /// Writes of crashed movers, which may yet arrive.
    orphans: Vec<Put>,
    written: u128,
    newest: u64,
    /// The number of terms that may begin yet.
    terms: u8,
    broken: Option<&'static str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Worker {
    sighting: Option<Sighting>,
    term: Option<(Term, Deadline)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Mover {
    back: bool,
    run: Run,
    target: Option<Observation>,
    put: Option<Put>,
    over: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Put {
    store: usize,
    expected: Observation,
    record: Record,
    step: Step,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Action {
    TimePasses,
    LooksAtTarget(usize),
    LooksAtSource(usize),
    Writes(usize, bool),
    MoverCrashes(usize),
    OrphanArrives(usize),
    WorkerLooks(usize),
    WorkerAcquires(usize),
    WorkerReleases(usize),
    WorkerCrashes(usize),
    RegisterVanishes(usize),
    SecondStoreFailsOver,
}

fn store_of(worker: usize) -> usize {
    worker.min(1)
}

impl World {
    fn now(&self) -> Instant {
        Instant::ZERO.plus(TICK * u32::try_from(self.tick).expect("few ticks"))
    }

    fn observation(&self, store: usize) -> Observation {
        let floor = self.floors[store].max(if store == 1 { self.failover_floor } else { 0 });
        let record = self.registers[store].clone();
        let lineage = Lineage(format!("{store}/{}", self.lineages[store]));
        Observation { record, lineage, floor, version: String::new() }
    }

    /// Bits that no write has used; a look that leads to no write uses none up.
    fn fresh(&self) -> Fresh {
        Fresh { tag: Tag(self.written + 1), grant: Grant(self.written + 1), wall: WallTime(0) }
    }

    fn put(&mut self, put: &Put) -> bool {
        let present = self.observation(put.store);
        let applies = present.tag() == put.expected.tag() && present.lineage == put.expected.lineage;
        if applies {
            if put.store == 1 && put.record.sealed.is_some() {
                self.prepared = Some(put.record.clone());
            }
            self.registers[put.store] = Some(put.record.clone());
        }
        applies
    }

    fn look(&mut self, worker: usize) {
        let (seen, now) = (self.observation(store_of(worker)), self.now());
        Sighting::read_in_turn(&mut self.workers[worker].sighting, seen, now);
    }

    /// The worker's claim on what it last saw.
    fn claims(&self, worker: usize) -> bool {
        let worker = &self.workers[worker];
        let claim = worker.sighting.as_ref().map(|sighting| sighting.claim(TTL, TTL, false));
        self.terms > 0 && worker.term.is_none() && matches!(claim, Some(Claim::At(at)) if self.now() >= at)
    }

    fn judge(&mut self) {
        let now = self.now();
        let leads = |worker: &Worker| worker.term.as_ref().is_some_and(|(_, deadline)| deadline.allows(now));
        if self.workers.iter().filter(|worker| leads(worker)).count() > 1 {
            self.broken = Some("two lead");
        }
        let open = |record: &Option<Record>| record.as_ref().is_some_and(|record| record.sealed.is_none());
        if self.registers.iter().all(open) {
            self.broken = Some("the lease is open in both stores");
        }
    }
}

impl Moves {
    fn rules(back: bool) -> MoveRules {
        let (from, to) = if back { ("second", "first") } else { ("first", "second") };
        MoveRules { from: from.into(), to: to.into(), by: "ops".into(), may_move: MayMove::Any, max_ttl: TTL }
    }

    fn mover(back: bool) -> Mover {
        Mover { back, run: Run::default(), target: None, put: None, over: false }
    }
}

impl Model for Moves {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut world = World {
            tick: START,
            faults: self.faults,
            registers: [None, None],
            floors: [0, 0],
            lineages: [1, 1],
            failover_floor: 0,
            prepared: None,
            workers: Default::default(),
            movers: self.back.iter().map(|back| Self::mover(*back)).collect(),
            orphans: Vec::new(),
            written: 0,
            newest: 0,
            terms: self.terms,
            broken: None,
        };
        let (seen, fresh) = (world.observation(0), world.fresh());
        world.registers[0] = Some(writes::init(&seen, TTL, 0, None, &fresh));
        world.written += 1;
        vec![world]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        let faulty = world.faults > 0;
        for (index, mover) in world.movers.iter().enumerate().filter(|(_, mover)| !mover.over) {
            match (&mover.put, &mover.target) {
                (Some(_), _) => {
                    actions.push(Action::Writes(index, true));
                    actions.extend(faulty.then_some(Action::Writes(index, false)));
                }
                (None, Some(_)) => actions.push(Action::LooksAtSource(index)),
                (None, None) => actions.push(Action::LooksAtTarget(index)),
            }
            actions.extend(faulty.then_some(Action::MoverCrashes(index)));
        }
        actions.extend((0..world.orphans.len()).map(Action::OrphanArrives));
        // Once: what vanishes again and again between two looks is beyond a protocol of two stores.
        let may_vanish = faulty && world.floors == [0, 0];
        actions.extend((0..2).filter(|_| may_vanish).map(Action::RegisterVanishes));
        for worker in 0..3 {
            actions.push(Action::WorkerLooks(worker));
            actions.extend(world.claims(worker).then_some(Action::WorkerAcquires(worker)));
            if world.workers[worker].term.is_some() {
                actions.push(Action::WorkerReleases(worker));
                actions.extend(faulty.then_some(Action::WorkerCrashes(worker)));
            }
        }
        if faulty && world.prepared.is_some() {
            actions.push(Action::SecondStoreFailsOver);
        }
        if world.tick < START + self.ticks {
            actions.push(Action::TimePasses);
        }
    }

    fn next_state(&self, before: &World, action: Action) -> Option<World> {
        let mut world = before.clone();
        match action {
            Action::TimePasses => {
                world.tick += 1;
                let now = world.now();
                for worker in &mut world.workers {
                    worker.term = worker.term.take().filter(|(_, deadline)| deadline.allows(now));
                }
            }
            Action::LooksAtTarget(index) => {
                let target = usize::from(!world.movers[index].back);
                world.movers[index].target = Some(world.observation(target));
            }
            Action::LooksAtSource(index) => {
                let source = usize::from(world.movers[index].back);
                let (seen, now, fresh) = (world.observation(source), world.now(), world.fresh());
                let mover = &mut world.movers[index];
                let target = mover.target.take()?;
                mover.run.asked = Some(RequestId(index as u128 + 1));
                Sighting::read_in_turn(&mut mover.run.source, seen.clone(), now);
                match (self.next)(&Self::rules(mover.back), &mover.run, &target, now, &fresh) {
                    Next::Put(side, record, _, step) => {
                        let expected = if side == Side::Source { seen } else { target };
                        let store = if side == Side::Source { source } else { 1 - source };
                        mover.put = Some(Put { store, expected, record, step });
                        world.written += 1;
                    }
                    Next::Wait(_) => {}
                    Next::Done => mover.over = true,
                    Next::Refuse(_) => {}
                }
            }
            Action::Writes(index, answered) => {
                world.faults -= u8::from(!answered);
                let put = world.movers[index].put.take()?;
                let applied = world.put(&put);
                if applied && answered {
                    world.movers[index].run.made(&put.step);
                }
            }
            Action::MoverCrashes(index) => {
                world.faults -= 1;
                let again = Self::mover(world.movers[index].back);
                let crashed = std::mem::replace(&mut world.movers[index], again);
                world.orphans.extend(crashed.put);
            }
            Action::OrphanArrives(index) => {
                let put = world.orphans.remove(index);
                world.put(&put);
            }
            Action::WorkerLooks(worker) => {
                world.look(worker);
                let seen = world.observation(store_of(worker));
                let held = world.workers[worker].term.as_ref().map(|(term, _)| *term);
                if held.is_some() && held != seen.record.as_ref().and_then(Record::term) {
                    world.workers[worker].term = None; // U-1: a linearizable read that shows another grant.
                }
            }
            Action::WorkerAcquires(worker) => {
                let (fresh, now) = (world.fresh(), world.now());
                let expected = world.workers[worker].sighting.as_ref()?.observation().clone();
                let who = Candidate {
                    holder: "worker".into(),
                    region: String::new(),
                    ttl: TTL,
                    max_ttl: TTL,
                    preemptible: false,
                    work: None,
                };
                let record = writes::acquire(&expected, expected.record.as_ref()?, &who, fresh.grant, &fresh);
                let term = record.term()?;
                world.written += 1;
                world.terms -= 1;
                if world.put(&Put { store: store_of(worker), expected, record, step: Step::Prepare }) {
                    if term.epoch <= world.newest {
                        world.broken = Some("epochs do not rise");
                    }
                    world.newest = term.epoch;
                    world.workers[worker].term = Some((term, Deadline::of_acknowledged(now, TTL)));
                }
                world.look(worker);
            }
            Action::WorkerReleases(worker) => {
                let (term, _) = world.workers[worker].term.take()?;
                let (store, fresh) = (store_of(worker), world.fresh());
                let seen = world.observation(store);
                if let Some(record) = seen.record.clone().filter(|record| record.term() == Some(term)) {
                    world.registers[store] = Some(writes::release(&seen, &record, &fresh));
                    world.written += 1;
                }
            }
            Action::WorkerCrashes(worker) => {
                world.faults -= 1;
                world.workers[worker] = Worker::default();
            }
            Action::SecondStoreFailsOver => {
                world.faults -= 1;
                let newest = world.registers[1].as_ref().map_or(0, |record| record.epoch);
                world.lineages[1] += 1;
                world.failover_floor = world.failover_floor.max(newest);
                world.registers[1].clone_from(&world.prepared);
            }
            Action::RegisterVanishes(store) => {
                world.faults -= 1;
                let epoch = world.registers[store].take().map_or(0, |record| record.epoch) + 1;
                world.floors[store] = world.floors[store].max(epoch);
            }
        }
        world.judge();
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one leader, one open register, rising epochs", |_, world: &World| {
                world.broken.is_none()
            }),
            Property::sometimes("the worker of the second store leads", |_, world: &World| {
                world.workers[1].term.is_some()
            }),
        ]
    }
}

/// A long random schedule; the same seed gives the same one.
fn walk(moves: &Moves, seed: u64, steps: usize) -> World {
    let mut random = seed | 1;
    let mut world = moves.init_states().remove(0);
    let (mut actions, mut trace) = (Vec::new(), Vec::new());
    for _ in 0..steps {
        actions.clear();
        moves.actions(&world, &mut actions);
        if actions.is_empty() {
            break;
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let action = actions[(random >> 20) as usize % actions.len()].clone();
        // Faults are rare, or all of them would come before anything is worth breaking.
        let rare = !(random >> 40).is_multiple_of(12);
        if let Some(after) = moves.next_state(&world, action.clone())
            && !(rare && after.faults < world.faults)
        {
            trace.push(action.clone());
            world = after;
        }
        if world.broken.is_some() {
            println!("seed {seed}: {:?} after {trace:?}", world.broken);
            break;
        }
    }
    world
}

fn explore(moves: Moves) {
    let checker = moves.checker().threads(2).spawn_bfs().join();
    println!("{} states, depth {}", checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
}

#[test]
fn every_interleaving_of_a_move_has_one_leader_and_rising_epochs() {
    explore(Moves { ticks: 2, faults: 0, terms: 2, back: vec![false], next });
}

/// Minutes and gigabytes: `cargo test -p lease-core --test migrate -- --ignored`.
#[test]
#[ignore = "minutes and gigabytes; part of make soak"]
fn every_interleaving_of_a_move_with_a_fault_has_one_leader_and_rising_epochs() {
    explore(Moves { ticks: 3, faults: 1, terms: 2, back: vec![false], next });
}

/// Movers that meet, crash and go back, while stores lose registers and workers come and go.
fn schedule(seed: u64, next: NextFn) -> World {
    let moves = Moves { ticks: 40, faults: 3, terms: 40, back: vec![false, false, true], next };
    walk(&moves, seed * 0x9E37_79B9, 400)
}

#[test]
fn long_schedules_of_movers_that_meet_crash_and_go_back_have_one_leader() {
    let mut arrived = 0;
    for seed in 1..=2_000 {
        let world = schedule(seed, next);
        assert_eq!(world.broken, None, "seed {seed}: {world:#?}");
        arrived += u32::from(world.workers[1..].iter().any(|worker| worker.term.is_some()));
    }
    assert!(
        arrived > 100,
        "in only {arrived} of 2000 schedules did the second store's worker lead at the end"
    );
}

/// Opens the new register free whoever sealed the old one, and whatever the new store has forgotten since.
fn opens_free(rules: &MoveRules, run: &Run, target: &Observation, now: Instant, fresh: &Fresh) -> Next {
    match next(rules, run, target, now, fresh) {
        Next::Put(Side::Target, record, change, Step::Open { .. }) => {
            Next::Put(Side::Target, Record { grant: None, ..record }, change, Step::Open { free: true })
        }
        other => other,
    }
}

/// Seals without waiting for the holder.
fn seals_at_once(rules: &MoveRules, run: &Run, target: &Observation, now: Instant, fresh: &Fresh) -> Next {
    next(rules, run, target, now.plus(TTL * 2), fresh)
}

/// Opens before the seal.
fn opens_first(rules: &MoveRules, run: &Run, target: &Observation, now: Instant, fresh: &Fresh) -> Next {
    match next(rules, run, target, now, fresh) {
        Next::Put(Side::Target, record, change, Step::Prepare) => {
            Next::Put(Side::Target, Record { sealed: None, ..record }, change, Step::Prepare)
        }
        other => other,
    }
}

/// Changes the record of one kind of step.
fn writing(found: Next, wrong: impl Fn(&Step) -> bool, change: impl FnOnce(Record) -> Record) -> Next {
    match found {
        Next::Put(side, record, kind, step) if wrong(&step) => Next::Put(side, change(record), kind, step),
        other => other,
    }
}

/// Opens the new register below the epochs of the old one.
fn opens_below(rules: &MoveRules, run: &Run, target: &Observation, now: Instant, fresh: &Fresh) -> Next {
    let found = next(rules, run, target, now, fresh);
    writing(found, |step| matches!(step, Step::Open { .. }), |record| Record { epoch: 0, ..record })
}

#[test]
fn the_schedules_show_wrong_movers() {
    let wrong: [(&str, NextFn); 3] =
        [("seals at once", seals_at_once), ("opens first", opens_first), ("opens below", opens_below)];
    for (name, wrong) in wrong {
        assert!((1..=4_000).any(|seed| schedule(seed, wrong).broken.is_some()), "{name}: not seen");
    }
}

/// The new store loses the opening and the term that followed; whoever opens it again must not know better.
#[test]
fn an_opening_that_a_failover_lost_is_waited_out() {
    use Action::{LooksAtSource, LooksAtTarget, SecondStoreFailsOver, WorkerAcquires, WorkerLooks, Writes};
    let step = |mover| [LooksAtTarget(mover), LooksAtSource(mover), Writes(mover, true)];
    let lost = [WorkerLooks(1), WorkerAcquires(1), SecondStoreFailsOver];
    let again = [WorkerLooks(2), WorkerAcquires(2)];
    let schedule: Vec<_> =
        [step(0), step(0), step(0), lost, step(1)].into_iter().flatten().chain(again).collect();
    for (next, broken) in [(next as NextFn, None), (opens_free, Some("two lead"))] {
        let moves = Moves { ticks: 0, faults: 1, terms: 2, back: vec![false, false], next };
        let mut world = moves.init_states().remove(0);
        for action in &schedule {
            let mut offered = Vec::new();
            moves.actions(&world, &mut offered);
            if offered.contains(action) {
                world = moves.next_state(&world, action.clone()).unwrap_or(world);
            }
        }
        assert!(world.workers[1].term.is_some() && world.faults == 0, "the schedule no longer fits");
        assert_eq!(world.broken, broken);
    }
}

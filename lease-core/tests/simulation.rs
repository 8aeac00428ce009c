//! proptest over the step function: fleets under random faults keep the invariants, and recover when the faults end.

mod world;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use lease_core::internal::step::{Action, Event, Jitter, Reply, State, step};
use lease_core::internal::writes::Fresh;
use lease_core::{Instant, Observation, PutOutcome};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use world::{Fault, MAX_TTL, StepFn, TTL, World};

const NODES: usize = 3;
const FAULTY_MS: u64 = 40_000;

fn fault() -> impl Strategy<Value = Fault> {
    let node = 0..NODES;
    prop_oneof![
        2 => (node.clone(), 0..6_000u64).prop_map(|(node, ms)| Fault::Crash(node, ms)),
        3 => (node.clone(), 0..9_000u64).prop_map(|(node, ms)| Fault::Pause(node, ms)),
        2 => (node.clone(), 0..12_000u64).prop_map(|(node, ms)| Fault::Stall(node, ms)),
        2 => node.clone().prop_map(Fault::Stop),
        2 => (0..5_000u64).prop_map(Fault::LoseRequests),
        3 => (0..5_000u64).prop_map(Fault::LoseReplies),
        2 => (0..4_000u64).prop_map(Fault::Slow),
        1 => (0..8_000u64).prop_map(Fault::FailOver),
        2 => (0..8_000u64, any::<bool>()).prop_map(|(ms, outage)| Fault::Restore(ms, outage)),
        1 => Just(Fault::Delete),
        1 => Just(Fault::Init),
        1 => Just(Fault::StepDown),
        1 => Just(Fault::Revoke),
        1 => node.prop_map(Fault::HolderIsDead),
    ]
}

/// What a number of simulated fleets had, and how long that took.
struct Simulated {
    began: std::time::Instant,
    fleets: u64,
    acquisitions: u64,
    renewals: u64,
    faults: u64,
    time: Duration,
}

impl Simulated {
    fn nothing() -> Self {
        let began = std::time::Instant::now();
        Self { began, fleets: 0, acquisitions: 0, renewals: 0, faults: 0, time: Duration::ZERO }
    }

    fn add(&mut self, world: &World, faults: usize) {
        self.fleets += 1;
        self.acquisitions += world.terms.len() as u64;
        self.renewals += world.renewals;
        self.faults += faults as u64;
        self.time += world.elapsed();
    }

    /// Prints the counts, for people and for `leasehold-lab campaign`.
    fn tell(&self) {
        let Self { began, fleets, acquisitions, renewals, faults, time } = self;
        let (took, secs) = (began.elapsed().as_secs_f64(), time.as_secs());
        let times = time.as_secs_f64() / took;
        println!(
            "simulated {{\"fleets\": {fleets}, \"acquisitions\": {acquisitions}, \"renewals\": {renewals}, \
             \"faults\": {faults}, \"simulated_secs\": {secs}, \"took_secs\": {took:.1}, \
             \"times_real_time\": {times:.0}}}"
        );
    }
}

fn survives(seed: u64, faults: &[(u64, Fault)], creates_registers: bool, step: StepFn) -> World {
    let mut world = World::new(NODES, seed, creates_registers, step);
    for (at, fault) in faults {
        // A store that can lose a register, by hand or by a failover, isn't one that creates them (T-5).
        if !(creates_registers && matches!(fault, Fault::Delete | Fault::FailOver(_))) {
            world.fault_at(*at, *fault);
        }
    }
    world.run_until(FAULTY_MS);
    // L-4: all faults (pauses and crashes included) are over soon; then somebody leads, and the fleet is calm.
    world.fault_at(FAULTY_MS + 1, Fault::Init);
    let calm = FAULTY_MS + 10_000 + 3 * MAX_TTL.as_millis() as u64;
    let before = world.events;
    world.run_until(calm);
    assert_eq!(world.leaders().count(), 1, "somebody leads after the faults");
    let events = world.events - before;
    assert!(events < 4_000, "{events} events in {} s: somebody spins", (calm - FAULTY_MS) / 1000);
    world
}

/// Many fleets; more by PROPTEST_CASES=100000.
fn fleets_survive(faults: impl Strategy<Value = Vec<(u64, Fault)>>, creates_registers: bool) {
    let cases = Config::default().cases.max(400);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let (mut runner, simulated) = (TestRunner::new(config), RefCell::new(Simulated::nothing()));
    let outcome = runner.run(&(any::<u64>(), faults), |(seed, faults)| {
        let world = survives(seed, &faults, creates_registers, step);
        simulated.borrow_mut().add(&world, faults.len());
        Ok(())
    });
    outcome.unwrap_or_else(|failed| panic!("{failed}"));
    simulated.borrow().tell();
}

fn schedule() -> impl Strategy<Value = Vec<(u64, Fault)>> {
    prop::collection::vec((0..FAULTY_MS, fault()), 0..40)
}

#[test]
fn one_leader_at_a_time_and_epochs_rise_on_a_store_that_loses_registers() {
    fleets_survive(schedule(), false);
}

#[test]
fn one_leader_at_a_time_and_epochs_rise_on_a_store_that_creates_registers() {
    fleets_survive(schedule(), true);
}

#[test]
fn one_leader_at_a_time_while_one_hand_over_follows_the_other() {
    let fault = prop_oneof![12 => Just(Fault::StepDown), 1 => fault()];
    fleets_survive(prop::collection::vec((0..FAULTY_MS, fault), 100..300), false);
}

/// A fleet for ten minutes, whose calls take up to `round_trip`.
fn far_from_its_store(seed: u64, round_trip: Duration) -> World {
    let mut world = World::new(NODES, seed, true, step);
    world.round_trips_up_to(round_trip);
    world.run_until(600_000);
    world
}

/// L-9; more by SIMULATED_RENEWALS=1000000.
#[test]
fn no_term_is_lost_while_round_trips_take_up_to_a_quarter_of_the_ttl() {
    let wanted =
        std::env::var("SIMULATED_RENEWALS").map_or(100_000, |wanted| wanted.parse().expect("a number"));
    let mut simulated = Simulated::nothing();
    for seed in 1.. {
        let world = far_from_its_store(seed, TTL / 4);
        assert_eq!(world.terms.len(), 1, "seed {seed}: terms of {:?}", world.terms);
        simulated.add(&world, 0);
        if simulated.renewals >= wanted {
            break;
        }
    }
    simulated.tell();
}

#[test]
fn a_term_that_is_lost_shows_in_the_simulation() {
    let terms: usize = (1..=20).map(|seed| far_from_its_store(seed, TTL * 2).terms.len()).sum();
    assert!(terms > 20, "20 fleets whose calls take up to twice the ttl had {terms} terms: no loss is seen");
}

#[test]
fn a_calm_fleet_has_one_term() {
    let mut world = World::new(NODES, 7, true, step);
    world.run_until(600_000);
    assert_eq!(world.terms.len(), 1, "L-9: nobody loses a term without a fault");
    assert_eq!(world.leaders().count(), 1);
}

// === the simulation can tell a wrong core from the right one ===

type Stepped = (State, Vec<Action>);

/// Shows the core something else than the store said.
fn seeing(event: Event, distort: impl Fn(&mut Observation)) -> Event {
    match event {
        Event::Reply(call, Reply::Seen(mut seen)) => {
            distort(&mut seen);
            Event::Reply(call, Reply::Seen(seen))
        }
        Event::Reply(call, Reply::Put(PutOutcome::Conflict(mut seen))) => {
            distort(&mut seen);
            Event::Reply(call, Reply::Put(PutOutcome::Conflict(seen)))
        }
        other => other,
    }
}

/// Waits for its own ttl only, not for the holder's (T-2).
fn ignores_the_holders_ttl(
    state: State,
    now: Instant,
    event: Event,
    fresh: &Fresh,
    jitter: Jitter,
) -> Stepped {
    let candidate = state.leads(now).is_none();
    let short = |seen: &mut Observation| seen.record.iter_mut().for_each(|record| record.ttl_ms = 1);
    step(state, now, if candidate { seeing(event, short) } else { event }, fresh, jitter)
}

/// Counts the deadline from a moment after the sending, as one that counts from the reply does (T-1).
fn counts_from_after_the_sending(
    state: State,
    now: Instant,
    event: Event,
    fresh: &Fresh,
    jitter: Jitter,
) -> Stepped {
    let late = if state.leads(now).is_some() { now.plus(TTL / 4) } else { now };
    step(state, late, event, fresh, jitter)
}

/// Takes a conflict for a success.
fn takes_a_conflict_for_a_success(
    state: State,
    now: Instant,
    event: Event,
    fresh: &Fresh,
    jitter: Jitter,
) -> Stepped {
    let event = match event {
        Event::Reply(call, Reply::Put(PutOutcome::Conflict(seen))) if seen.grant().is_some() => {
            let mine = state.observation().cloned().filter(|_| state.leads(now).is_some());
            Event::Reply(call, Reply::Put(PutOutcome::Written(mine.unwrap_or(seen))))
        }
        other => other,
    };
    step(state, now, event, fresh, jitter)
}

/// Takes hung work for work that gets on (H-4).
fn renews_for_silent_work(
    state: State,
    now: Instant,
    event: Event,
    fresh: &Fresh,
    jitter: Jitter,
) -> Stepped {
    let (state, _) = step(state, now, Event::Progressed(now), fresh, jitter);
    step(state, now, event, fresh, jitter)
}

/// Ignores the lineage: free is free (T-3).
fn ignores_the_lineage(state: State, now: Instant, event: Event, fresh: &Fresh, jitter: Jitter) -> Stepped {
    let present = |seen: &mut Observation| {
        let lineage = seen.lineage.clone();
        seen.record.iter_mut().for_each(|record| record.lineage = lineage.clone());
    };
    step(state, now, seeing(event, present), fresh, jitter)
}

#[test]
fn the_simulation_sees_wrong_cores() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {})); // The panics below are what is asked for.
    let wrong: [(&str, StepFn); 5] = [
        ("ignores the holder's ttl", ignores_the_holders_ttl),
        ("counts from after the sending", counts_from_after_the_sending),
        ("takes a conflict for a success", takes_a_conflict_for_a_success),
        ("ignores the lineage", ignores_the_lineage),
        ("renews for silent work", renews_for_silent_work),
    ];
    let mut unseen = Vec::new();
    for (name, core) in wrong {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let schedules = schedule();
        let seen = (0..400).find(|&seed| {
            let mut faults = schedules.new_tree(&mut runner).expect("a schedule").current();
            // Chance alone rarely loses an acquisition that followed a release, and shows what is left to somebody who
            // has not seen it; half of the schedules aim at it.
            if seed % 2 == 0 {
                let at = 10_000 + seed * 10;
                faults = vec![
                    (10_000, Fault::StepDown),
                    (at, Fault::Crash(seed as usize % NODES, 1)),
                    (at, Fault::FailOver(seed % 7 * 100)),
                ];
            }
            catch_unwind(AssertUnwindSafe(|| survives(seed, &faults, false, core))).is_err()
        });
        match seen {
            Some(schedule) => println!("{name}: seen in schedule {schedule}"),
            None => unseen.push(name),
        }
    }
    std::panic::set_hook(hook);
    assert!(unseen.is_empty(), "not told from a right core: {unseen:?}");
}

//! Which faults happen to a lease, and in what order: a function of the seed.

use std::time::Duration;

use lease_stores::StoreFault;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A fault of one actor, mostly the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Fault {
    /// SIGTERM: a clean hand-over.
    Terminate,
    /// SIGKILL.
    Kill,
    /// SIGSTOP until a successor leads, then SIGCONT.
    Stop,
    /// The leader stops between its check and its effect until a successor has made effects.
    PauseBeforeEffect,
    /// SIGKILL of a standby.
    KillStandby,
    /// All of the leader's connections are cut at once.
    Cut,
    /// The leader's connections stay open and carry nothing, in either direction, until a successor leads; then what
    /// was held is delivered.
    HalfOpen,
    /// Whatever the leader sends and is sent comes late.
    Delay,
}

impl Fault {
    /// In words, for the report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM of the leader (clean hand-over)",
            Self::Kill => "SIGKILL of the leader",
            Self::Stop => "SIGSTOP of the leader past its ttl, SIGCONT",
            Self::PauseBeforeEffect => "leader paused between its check and its effect",
            Self::KillStandby => "SIGKILL of a standby",
            Self::Cut => "leader's connections cut",
            Self::HalfOpen => "leader's connections half-open past its ttl",
            Self::Delay => "leader's traffic delayed",
        }
    }
}

/// One fault, and how long everybody is left alone before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PlanStep {
    pub(super) calm: Duration,
    pub(super) fault: Fault,
    /// For whatever else the fault chooses.
    pub(super) chance: f64,
}

/// One fault of the store, and how long everybody is left alone before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StoreStep {
    pub(super) calm: Duration,
    pub(super) fault: StoreFault,
    pub(super) lasts: Duration,
}

/// The faults of one lease, without end.
pub(super) struct ChaosPlan {
    random: StdRng,
    /// Whether there is a network between an actor and the store.
    linked: bool,
    step: usize,
}

impl ChaosPlan {
    pub(super) fn new(seed: u64, lease: usize, linked: bool) -> Self {
        Self { random: generator(seed, 1 + lease as u64), linked, step: 0 }
    }
}

/// Every fifth fault is the one that only a fence answers, so that short runs have it too.
const PAUSE_EVERY: usize = 5;

impl Iterator for ChaosPlan {
    type Item = PlanStep;

    fn next(&mut self) -> Option<PlanStep> {
        use Fault::{Cut, Delay, HalfOpen, Kill, KillStandby, PauseBeforeEffect, Stop, Terminate};
        const LOCAL: [(u32, Fault); 4] = [(11, Terminate), (4, Kill), (3, Stop), (1, KillStandby)];
        const NETWORK: [(u32, Fault); 3] = [(2, Cut), (3, HalfOpen), (1, Delay)];
        self.step += 1;
        let network = if self.linked { &NETWORK[..] } else { &[] };
        let fault = choose(&mut self.random, LOCAL.iter().chain(network).copied());
        Some(PlanStep {
            calm: Duration::from_millis(self.random.random_range(30..300)),
            fault: if self.step % PAUSE_EVERY == 1 { PauseBeforeEffect } else { fault },
            chance: self.random.random(),
        })
    }
}

/// A killed server stays away for this long at most.
const AWAY: Duration = Duration::from_millis(500);

/// The faults of the store, without end.
pub(super) struct StorePlan {
    random: StdRng,
    /// Each with its weight.
    faults: &'static [(u32, StoreFault)],
    ttl: Duration,
}

impl StorePlan {
    pub(super) fn new(seed: u64, faults: &'static [(u32, StoreFault)], ttl: Duration) -> Self {
        Self { random: generator(seed, 0), faults, ttl }
    }
}

impl Iterator for StorePlan {
    type Item = StoreStep;

    fn next(&mut self) -> Option<StoreStep> {
        let span = self.ttl.mul_f64(self.random.random_range(0.2..1.5));
        let fault = choose(&mut self.random, self.faults.iter().copied());
        let calm = Duration::from_millis(self.random.random_range(6_000..14_000));
        let away = AWAY.mul_f64(self.random.random());
        Some(StoreStep { calm, fault, lasts: if fault.is_absence() { away } else { span } })
    }
}

fn generator(seed: u64, stream: u64) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(stream))
}

fn choose<F: Copy>(random: &mut StdRng, faults: impl Iterator<Item = (u32, F)> + Clone) -> F {
    let total = faults.clone().map(|(weight, _)| weight).sum();
    let mut left = random.random_range(0..total);
    for (weight, fault) in faults {
        if left < weight {
            return fault;
        }
        left -= weight;
    }
    unreachable!("the weights add up to the total")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_plan_for_each_lease() {
        let plan = |seed, lease| ChaosPlan::new(seed, lease, true).take(50).collect::<Vec<_>>();
        assert_eq!(plan(7, 0), plan(7, 0));
        assert_ne!(plan(7, 0), plan(7, 1));
        assert_ne!(plan(7, 0), plan(8, 0));
    }

    #[test]
    fn every_fault_is_in_the_plan_and_the_pause_comes_first() {
        let kinds = |linked| {
            ChaosPlan::new(1, 0, linked)
                .take(500)
                .map(|step| step.fault)
                .collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(kinds(false).len(), 5);
        assert_eq!(kinds(true).len(), 8);
        assert_eq!(ChaosPlan::new(1, 0, false).next().unwrap().fault, Fault::PauseBeforeEffect);
    }
}

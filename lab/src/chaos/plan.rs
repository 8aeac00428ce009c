//! Which faults happen to a lease, and in what order: a function of the seed.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::store::Mode;

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

/// A fault of the whole store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum StoreFault {
    /// A clean restart of the server.
    Restart,
    /// SIGKILL of the server, and a new start.
    Crash,
    /// SIGKILL of the cluster's leading node, or of the API server's etcd, and a new start.
    KillNode,
    /// SIGSTOP of the cluster's leading node, or of the API server.
    PauseNode(Duration),
    /// The cluster's leading node is cut off from the others; clients reach it.
    IsolateNode(Duration),
    /// Somebody else holds the write lock of the leases' file.
    LockLeases(Duration),
    /// Somebody else holds the write lock of the effects' file.
    LockEffects(Duration),
}

impl StoreFault {
    /// In words, for the report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Restart => "store restarted",
            Self::Crash => "store crashed (SIGKILL)",
            Self::KillNode => "store's leading node killed (SIGKILL)",
            Self::PauseNode(_) => "store's leading node paused (SIGSTOP)",
            Self::IsolateNode(_) => "store's leading node cut off from the others",
            Self::LockLeases(_) => "leases' file locked by an outsider",
            Self::LockEffects(_) => "effects' file locked by an outsider",
        }
    }
}

/// One fault, and how long everybody is left alone before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step<F> {
    pub(super) calm: Duration,
    pub(super) fault: F,
    /// For whatever else the fault chooses.
    pub(super) chance: f64,
}

/// The faults of one lease, without end.
pub(super) struct Plan {
    random: StdRng,
    mode: Mode,
    step: usize,
}

impl Plan {
    pub(super) fn new(seed: u64, lease: usize, mode: Mode) -> Self {
        Self { random: generator(seed, 1 + lease as u64), mode, step: 0 }
    }
}

/// Every fifth fault is the one that only a fence answers, so that short runs have it too.
const PAUSE_EVERY: usize = 5;

impl Iterator for Plan {
    type Item = Step<Fault>;

    fn next(&mut self) -> Option<Step<Fault>> {
        use Fault::{Cut, Delay, HalfOpen, Kill, KillStandby, PauseBeforeEffect, Stop, Terminate};
        const LOCAL: [(u32, Fault); 4] = [(11, Terminate), (4, Kill), (3, Stop), (1, KillStandby)];
        const NETWORK: [(u32, Fault); 3] = [(2, Cut), (3, HalfOpen), (1, Delay)];
        self.step += 1;
        let network = if self.mode == Mode::Sqlite { &[] } else { &NETWORK[..] };
        let fault = choose(&mut self.random, LOCAL.iter().chain(network).copied());
        Some(Step {
            calm: Duration::from_millis(self.random.random_range(30..300)),
            fault: if self.step % PAUSE_EVERY == 1 { PauseBeforeEffect } else { fault },
            chance: self.random.random(),
        })
    }
}

/// The faults of the store, without end.
pub(super) struct StorePlan {
    random: StdRng,
    mode: Mode,
    ttl: Duration,
}

impl StorePlan {
    pub(super) fn new(seed: u64, mode: Mode, ttl: Duration) -> Self {
        Self { random: generator(seed, 0), mode, ttl }
    }
}

impl Iterator for StorePlan {
    type Item = Step<StoreFault>;

    fn next(&mut self) -> Option<Step<StoreFault>> {
        let span = self.ttl.mul_f64(self.random.random_range(0.2..1.5));
        let faults = match self.mode {
            Mode::Sqlite => vec![(2, StoreFault::LockLeases(span)), (1, StoreFault::LockEffects(span))],
            Mode::Postgres => vec![(1, StoreFault::Restart), (2, StoreFault::Crash)],
            Mode::Etcd => vec![
                (1, StoreFault::Crash),
                (2, StoreFault::KillNode),
                (2, StoreFault::PauseNode(span)),
                (2, StoreFault::IsolateNode(span)),
            ],
            Mode::K8s => vec![
                (1, StoreFault::Restart),
                (1, StoreFault::Crash),
                (2, StoreFault::KillNode),
                (2, StoreFault::PauseNode(span)),
            ],
        };
        let fault = choose(&mut self.random, faults.into_iter());
        let calm = Duration::from_millis(self.random.random_range(6_000..14_000));
        Some(Step { calm, fault, chance: self.random.random() })
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
        let plan = |seed, lease| Plan::new(seed, lease, Mode::Postgres).take(50).collect::<Vec<_>>();
        assert_eq!(plan(7, 0), plan(7, 0));
        assert_ne!(plan(7, 0), plan(7, 1));
        assert_ne!(plan(7, 0), plan(8, 0));
    }

    #[test]
    fn every_fault_of_a_mode_is_in_its_plan_and_the_pause_comes_first() {
        let kinds = |mode| {
            Plan::new(1, 0, mode).take(500).map(|step| step.fault).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(kinds(Mode::Sqlite).len(), 5);
        assert_eq!(kinds(Mode::Postgres).len(), 8);
        assert_eq!(kinds(Mode::Etcd).len(), 8);
        assert_eq!(kinds(Mode::K8s).len(), 8);
        assert_eq!(Plan::new(1, 0, Mode::Sqlite).next().unwrap().fault, Fault::PauseBeforeEffect);
    }
}

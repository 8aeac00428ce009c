//! The faults of one lease's guards, decided by the seed alone.

use std::collections::BTreeSet;
use std::time::Duration;

use lease_testbed::Signal;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// The processes that a guard's run consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Victim {
    Guard,
    Watchdog,
    Keeper,
    Command,
    /// All that the command has started.
    Rest,
}

const OURS: [Victim; 3] = [Victim::Guard, Victim::Watchdog, Victim::Keeper];
const ALL: [Victim; 5] = [Victim::Guard, Victim::Watchdog, Victim::Keeper, Victim::Command, Victim::Rest];

/// One attack: signals to some of them, one right after the other.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Attack {
    /// The pause before it, as a share of the ttl.
    pub(super) calm: f64,
    /// Mostly the guard that leads is hit.
    pub(super) leader: bool,
    /// Decides which of several guards it is.
    pub(super) chance: f64,
    pub(super) signals: Vec<(Victim, Signal)>,
    /// What was stopped goes on after this share of the ttl.
    pub(super) stopped_for: f64,
    /// By then one of those may be killed.
    pub(super) killed_meanwhile: Option<Victim>,
}

pub(super) struct Plan(StdRng);

impl Plan {
    pub(super) fn new(seed: u64, lane: u64) -> Self {
        Self(StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(lane)))
    }

    /// Between the shortest and the longest.
    pub(super) fn ttl(&mut self, range: &std::ops::RangeInclusive<Duration>) -> Duration {
        *range.start() + (*range.end() - *range.start()).mul_f64(self.0.random())
    }

    fn signal(&mut self) -> Signal {
        const OTHERS: [Signal; 7] =
            [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::TSTP, Signal::ALARM];
        match self.0.random_range(0..10) {
            0..5 => Signal::STOP,
            5..9 => Signal::KILL,
            _ => OTHERS[self.0.random_range(0..OTHERS.len())],
        }
    }
}

impl Iterator for Plan {
    type Item = Attack;

    fn next(&mut self) -> Option<Attack> {
        let mut victims: Vec<Victim> = match self.0.random_range(0..10) {
            0..3 => OURS.to_vec(),
            3 => ALL.to_vec(),
            _ => {
                let count = self.0.random_range(1..=3);
                let mut some = ALL;
                some.shuffle(&mut self.0);
                some[..count].to_vec()
            }
        };
        victims.shuffle(&mut self.0);
        let (one_for_all, mixed) = (self.signal(), self.0.random_bool(0.4));
        let signals: Vec<_> =
            victims.iter().map(|victim| (*victim, if mixed { self.signal() } else { one_for_all })).collect();
        let kill = self.0.random_bool(0.2).then(|| victims[self.0.random_range(0..victims.len())]);
        Some(Attack {
            calm: self.0.random_range(0.0..0.6),
            leader: self.0.random_bool(0.9),
            chance: self.0.random(),
            stopped_for: self.0.random_range(0.1..2.5),
            killed_meanwhile: kill.filter(|_| signals.iter().any(|(_, signal)| *signal == Signal::STOP)),
            signals,
        })
    }
}

impl Attack {
    /// For the report: the signals' kinds, and the number of victims.
    pub(super) fn name(&self) -> String {
        let kinds: BTreeSet<&str> = self
            .signals
            .iter()
            .map(|(_, signal)| match *signal {
                Signal::STOP => "stop",
                Signal::KILL => "kill",
                _ => "signal",
            })
            .collect();
        format!("{} of {}", kinds.into_iter().collect::<Vec<_>>().join("+"), self.signals.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_plan_for_each_lane() {
        let plan = |seed, lane| Plan::new(seed, lane).take(50).collect::<Vec<_>>();
        assert_eq!(plan(7, 0), plan(7, 0));
        assert_ne!(plan(7, 0), plan(7, 1));
        assert_ne!(plan(7, 0), plan(8, 0));
    }

    #[test]
    fn all_of_our_processes_are_stopped_at_once_and_killed_at_once() {
        for signal in [Signal::STOP, Signal::KILL] {
            let hit = |attack: &Attack| OURS.iter().all(|ours| attack.signals.contains(&(*ours, signal)));
            assert!(Plan::new(1, 0).take(100).filter(hit).count() > 3, "{signal:?}");
        }
    }
}

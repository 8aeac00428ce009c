//! The faults of a simulated fleet, and which of them a seed brings.

/// A fault, or an operator's action.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mishap {
    /// An elector dies and starts anew after this many milliseconds.
    Crash(usize, u64),
    /// An elector stands still for this many milliseconds; its clock doesn't.
    Pause(usize, u64),
    /// An elector stands still for this many milliseconds from when it next sends an acquisition.
    PauseAcquiring(usize, u64),
    /// An elector's replies are lost for this many milliseconds from when it next sends an acquisition.
    LoseAcquired(usize, u64),
    /// An elector is asked to stop, and starts anew after it has ended.
    Stop(usize),
    /// An elector's requests are lost for this many milliseconds.
    LoseRequests(usize, u64),
    /// An elector's replies are lost for this many milliseconds: applied all the same.
    LoseReplies(usize, u64),
    /// An elector's messages take up to this many milliseconds for two seconds.
    Slow(usize, u64),
    /// The store goes on in another lineage, without what it wrote in the last so many milliseconds.
    FailOver(u64),
    /// An administrator deletes the register, and an operator runs `init` after this many milliseconds.
    Delete(u64),
    /// An operator asks the holder to step down.
    StepDown,
    /// An operator revokes the holder's grant.
    Revoke,
    /// Somebody says that the holder is dead.
    HolderIsDead(usize),
}

impl Mishap {
    /// Whom it concerns, if not everybody, and what it is called.
    pub(super) fn told(self) -> (Option<usize>, &'static str) {
        match self {
            Self::Crash(node, _) => (Some(node), "death"),
            Self::Pause(node, _) => (Some(node), "standstill"),
            Self::PauseAcquiring(node, _) => (Some(node), "standstill ahead"),
            Self::LoseAcquired(node, _) => (Some(node), "lost replies ahead"),
            Self::Stop(node) => (Some(node), "stop"),
            Self::LoseRequests(node, _) => (Some(node), "lost requests"),
            Self::LoseReplies(node, _) => (Some(node), "lost replies"),
            Self::Slow(node, _) => (Some(node), "slow messages"),
            Self::HolderIsDead(node) => (Some(node), "a word that the holder is dead"),
            Self::FailOver(_) => (None, "failover"),
            Self::Delete(_) => (None, "deletion"),
            Self::StepDown => (None, "step-down"),
            Self::Revoke => (None, "revocation"),
        }
    }
}

/// Faults come in this time, and a time without any follows, which the liveness of the fleet is judged in.
pub(super) const FAULTY_MS: u64 = 30_000;
pub(super) const CALM_MS: u64 = 14_000;

/// What is special about a seed's fleet.
#[derive(Clone, Copy, Debug)]
pub(super) struct FleetSetting {
    /// The store can lose its registers.
    pub(super) loses_registers: bool,
    /// All electors have one workload's name, as after a careless copy.
    pub(super) one_name: bool,
    /// The wall clock of every other elector is an hour ahead.
    pub(super) wall_clocks_differ: bool,
    /// Every effect is fenced, and the record says so (F-3).
    pub(super) preemptible: bool,
    /// The electors watch.
    pub(super) watches: bool,
}

impl FleetSetting {
    pub(super) fn of(seed: u64) -> Self {
        let kind = Kind::of(seed);
        Self {
            loses_registers: matches!(kind, Kind::Losses) || (seed / Kind::COUNT) % 2 == 1,
            one_name: seed.is_multiple_of(5),
            wall_clocks_differ: seed % 3 == 1,
            preemptible: seed % 11 == 4,
            watches: seed % 4 != 2,
        }
    }
}

/// The kind of a seed's faults: each alone, so that one invariant doesn't drown the others, and most of them together.
#[derive(Clone, Copy)]
enum Kind {
    None,
    Deaths,
    Pauses,
    Network,
    Losses,
    Operators,
    All,
}

impl Kind {
    const COUNT: u64 = 7;

    fn of(seed: u64) -> Self {
        match seed % Self::COUNT {
            0 => Self::None,
            1 => Self::Deaths,
            2 => Self::Pauses,
            3 => Self::Network,
            4 => Self::Losses,
            5 => Self::Operators,
            _ => Self::All,
        }
    }
}

/// When which fault comes, in milliseconds. `below` draws a number below its argument.
pub(super) fn mishaps(
    seed: u64,
    nodes: usize,
    loses_registers: bool,
    mut below: impl FnMut(u64) -> u64,
) -> Vec<(u64, Mishap)> {
    let kind = Kind::of(seed);
    let count = match kind {
        Kind::None => 0,
        Kind::All => 4 + below(12),
        _ => 2 + below(8),
    };
    let mut all: Vec<_> = (0..count)
        .map(|_| (2_000 + below(FAULTY_MS - 2_000), one(kind, nodes, loses_registers, &mut below)))
        .collect();
    all.sort_by_key(|(at, _)| *at);
    all
}

fn one(kind: Kind, nodes: usize, loses_registers: bool, below: &mut impl FnMut(u64) -> u64) -> Mishap {
    let node = below(nodes as u64) as usize;
    match kind {
        Kind::None | Kind::Deaths => Mishap::Crash(node, 1_000 + below(9_000)),
        Kind::Pauses => match below(3) {
            0 => Mishap::PauseAcquiring(node, 500 + below(9_000)),
            _ => Mishap::Pause(node, 500 + below(9_000)),
        },
        Kind::Network => match below(4) {
            0 => Mishap::LoseRequests(node, below(5_000)),
            1 => Mishap::LoseReplies(node, below(5_000)),
            2 => Mishap::LoseAcquired(node, below(3_000)),
            _ => Mishap::Slow(node, below(4_000)),
        },
        // Where registers can't be lost there is neither (T-5).
        Kind::Losses if !loses_registers => Mishap::Stop(node),
        Kind::Losses => match below(2) {
            0 => Mishap::FailOver(below(4_000)),
            _ => Mishap::Delete(below(4_000)),
        },
        Kind::Operators => match below(5) {
            0 => Mishap::StepDown,
            1 => Mishap::Revoke,
            2 => Mishap::HolderIsDead(node),
            _ => Mishap::Stop(node),
        },
        // Not what starts a candidate's wait anew: then L-4 could judge no death.
        Kind::All => match below(6) {
            0 => one(Kind::Deaths, nodes, loses_registers, below),
            1 | 2 => one(Kind::Pauses, nodes, loses_registers, below),
            3 => one(Kind::Network, nodes, loses_registers, below),
            4 => Mishap::StepDown,
            _ => Mishap::Stop(node),
        },
    }
}

//! Who decides whose turn it is, and whether the store checks that.

use lease_stores::Mode;
use serde::Serialize;

/// What a worker believes when it updates a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Holding {
    /// etcd's `Lock` call, over a session: an etcd lease that is kept alive.
    EtcdLock,
    /// A lease of Leasehold.
    Lease,
}

/// A way to guard a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Guarding {
    pub(super) holding: Holding,
    /// The store admits updates by F-1: the token is the lease's term, or the revision at which etcd's lock was taken.
    pub(super) fenced: bool,
}

impl Holding {
    /// The word that makes a process its worker.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::EtcdLock => "etcd-lock",
            Self::Lease => "lease",
        }
    }
}

impl Guarding {
    pub(super) const LEASE_FENCED: Self = Self { holding: Holding::Lease, fenced: true };
    pub(super) const LEASE_UNFENCED: Self = Self { holding: Holding::Lease, fenced: false };
    pub(super) const ETCD_FENCED: Self = Self { holding: Holding::EtcdLock, fenced: true };
    pub(super) const ETCD_UNFENCED: Self = Self { holding: Holding::EtcdLock, fenced: false };

    /// All that can be played on this store: etcd's lock needs etcd.
    pub(super) fn on(mode: Mode) -> Vec<Self> {
        let leases = [Self::LEASE_UNFENCED, Self::LEASE_FENCED];
        let locks = [Self::ETCD_UNFENCED, Self::ETCD_FENCED];
        let locks = locks.into_iter().filter(|_| mode == Mode::Etcd);
        locks.chain(leases).collect()
    }

    /// In words, for the report.
    pub(super) fn words(self) -> (&'static str, &'static str) {
        let Self { holding, fenced } = self;
        match (holding, fenced) {
            (Holding::EtcdLock, false) => ("etcd's lock", "none"),
            (Holding::EtcdLock, true) => ("etcd's lock", "its revision"),
            (Holding::Lease, false) => ("our lease", "none"),
            (Holding::Lease, true) => ("our lease", "its term"),
        }
    }

    /// The name of its set with this number, as a lease's name.
    pub(super) fn set(self, number: u64) -> String {
        let fence = if self.fenced { "fenced" } else { "unfenced" };
        format!("{}-{fence}-{number}", self.holding.word())
    }
}

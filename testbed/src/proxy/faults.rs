//! The present faults of a proxy, which hold for all of its connections.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::sync::watch;

use super::{round_trips::RoundTrips, traps::Traps, wire::Protocol};

/// A direction through a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// The treatment of the bytes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flow {
    /// They are passed on.
    #[default]
    Pass,
    /// They wait, and so does a close: a partition that heals before TCP gives up. When it does, everything arrives,
    /// late.
    Stall,
    /// They are lost, and so is a close: a partition that outlasts TCP. A connection that has lost bytes stays silent
    /// in that direction even after the fault has ended; new connections work.
    Drop,
}

#[derive(Clone, Debug)]
pub(super) struct Faults {
    pub(super) upstream: SocketAddr,
    pub(super) to_server: FaultLane,
    pub(super) to_client: FaultLane,
    pub(super) refuse: bool,
    /// Connections with a smaller number are cut.
    pub(super) cut_below: u64,
    pub(super) shutdown: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FaultLane {
    pub(super) flow: Flow,
    pub(super) delay: Duration,
}

/// Shared by the handle and the thread that serves the connections.
pub(super) struct ProxyState {
    pub(super) protocol: Protocol,
    pub(super) faults: watch::Sender<Faults>,
    pub(super) traps: Arc<Traps>,
    pub(super) open: watch::Sender<BTreeSet<u64>>,
    pub(super) listening: watch::Sender<bool>,
    round_trips: Mutex<RoundTrips>,
}

// === impl Shared ===

impl ProxyState {
    pub(super) fn new(protocol: Protocol, upstream: SocketAddr) -> Self {
        let faults = Faults {
            upstream,
            to_server: FaultLane::default(),
            to_client: FaultLane::default(),
            refuse: false,
            cut_below: 0,
            shutdown: false,
        };
        Self {
            protocol,
            faults: watch::Sender::new(faults),
            traps: Arc::default(),
            open: watch::Sender::new(BTreeSet::new()),
            listening: watch::Sender::new(true),
            round_trips: Mutex::default(),
        }
    }

    pub(super) fn round_trips(&self) -> MutexGuard<'_, RoundTrips> {
        self.round_trips.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

// === impl Faults ===

impl Faults {
    pub(super) fn lane(&self, direction: Direction) -> FaultLane {
        match direction {
            Direction::ToServer => self.to_server,
            Direction::ToClient => self.to_client,
        }
    }

    pub(super) fn lane_mut(&mut self, direction: Direction) -> &mut FaultLane {
        match direction {
            Direction::ToServer => &mut self.to_server,
            Direction::ToClient => &mut self.to_client,
        }
    }
}

//! What an elector knows of its lease, for people: pages and metrics. Nothing is decided by it.

use std::time::Duration;

use tokio::sync::watch;

use crate::clock::{Clock, Instant};
use crate::leadership::Leadership;

/// What an elector knows of its lease. Cheap to clone, and computed from the elector's own clock at each call. Once the
/// elector has ended, nothing new is seen.
#[derive(Clone, Debug)]
pub struct LeaseView {
    clock: Clock,
    seen: watch::Receiver<Glimpse>,
}

/// The state of an elector as far as its view shows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Glimpse {
    pub(crate) epoch: Option<u64>,
    pub(crate) beat_at: Option<Instant>,
    pub(crate) leadership: Option<Leadership>,
}

impl LeaseView {
    pub(crate) fn new(clock: Clock, seen: watch::Receiver<Glimpse>) -> Self {
        Self { clock, seen }
    }

    /// The epoch of the register as it was seen last; `None` if none was seen.
    pub fn epoch(&self) -> Option<u64> {
        self.seen.borrow().epoch
    }

    /// The age of the last beat that this elector knows: of its own last acknowledged one while it leads, of the last
    /// one that it saw while it stands by. It begins anew where a candidate's wait does (T-2), so a failed call makes it
    /// younger than the beat. `None` before the first look.
    pub fn last_beat_age(&self) -> Option<Duration> {
        let at = self.seen.borrow().beat_at?;
        Some(self.clock.now().since(at))
    }

    /// [`Leadership::remaining`]; zero while this elector doesn't lead.
    pub fn remaining(&self) -> Duration {
        self.seen.borrow().leadership.as_ref().map_or(Duration::ZERO, Leadership::remaining)
    }
}

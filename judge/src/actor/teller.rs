//! Records an actor's own events: those that are not its elector's.

use std::sync::Arc;

use lease_core::{Clock, Instant};

use super::Orders;
use crate::history::What;
use crate::recorder::Recorder;

#[derive(Clone)]
pub(super) struct Teller {
    recorder: Recorder,
    orders: Arc<Orders>,
}

impl Teller {
    pub(super) fn new(recorder: Recorder, orders: Arc<Orders>) -> Self {
        Self { recorder, orders }
    }

    pub(super) fn orders(&self) -> &Orders {
        &self.orders
    }

    pub(super) fn tell_at(&self, at: Instant, what: What) {
        self.recorder.record(&self.orders.lease, at, &self.orders.actor, what);
    }

    pub(super) fn tell(&self, what: What) {
        self.tell_at(Clock::boot().now(), what);
    }
}

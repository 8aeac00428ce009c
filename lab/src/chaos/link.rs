//! What stands between an actor and its store, so that it can be broken.

use std::sync::Arc;
use std::time::Duration;

use lease_testbed::{Direction, Proxy};

use crate::store::Store;

/// One actor's connections: those of its lease and those of its effects.
#[derive(Clone, Debug)]
pub(super) struct Link(Arc<Proxy>);

impl Link {
    /// Puts itself in front of a Postgres store. Returns how to reach the store through it.
    pub(super) fn before(store: &Store, server: &lease_testbed::Postgres) -> anyhow::Result<(Self, Store)> {
        let proxy = Proxy::postgres(server.addr())?;
        let (leases, effects) = (proxy.url(&store.leases)?, proxy.url(&store.effects)?);
        Ok((Self(Arc::new(proxy)), Store { leases, effects, ..store.clone() }))
    }

    /// Ends all connections at once.
    pub(super) async fn cut(&self) {
        self.0.cut().await;
    }

    /// Carries nothing more, in either direction, and closes nothing.
    pub(super) fn hold(&self) {
        self.0.stall();
    }

    /// Delivers what was held, late, and carries on.
    pub(super) fn deliver(&self) {
        self.0.heal();
    }

    /// Carries everything this much later.
    pub(super) fn delay(&self, by: Duration) {
        self.0.set_delay(Direction::ToServer, by / 2);
        self.0.set_delay(Direction::ToClient, by / 2);
    }
}

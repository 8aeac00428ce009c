//! What stands between an actor and its store, so that it can be broken.

use std::time::Duration;

/// One actor's connections.
#[derive(Clone, Debug)]
pub(super) struct Link;

impl Link {
    /// Ends all connections at once.
    pub(super) fn cut(&self) {}

    /// Carries nothing more, in either direction.
    pub(super) fn hold(&self) {}

    /// Delivers what was held, and carries on.
    pub(super) fn deliver(&self) {}

    /// Carries everything this much later.
    pub(super) fn delay(&self, by: Duration) {
        let _ = by;
    }
}

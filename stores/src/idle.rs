//! Connections between two uses.

use std::sync::Mutex;

/// Connections that nobody uses at the moment. One that failed, or whose user was dropped, never comes back, so there
/// are as many as were in use at the same time.
pub(crate) struct Idle<C>(Mutex<Vec<C>>);

impl<C> Default for Idle<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C> Idle<C> {
    pub(crate) fn take(&self) -> Option<C> {
        self.0.lock().expect("not poisoned").pop()
    }

    pub(crate) fn put_back(&self, connection: C) {
        self.0.lock().expect("not poisoned").push(connection);
    }
}

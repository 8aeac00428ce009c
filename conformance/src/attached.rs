//! A connection that needs something else to live as long as it does.

use async_trait::async_trait;
use lease_core::{
    BackendError, Capabilities, Change, LeaseBackend, LeaseName, Observation, PutOutcome, Record,
};

/// A connection, and what goes with it: the proxy that it runs through, a fault that is armed.
/// For [`Harness::connect_losing_the_next_reply`](crate::Harness::connect_losing_the_next_reply). It neither lists nor
/// watches.
#[derive(Debug)]
pub struct Attached<B, T> {
    connection: B,
    _attached: T,
}

impl<B, T> Attached<B, T> {
    /// `attached` is dropped after `connection`.
    pub fn new(connection: B, attached: T) -> Self {
        Self { connection, _attached: attached }
    }
}

#[async_trait]
impl<B: LeaseBackend, T: Send + Sync + 'static> LeaseBackend for Attached<B, T> {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        self.connection.observe(name).await
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        self.connection.put_if(name, expected, record, change).await
    }

    fn capabilities(&self) -> Capabilities {
        self.connection.capabilities()
    }
}

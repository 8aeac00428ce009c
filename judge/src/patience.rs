//! A limit for everything that is waited for.

use std::time::Duration;

use anyhow::anyhow;

/// A wait that takes longer fails.
#[derive(Clone, Copy, Debug)]
pub struct Patience(pub Duration);

impl Patience {
    /// Awaits `future`.
    ///
    /// # Errors
    /// It took too long; `what` is named in the error.
    pub async fn wait<T>(self, what: &str, future: impl Future<Output = T>) -> anyhow::Result<T> {
        let limit = self.0;
        let waited = tokio::time::timeout(limit, future).await;
        waited.map_err(|_| anyhow!("timed out after {limit:?} waiting for {what}"))
    }
}

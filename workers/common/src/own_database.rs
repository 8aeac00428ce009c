//! What a batch asks of the work's own database: within a time limit, and what its failures mean for the term.

use std::time::Duration;

use crate::database::{StoreError, within};
use crate::lead::BatchError;
use crate::mandate::Mandate;

/// The database of a role's work, as its leader asks it.
pub struct OwnDatabase {
    /// The time limit of one call.
    pub call_limit: Duration,
    /// Which resource refuses a stale term there, for the log.
    pub resource: &'static str,
    /// The database for people.
    pub called: &'static str,
    /// The value of the metric's label `reason` while it fails.
    pub unavailable: &'static str,
}

impl OwnDatabase {
    /// One call of a batch. Its end is progress (H-4).
    ///
    /// # Errors
    /// The store's, as a batch's.
    pub async fn ask<T>(
        &self,
        mandate: &Mandate,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, BatchError> {
        let answer = within(self.call_limit, call).await;
        mandate.report_progress();
        answer.map_err(|error| self.failed(error))
    }

    /// What an error of the store means for the batch.
    pub fn failed(&self, error: StoreError) -> BatchError {
        match error {
            StoreError::Stale(_) => BatchError::Stale { resource: self.resource },
            StoreError::LedElsewhere => BatchError::LedElsewhere,
            why => BatchError::Database {
                reason: self.unavailable,
                why: format!("{} can't be used: {why}", self.called),
            },
        }
    }
}

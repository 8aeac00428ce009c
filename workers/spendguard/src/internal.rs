//! For this project's fuzzing. Nothing here is stable.

/// The number of events in the body of a request to canonical-ingest.
///
/// # Errors
/// It is refused.
pub fn batch(body: &[u8]) -> Result<usize, String> {
    crate::ingest::http::count(body)
}

/// Checks the ledger's requests. Returns the records that would be written to a scope.
#[cfg(feature = "ledger")]
pub fn requests(bytes: &[u8]) -> Vec<lease_core::Record> {
    crate::ledger::check::read_all(bytes)
}

//! The leases that an operator asks for, and the reads that show them.

use futures::StreamExt;
use lease_core::{BackendError, LeaseName, Listed};
use lease_settings::Failure;

use super::session::Session;

/// The leases that were asked for.
#[derive(Debug)]
pub(super) enum Which {
    Named(Vec<LeaseName>),
    BeginningWith(String),
}

/// Reads of named leases that are under way at once.
const AT_ONCE: usize = 16;

impl Which {
    /// All of them by one read of the store, or the named ones by one read each: who may read those may not be allowed
    /// to list. One that can't be read hides no other; if all fail in the same words, it is the store that does.
    pub(super) async fn look(&self, session: &Session) -> Result<Vec<Listed>, Failure> {
        let names = match self {
            Self::BeginningWith(prefix) => return session.read(session.backend.list(prefix)).await,
            Self::Named(names) => names,
        };
        let reads = names.iter().map(|name| session.read_row(session.backend.observe(name)));
        let seen: Vec<_> = futures::stream::iter(reads).buffered(AT_ONCE).collect().await;
        let words = |seen: &Result<_, BackendError>| seen.as_ref().err().map(|error| format!("{error:#}"));
        match &seen[..] {
            [Err(failure), others @ ..] if others.iter().all(|other| words(other) == words(&seen[0])) => {
                Err(session.explain(failure))
            }
            _ => Ok(names.iter().cloned().zip(seen).collect()),
        }
    }

    /// The beginning of all their names.
    pub(super) fn prefix(&self) -> &str {
        match self {
            Self::BeginningWith(prefix) => prefix,
            Self::Named(names) if names.len() == 1 => names[0].as_str(),
            Self::Named(_) => "",
        }
    }
}

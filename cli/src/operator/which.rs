//! The leases that an operator asks for, and the reads that show them.

use futures::{StreamExt, TryStreamExt};
use lease_core::{LeaseName, Listed};
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
    /// to list.
    pub(super) async fn look(&self, session: &Session) -> Result<Vec<Listed>, Failure> {
        let names = match self {
            Self::BeginningWith(prefix) => return session.read(session.backend.list(prefix)).await,
            Self::Named(names) => names,
        };
        let reads = names.iter().map(async |name| {
            let seen = session.read(session.backend.observe(name)).await?;
            Ok::<_, Failure>((name.clone(), Ok(seen)))
        });
        futures::stream::iter(reads).buffered(AT_ONCE).try_collect().await
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

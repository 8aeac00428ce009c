//! The canonical store of audit events: each event once, by its key, whoever sends it how often.

#[cfg(feature = "postgres")]
mod postgres;
mod sqlite;
pub mod storable;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease_core::{LeaseName, Term};
use lease_worker_common::database::{Database, StoreError};
use serde::Serialize;
use serde_json::value::RawValue;

use super::cloudevents::EventKey;
#[cfg(feature = "postgres")]
pub use postgres::PostgresCanonical;
pub use sqlite::SqliteCanonical;

/// An event as it arrived.
#[derive(Debug, Serialize)]
pub struct ArrivedEvent<'a> {
    /// Unique for ever.
    #[serde(flatten)]
    pub key: EventKey,
    /// When it happened, in milliseconds since 1970.
    pub event_time: i64,
    /// The producer's own epoch at that time: data, never compared.
    pub fencing_epoch: i64,
    /// Any JSON.
    pub payload: &'a RawValue,
}

/// The outcome of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Ingested {
    /// New events.
    pub accepted: u64,
    /// Events that were there already; nothing was changed by them.
    pub duplicates: u64,
}

/// One canonical store. Every write may be repeated.
#[async_trait]
pub trait Canonical: Send + Sync + 'static {
    /// Creates the tables if they aren't there.
    async fn migrate(&self) -> Result<(), StoreError>;

    /// Keeps those events of a batch that are new, if the store admits the forwarder's `term` of `lease` in the same
    /// transaction.
    async fn ingest(
        &self,
        lease: &LeaseName,
        term: Term,
        events: &[ArrivedEvent<'_>],
    ) -> Result<Ingested, StoreError>;

    /// Does the store answer, could it keep an event, and is there room on its disk? (In SQLite only the first.)
    async fn ping(&self) -> Result<(), StoreError>;
}

/// Opens a store. `transaction_limit` bounds a transaction where the store can do so.
#[cfg_attr(not(feature = "postgres"), expect(unused_variables, reason = "SQLite has no such limit"))]
pub async fn open(
    database: &Database,
    create: bool,
    connections: u32,
    transaction_limit: Duration,
) -> Result<Arc<dyn Canonical>, StoreError> {
    Ok(match database {
        Database::Sqlite(path) => Arc::new(SqliteCanonical::open(path, create).await?),
        #[cfg(feature = "postgres")]
        Database::Postgres(options) => {
            Arc::new(PostgresCanonical::open(options, connections, transaction_limit))
        }
    })
}

/// The resource that the terms of one lease are admitted on (F-1): the epochs of different leases don't compare.
fn resource(lease: &LeaseName) -> String {
    format!("canonical-ingest/{lease}")
}

fn json(events: &[ArrivedEvent<'_>]) -> Result<String, sqlx::Error> {
    serde_json::to_string(events).map_err(|error| sqlx::Error::Encode(error.into()))
}

fn counts(sent: usize, inserted: u64) -> Ingested {
    Ingested { accepted: inserted, duplicates: (sent as u64).saturating_sub(inserted) }
}

//! The audit outbox: what producers wrote beside their own effects, and what of it is still to be forwarded.

#[cfg(feature = "postgres")]
mod postgres;
mod sqlite;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease_core::Term;
use lease_worker_common::database::{Database, StoreError};
use lease_worker_common::home::{KnownWork, Settlement};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::cloudevents::EventKey;
#[cfg(feature = "postgres")]
pub use postgres::PostgresOutbox;
pub use sqlite::SqliteOutbox;

/// The resource that forwarders' terms are admitted on (F-1). One for each outbox, whatever the lease is called.
pub const RESOURCE: &str = "audit_outbox";

/// An event as its producer writes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewEvent {
    /// Unique for ever.
    #[serde(flatten)]
    pub key: EventKey,
    /// When it happened, in milliseconds since 1970.
    pub event_time: i64,
    /// The producer's own epoch at that time.
    pub fencing_epoch: i64,
    /// Any JSON.
    pub payload: Box<RawValue>,
}

/// A row that is still to be forwarded.
#[derive(Clone, Debug)]
pub struct PendingRow {
    /// Rows are forwarded in this order, but for those that can't be.
    pub outbox_id: i64,
    /// The event.
    pub event: NewEvent,
}

/// One outbox. Every write may be repeated.
#[async_trait]
pub trait Outbox: Send + Sync + 'static {
    /// Creates the tables if they aren't there.
    async fn migrate(&self) -> Result<(), StoreError>;

    /// Writes events, all or none; a key that was ever used is an error.
    async fn append(&self, events: &[NewEvent]) -> Result<(), StoreError>;

    /// Who leads the forwarding (M-2).
    async fn known(&self) -> Result<KnownWork, StoreError>;

    /// A term's first act: admits it, before its first read (F-1). Its fleet is at home here from then on.
    async fn admit(&self, term: Term, fleet: &Settlement) -> Result<(), StoreError>;

    /// Mode `disabled`: a new term from the outbox's own mark, admitted at once as by [`admit`](Self::admit).
    async fn take_term(&self, fleet: &Settlement) -> Result<Term, StoreError>;

    /// The oldest rows that are still to be forwarded, oldest first, without those that are `left_out`. In Postgres, fails
    /// where they could not be marked.
    async fn pending(&self, limit: u32, left_out: &[i64]) -> Result<Vec<PendingRow>, StoreError>;

    /// Marks rows as forwarded, if the outbox admits `term` in the same transaction; returns how many weren't yet.
    async fn mark_forwarded(&self, term: Term, outbox_ids: &[i64]) -> Result<u64, StoreError>;

    /// Removes rows that were forwarded more than `days` ago, 1 or more, at most `limit`, if the outbox admits `term` in
    /// the same transaction; returns how many. Their keys stay: each is used only once.
    async fn prune(&self, term: Term, days: u32, limit: u32) -> Result<u64, StoreError>;

    /// For how long the oldest pending row has waited, by the database's clock; zero if none is pending. In Postgres, fails
    /// where it could not be marked.
    async fn oldest_pending_age(&self) -> Result<Duration, StoreError>;

    /// Could pending rows be read? In Postgres, could they also be marked, and is there room on the disk?
    async fn ready(&self) -> Result<(), StoreError> {
        self.oldest_pending_age().await.map(drop)
    }
}

/// Opens an outbox. `transaction_limit` bounds a fenced transaction where the store can do so; keep it below the ttl.
#[cfg_attr(not(feature = "postgres"), expect(unused_variables, reason = "SQLite has no such limit"))]
pub async fn open(
    database: &Database,
    create: bool,
    transaction_limit: Duration,
) -> Result<Arc<dyn Outbox>, StoreError> {
    Ok(match database {
        Database::Sqlite(path) => Arc::new(SqliteOutbox::open(path, create).await?),
        #[cfg(feature = "postgres")]
        Database::Postgres(options) => Arc::new(PostgresOutbox::open(options, transaction_limit)),
    })
}

fn raw(json: String) -> Result<Box<RawValue>, sqlx::Error> {
    RawValue::from_string(json).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn json(value: &(impl Serialize + ?Sized)) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(error.into()))
}

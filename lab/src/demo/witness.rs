//! Looks at the stores from outside the processes: what counts is what they leave behind.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use lease_core::{Change, Hint, HistoryEvent, HistoryRow, LeaseBackend, LeaseName, Observation};
#[cfg(feature = "postgres")]
use sqlx::PgPool;
use sqlx::{Row, SqlitePool};
use tokio_util::task::AbortOnDropHandle;

/// The two stores of effects.
pub(crate) enum EffectStores {
    Sqlite {
        outbox: SqlitePool,
        canonical: SqlitePool,
    },
    #[cfg(feature = "postgres")]
    Postgres {
        outbox: PgPool,
        canonical: PgPool,
    },
}

#[derive(Clone, Copy)]
enum Where {
    Outbox,
    Canonical,
}

/// A term's traces in the canonical store.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct TermEffects {
    pub(crate) epoch: u64,
    pub(crate) rows: u64,
    /// In the order in which the store let them in.
    pub(crate) first_id: i64,
    pub(crate) last_id: i64,
    /// Milliseconds since 1970.
    pub(crate) first_at: i64,
}

/// Rows as a store with history would keep them, made of what a watch shows.
pub(crate) struct WatchedHistory {
    rows: Arc<Mutex<Vec<HistoryRow>>>,
    _watching: AbortOnDropHandle<()>,
}

impl WatchedHistory {
    /// Watches from here on.
    pub(crate) async fn from_now_on(
        backend: &Arc<dyn LeaseBackend>,
        lease: &LeaseName,
    ) -> anyhow::Result<Self> {
        let mut hints = backend.watch(lease.as_str()).await?;
        let mut before = backend.observe(lease).await?;
        let rows = Arc::<Mutex<Vec<HistoryRow>>>::default();
        let (kept, backend, lease) = (rows.clone(), backend.clone(), lease.clone());
        let watching = tokio::spawn(async move {
            loop {
                let hint = hints.next().await;
                if hint.is_none() {
                    // The API server ends a watch now and then.
                    let Ok(again) = backend.watch(lease.as_str()).await else { continue };
                    hints = again;
                }
                let now = match hint {
                    Some(Hint::Shows(_, observation)) => observation,
                    _ => match backend.observe(&lease).await {
                        Ok(observation) => observation,
                        Err(_) => continue,
                    },
                };
                kept.lock().expect("not poisoned").extend(row(&lease, &before, &now));
                before = now;
            }
        });
        Ok(Self { rows, _watching: AbortOnDropHandle::new(watching) })
    }
}

fn row(lease: &LeaseName, before: &Observation, now: &Observation) -> Option<HistoryRow> {
    let record = now.record.as_ref()?;
    if before.grant() == record.grant {
        return None;
    }
    let (change, event_at) = match record.grant {
        Some(_) => (Change::Acquire, record.acquired_at),
        None => (Change::Release, record.renewed_at),
    };
    Some(HistoryRow {
        sequence: i64::try_from(record.transitions).ok()?,
        lease_name: lease.clone(),
        transition_count: record.transitions,
        epoch: record.epoch,
        holder_workload_id: record.holder.clone(),
        event_type: HistoryEvent::of(before, record, change)?,
        event_at,
        note: record.note.clone(),
    })
}

/// One observer.
pub(crate) struct Witness {
    pub(crate) backend: Arc<dyn LeaseBackend>,
    pub(crate) lease: LeaseName,
    pub(crate) effects: EffectStores,
    /// The history as the watch showed it, for a store that keeps none.
    pub(crate) seen: Option<WatchedHistory>,
    /// The lease file, if that is what the store is.
    pub(crate) lease_file: Option<PathBuf>,
}

impl Witness {
    /// The holder in the lease's record, and its epoch.
    pub(crate) async fn holder(&self) -> anyhow::Result<Option<(String, u64)>> {
        let record = self.backend.observe(&self.lease).await?.record;
        Ok(record.filter(|record| record.grant.is_some()).map(|record| (record.holder, record.epoch)))
    }

    /// The lease's history, oldest first.
    pub(crate) async fn history(&self) -> anyhow::Result<Vec<HistoryRow>> {
        match &self.seen {
            Some(seen) => Ok(seen.rows.lock().expect("not poisoned").clone()),
            None => Ok(self.backend.history(&self.lease, 1_000).await?),
        }
    }

    /// The number of events in the canonical store.
    pub(crate) async fn ingested(&self) -> anyhow::Result<u64> {
        let rows =
            self.ints(Where::Canonical, "SELECT CAST(count(*) AS bigint) FROM canonical_events").await?;
        Ok(rows[0][0] as u64)
    }

    /// The number of pending outbox rows.
    pub(crate) async fn pending(&self) -> anyhow::Result<u64> {
        let sql = "SELECT CAST(count(*) AS bigint) FROM audit_outbox WHERE forwarded_at IS NULL";
        Ok(self.ints(Where::Outbox, sql).await?[0][0] as u64)
    }

    /// The epoch of the newest effect.
    pub(crate) async fn newest_epoch(&self) -> anyhow::Result<u64> {
        let sql = "SELECT forwarder_epoch FROM canonical_events ORDER BY ingest_id DESC LIMIT 1";
        Ok(self.ints(Where::Canonical, sql).await?.first().map_or(0, |row| row[0] as u64))
    }

    /// Each term's traces, by epoch.
    pub(crate) async fn terms(&self) -> anyhow::Result<Vec<TermEffects>> {
        let sql = match self.effects {
            EffectStores::Sqlite { .. } => {
                "SELECT forwarder_epoch, count(*), min(ingest_id), max(ingest_id), min(ingested_at)
                 FROM canonical_events GROUP BY 1 ORDER BY 1"
            }
            #[cfg(feature = "postgres")]
            EffectStores::Postgres { .. } => {
                "SELECT forwarder_epoch, count(*), min(ingest_id), max(ingest_id),
                        CAST(extract(epoch FROM min(ingested_at)) * 1000 AS bigint)
                 FROM canonical_events GROUP BY 1 ORDER BY 1"
            }
        };
        let terms = self.ints(Where::Canonical, sql).await?;
        let term = |row: &Vec<i64>| TermEffects {
            epoch: row[0] as u64,
            rows: row[1] as u64,
            first_id: row[2],
            last_id: row[3],
            first_at: row[4],
        };
        Ok(terms.iter().map(term).collect())
    }

    /// Of the one producer's events: how many keys the canonical store has, the least and the greatest sequence.
    /// Keys are unique there, so these three say whether it is exactly the written set.
    pub(crate) async fn keys(&self) -> anyhow::Result<(u64, i64, i64)> {
        let sql = "SELECT CAST(count(*) AS bigint), min(producer_sequence), max(producer_sequence)
                   FROM (SELECT DISTINCT tenant_id, workload_instance_id, producer_sequence FROM canonical_events) AS k";
        let rows = self.ints(Where::Canonical, sql).await?;
        Ok((rows[0][0] as u64, rows[0][1], rows[0][2]))
    }

    /// Pairs of outbox rows in order of which the later one was marked by an earlier term.
    pub(crate) async fn marks_out_of_order(&self) -> anyhow::Result<u64> {
        let sql = "SELECT CAST(count(*) AS bigint) FROM (SELECT forwarded_epoch, lag(forwarded_epoch)
                   OVER (ORDER BY outbox_id) AS before FROM audit_outbox) AS m WHERE forwarded_epoch < before";
        Ok(self.ints(Where::Outbox, sql).await?[0][0] as u64)
    }

    async fn ints(&self, place: Where, sql: &'static str) -> anyhow::Result<Vec<Vec<i64>>> {
        let to_ints = |columns: usize, get: &dyn Fn(usize) -> sqlx::Result<Option<i64>>| {
            (0..columns).map(|column| Ok(get(column)?.unwrap_or(0))).collect::<sqlx::Result<Vec<i64>>>()
        };
        let rows: sqlx::Result<Vec<Vec<i64>>> = match (&self.effects, place) {
            (EffectStores::Sqlite { outbox: pool, .. }, Where::Outbox)
            | (EffectStores::Sqlite { canonical: pool, .. }, Where::Canonical) => {
                let rows = sqlx::query(sql).fetch_all(pool).await?;
                rows.iter().map(|row| to_ints(row.len(), &|column| row.try_get(column))).collect()
            }
            #[cfg(feature = "postgres")]
            (EffectStores::Postgres { outbox: pool, .. }, Where::Outbox)
            | (EffectStores::Postgres { canonical: pool, .. }, Where::Canonical) => {
                let rows = sqlx::query(sql).fetch_all(pool).await?;
                rows.iter().map(|row| to_ints(row.len(), &|column| row.try_get(column))).collect()
            }
        };
        Ok(rows?)
    }
}

//! The register: each operation is one autocommit statement, so a dropped future leaves no transaction open.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease_core::{
    BackendError, Capabilities, Certainty, Change, Connector, Hints, HistoryEvent, HistoryRow, LeaseBackend,
    LeaseName, Lineage, Listed, Observation, PutOutcome, Record, WallTime,
};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::config::SqliteConfig;
use crate::connection::{Durability, Lane, Statement, Writer, open};
use crate::error::read_failed;
use crate::file::{LeaseFile, check_place};
use crate::{schema, watch};

const OBSERVE: &str = "SELECT (SELECT record FROM coordination_leases WHERE lease_name = ?1) AS record,
                              (SELECT max(epoch) FROM coordination_lease_floors WHERE lease_name IN (?1, '')) AS floor";

const LIST: &str = "SELECT lease_name, record, floors.epoch AS floor
                      FROM coordination_leases JOIN coordination_lease_floors AS floors USING (lease_name)
                     WHERE substr(lease_name, 1, length(?1)) = ?1 ORDER BY lease_name";

/// A write that changes no holder: a bare UPDATE by primary key.
const RENEW: &str = "UPDATE coordination_leases SET record = ?2 WHERE lease_name = ?1 AND tag = ?3";

/// A write that changes the holder: triggers add the history row (L-10) and raise the floor (E-1) in the same step.
const CHANGE: &str =
    "UPDATE coordination_leases SET record = ?2, last_event = ?4 WHERE lease_name = ?1 AND tag = ?3";

/// Creates the register, if it is absent in the way that was seen: never there, or (?3) deleted, maybe with its file.
const CREATE: &str = "INSERT INTO coordination_leases (lease_name, record, last_event) SELECT ?1, ?2, ?4
                       WHERE NOT EXISTS (SELECT 1 FROM coordination_leases WHERE lease_name = ?1)
                         AND EXISTS (SELECT 1 FROM coordination_lease_floors WHERE lease_name IN (?1, '')) = ?3";

const HISTORY: &str =
    "SELECT *, coalesce(CAST(round((julianday(event_at) - 2440587.5) * 86400000) AS INTEGER), 0) AS event_at_ms
                         FROM (SELECT * FROM coordination_lease_history WHERE lease_name = ?1
                                ORDER BY sequence DESC LIMIT ?2)
                        ORDER BY sequence";

/// One lease file, opened.
#[derive(Debug)]
pub struct Sqlite {
    file: LeaseFile,
    config: SqliteConfig,
    /// Reads have a connection of their own: a write on a slow disk doesn't hold them up.
    reader: Lane,
    writer: Writer,
    beats: Writer,
}

/// Opens a [`Sqlite`] backend on the lease thread; see [`Sqlite::connector`].
#[derive(Clone, Debug)]
pub struct SqliteConnector {
    config: SqliteConfig,
}

impl Sqlite {
    /// For the elector. Nothing is opened yet.
    pub fn connector(config: SqliteConfig) -> SqliteConnector {
        SqliteConnector { config }
    }

    /// Opens the lease file, and creates it if it doesn't exist. Any number of processes may do so at once.
    ///
    /// # Errors
    /// - refused, and the message says what to do: the path or its file system can't work, the file belongs to
    ///   another program or to a newer version of this one;
    /// - not applied, and worth trying again: another process keeps the file locked, or the disk fails.
    ///
    /// Cancellation safe.
    pub async fn connect(config: SqliteConfig) -> Result<Self, BackendError> {
        config.check().map_err(|error| BackendError::refused(error.to_string()))?;
        check_place(&config.path)?;
        let keeper = schema::prepare(&config).await?;
        check_place(&config.path)?;
        // A file that is opened between two equal looks at the path is the one that the path names.
        let file = LeaseFile::identify(&config.path)?;
        let reader = Lane::open(&config).await?;
        let writer = Writer::open(&config, &file, Durability::PowerCut).await?;
        let beats = Writer::open(&config, &file, Durability::ProcessCrash).await?;
        // Whoever opens it next opens the other one.
        file.check().map_err(|error| BackendError { refused: false, gone: false, ..error })?;
        drop(keeper);
        Ok(Self { file, config, reader, writer, beats })
    }

    /// The lineage of a register: a deleted one's differs, so that whoever makes it anew leaves a foreign stamp, and
    /// even a free register is waited out (T-3): its holder may not have noticed yet.
    fn lineage_of(&self, deleted: bool) -> Lineage {
        let lineage = self.file.lineage();
        if deleted { Lineage(format!("{lineage}:deleted")) } else { lineage }
    }

    fn observation(&self, row: &SqliteRow) -> Result<Observation, BackendError> {
        let columns = || Ok((row.try_get("record")?, row.try_get("floor")?));
        let (record, floor): (Option<String>, Option<i64>) =
            columns().map_err(|error| read_failed("the lease file holds an unexpected type", error))?;
        let record: Option<Record> =
            record.map(|json| serde_json::from_str(&json)).transpose().map_err(|error| {
                BackendError::not_applied("the lease file holds a record that can't be read")
                    .with_source(error)
            })?;
        Ok(Observation {
            lineage: self.lineage_of(record.is_none() && floor.is_some()),
            record,
            floor: floor.unwrap_or(0).try_into().unwrap_or(0),
            version: String::new(),
        })
    }

    /// The answer to a read counts only if the path named the file after it.
    fn named<T>(&self, answer: T) -> Result<T, BackendError> {
        self.file.check()?;
        Ok(answer)
    }
}

#[async_trait]
impl Connector for SqliteConnector {
    async fn connect(&self) -> Result<Arc<dyn LeaseBackend>, BackendError> {
        Ok(Arc::new(Sqlite::connect(self.config.clone()).await?))
    }
}

#[async_trait]
impl LeaseBackend for Sqlite {
    async fn observe(&self, name: &LeaseName) -> Result<Observation, BackendError> {
        let failed = |error| read_failed("could not read the lease", error);
        let rows = self.reader.rows(sqlx::query(OBSERVE).bind(name.as_str())).await.map_err(failed)?;
        let row = rows.first().ok_or_else(|| failed(sqlx::Error::RowNotFound))?;
        self.named(self.observation(row)?)
    }

    async fn put_if(
        &self,
        name: &LeaseName,
        expected: &Observation,
        record: &Record,
        change: Change,
    ) -> Result<PutOutcome, BackendError> {
        if i64::try_from(record.epoch).is_err() {
            return Err(BackendError::refused(format!(
                "epoch {} is beyond what a store can hold",
                record.epoch
            )));
        }
        let json = serde_json::to_string(record)
            .map_err(|error| BackendError::not_applied("the record can't be written").with_source(error))?;
        self.file.check()?;
        // The path names one file, and so one lineage, while `check` passes: this needs no place in the statement.
        let deleted = expected.record.is_none() && expected.lineage == self.lineage_of(true);
        if !deleted && expected.lineage != self.lineage_of(false) {
            return Ok(PutOutcome::Conflict(self.observe(name).await?));
        }
        let event = HistoryEvent::of(expected, record, change).map(HistoryEvent::as_str);
        let tag = expected.tag();
        let statement = || {
            let begun = |sql| sqlx::query(sql).bind(name.to_string()).bind(json.clone());
            match (tag, event) {
                (Some(tag), None) => begun(RENEW).bind(tag.to_string()),
                (Some(tag), Some(event)) => begun(CHANGE).bind(tag.to_string()).bind(event),
                (None, event) => begun(CREATE).bind(deleted).bind(event),
            }
        };
        // A power cut ends every process that uses the file, so it may take a beat with it, but never an epoch. The
        // first beat waits for the disk too: it may be what confirms an acquisition whose own fsync failed (U-2).
        let writer = if change == Change::Renew && record.beat > 1 { &self.beats } else { &self.writer };
        if self.written(writer, statement).await? {
            return Ok(PutOutcome::Written(Observation {
                record: Some(record.clone()),
                lineage: self.lineage_of(false),
                floor: expected.floor.max(record.epoch),
                version: String::new(),
            }));
        }
        Ok(PutOutcome::Conflict(self.observe(name).await?))
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "sqlite",
            watch: true,
            list: true,
            history: true,
            creates_registers: true,
            ttl_granularity: Duration::from_millis(1),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, BackendError> {
        let failed = |error| read_failed("could not list the leases", error);
        let rows = self.reader.rows(sqlx::query(LIST).bind(prefix)).await.map_err(failed)?;
        let entries = rows.iter().map(|row| Ok((name_of(row)?, self.observation(row))));
        self.named(entries.collect::<Result<_, BackendError>>()?)
    }

    async fn watch(&self, prefix: &str) -> Result<Hints, BackendError> {
        let connection = open(&self.config).await?;
        let hints = watch::watch(connection, self.file.clone(), prefix.to_owned()).await?;
        self.named(hints)
    }

    async fn history(&self, name: &LeaseName, limit: u32) -> Result<Vec<HistoryRow>, BackendError> {
        let failed = |error| read_failed("could not read the lease's history", error);
        let rows = self.reader.rows(sqlx::query(HISTORY).bind(name.as_str()).bind(limit)).await;
        let rows = rows.map_err(failed)?;
        let rows: Result<_, _> = rows.iter().map(history_row).collect();
        self.named(rows?)
    }
}

impl Sqlite {
    /// Runs a write; true if it was applied, to the file that the path names.
    async fn written(
        &self,
        writer: &Writer,
        statement: impl Fn() -> Statement<'static> + Send,
    ) -> Result<bool, BackendError> {
        let applied = writer.write(statement).await? == 1;
        match self.file.check() {
            // It is in the file that we have open, and nobody else will ever see it there.
            Err(gone) if applied => {
                Err(BackendError { certainty: Certainty::Unknown, refused: false, ..gone })
            }
            Err(gone) => Err(gone),
            Ok(()) => Ok(applied),
        }
    }
}

fn name_of(row: &SqliteRow) -> Result<LeaseName, BackendError> {
    let failed = |error| read_failed("the lease file holds an unexpected type", error);
    let name: String = row.try_get("lease_name").map_err(failed)?;
    LeaseName::new(name)
        .map_err(|error| BackendError::not_applied("the lease file holds a bad name").with_source(error))
}

fn history_row(row: &SqliteRow) -> Result<HistoryRow, BackendError> {
    let failed = |error| read_failed("the lease file holds an unexpected type", error);
    let number = |column: &str| -> Result<u64, BackendError> {
        let number: i64 = row.try_get(column).map_err(failed)?;
        Ok(number.try_into().unwrap_or(0))
    };
    let text = |column: &str| -> Result<String, BackendError> { row.try_get(column).map_err(failed) };
    let event = text("event_type")?;
    Ok(HistoryRow {
        sequence: row.try_get("sequence").map_err(failed)?,
        lease_name: name_of(row)?,
        transition_count: number("transition_count")?,
        epoch: number("epoch")?,
        holder_workload_id: text("holder_workload_id")?,
        event_type: serde_json::from_value(event.clone().into()).map_err(|error| {
            BackendError::not_applied(format!("the history holds an unknown event {event:?}"))
                .with_source(error)
        })?,
        event_at: WallTime(row.try_get("event_at_ms").map_err(failed)?),
        note: text("note")?,
    })
}

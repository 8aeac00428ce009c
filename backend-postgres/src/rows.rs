//! Reads rows: registers, the server's own state, history.

use std::collections::BTreeMap;

use lease_core::{
    Grant, HistoryRow, LeaseName, Lineage, Observation, Record, Request, RequestId, Tag, Term, WallTime,
};
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::types::{Json, Uuid};

/// The server's identity and settings: read with every observation, and when a connection is opened.
pub(crate) struct ServerState {
    pub(crate) system_id: String,
    /// Eight hexadecimal digits, as the names of log files begin.
    timeline: String,
    pub(crate) timeline_number: u64,
    pub(crate) pid: i32,
    pub(crate) synchronous_commit: String,
    pub(crate) fsync: String,
    pub(crate) synchronous_standby_names: String,
    pub(crate) lock_timeout: String,
    pub(crate) read_only: bool,
}

impl ServerState {
    pub(crate) fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        let timeline: String = row.try_get("timeline")?;
        Ok(Self {
            system_id: row.try_get("system_id")?,
            timeline_number: timeline_number(&timeline)?,
            timeline,
            pid: row.try_get("pid")?,
            synchronous_commit: row.try_get("synchronous_commit")?,
            fsync: row.try_get("fsync")?,
            synchronous_standby_names: row.try_get("synchronous_standby_names")?,
            lock_timeout: row.try_get("lock_timeout")?,
            read_only: row.try_get("read_only")?,
        })
    }

    pub(crate) fn lineage(&self) -> Lineage {
        Lineage(format!("{}/{}", self.system_id, self.timeline))
    }

    /// The observation of an absent register.
    pub(crate) fn observation_of_nothing(&self) -> Observation {
        Observation { record: None, lineage: self.lineage(), floor: 0, version: String::new() }
    }

    /// Do commits wait for a standby that could be promoted?
    pub(crate) fn waits_for_standby(&self) -> bool {
        !self.synchronous_standby_names.is_empty() && !["off", "local"].contains(&&*self.synchronous_commit)
    }
}

fn timeline_number(hex: &str) -> Result<u64, sqlx::Error> {
    // Above, the floor would not fit beside the sequence's 46 bits below the ceiling of epochs.
    let number = u64::from_str_radix(hex, 16).ok().filter(|number| *number < Term::MAX_EPOCH >> 46);
    number.ok_or_else(|| sqlx::Error::Decode(format!("no epoch can be made from timeline {hex:?}").into()))
}

/// E-1: above every epoch that was made from it, also after a failover that lost the newest values.
pub(crate) fn floor(row: &PgRow, timeline: &str) -> Result<u64, sqlx::Error> {
    let issued = count(row, "issued")?;
    if issued >= 1 << 46 {
        return Err(sqlx::Error::Decode("the sequence leasehold_epochs is exhausted".into()));
    }
    Ok(timeline_number(timeline)? << 46 | issued)
}

pub(crate) fn observation(row: &PgRow, state: &ServerState) -> Result<Observation, sqlx::Error> {
    let lineage = state.lineage();
    let floor = floor(row, &state.timeline)?;
    Ok(Observation { record: record(row)?, lineage, floor, version: String::new() })
}

fn record(row: &PgRow) -> Result<Option<Record>, sqlx::Error> {
    let Some(tag) = row.try_get::<Option<Uuid>, _>("tag")? else { return Ok(None) };
    let id = |column: &str| row.try_get::<Option<Uuid>, _>(column).map(|id| id.map(|id| id.as_u128()));
    let request = match (id("request_id")?, id("request_grant")?) {
        (Some(id), Some(grant)) => {
            Some(Request { id: RequestId(id), grant: Grant(grant), by: row.try_get("request_by")? })
        }
        _ => None,
    };
    Ok(Some(Record {
        tag: Tag(tag.as_u128()),
        grant: id("grant_id")?.map(Grant),
        epoch: count(row, "epoch")?,
        beat: count(row, "beat")?,
        holder: row.try_get("holder_workload_id")?,
        ttl_ms: count(row, "ttl_ms")?,
        max_ttl_ms: count(row, "max_ttl_ms")?,
        lineage: Lineage(row.try_get("lineage")?),
        transitions: count(row, "transition_count")?,
        preemptible: row.try_get("preemptible")?,
        sealed: row.try_get("sealed")?,
        request,
        answered: id("answered")?.map(RequestId),
        acquired_at: WallTime(row.try_get("acquired_at")?),
        renewed_at: WallTime(row.try_get("renewed_at")?),
        expires_at: WallTime(row.try_get("expires_at")?),
        region: row.try_get("region")?,
        note: row.try_get("note")?,
        extra: row.try_get::<Json<BTreeMap<String, serde_json::Value>>, _>("extra")?.0,
    }))
}

pub(crate) fn lease_name(row: &PgRow) -> Result<LeaseName, sqlx::Error> {
    decode("lease_name", LeaseName::new(row.try_get::<String, _>("lease_name")?))
}

pub(crate) fn history_row(row: &PgRow) -> Result<HistoryRow, sqlx::Error> {
    let event: String = row.try_get("event_type")?;
    Ok(HistoryRow {
        sequence: row.try_get("history_id")?,
        lease_name: lease_name(row)?,
        transition_count: count(row, "transition_count")?,
        epoch: count(row, "epoch")?,
        holder_workload_id: row.try_get("holder_workload_id")?,
        event_type: decode("event_type", serde_json::from_value(event.into()))?,
        event_at: WallTime(row.try_get("event_at")?),
        note: row.try_get("note")?,
    })
}

fn count(row: &PgRow, column: &str) -> Result<u64, sqlx::Error> {
    decode(column, u64::try_from(row.try_get::<i64, _>(column)?))
}

fn decode<T, E>(column: &str, value: Result<T, E>) -> Result<T, sqlx::Error>
where
    E: std::error::Error + Send + Sync + 'static,
{
    value.map_err(|error| sqlx::Error::ColumnDecode { index: column.to_owned(), source: Box::new(error) })
}

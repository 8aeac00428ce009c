//! The statements' texts, and how a record is bound to them.

use std::sync::Arc;

use lease_core::{BackendError, Change, HistoryEvent, LeaseName, Lineage, Observation, Record, WallTime};
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::types::{Json, Uuid};

use crate::config::PostgresConfig;
use crate::payload::payload;
use crate::session::READ_ONLY;

type Sql = Arc<str>;
pub(crate) type PgQuery<'q> = Query<'q, sqlx::Postgres, PgArguments>;

/// A column of a record: its name, how a parameter `$` is written into it, how it is read.
type Column = (&'static str, &'static str, &'static str);

/// Reads a time for people as milliseconds: whatever somebody put there by hand, 'infinity' too, moved into the years
/// that we write.
macro_rules! wall_time {
    ($column:literal) => {
        concat!(
            "(extract(epoch FROM greatest(least(",
            $column,
            ", '9999-12-31 23:59:59+00'), '0001-01-01 00:00:00+00')) * 1000)::bigint"
        )
    };
}

/// All that a record has, in [`bind_record`]'s order. Columns of later versions are not named, so they survive.
const COLUMNS: [Column; 21] = [
    ("tag", "$::uuid", "l.tag"),
    ("grant_id", "$::uuid", "l.grant_id"),
    ("epoch", "$::bigint", "l.epoch"),
    ("beat", "$::bigint", "l.beat"),
    ("holder_workload_id", "$::text", "l.holder_workload_id"),
    ("region", "$::text", "l.region"),
    ("ttl_ms", "$::bigint", "l.ttl_ms"),
    ("max_ttl_ms", "$::bigint", "l.max_ttl_ms"),
    ("lineage", "$::text", "l.lineage"),
    ("transition_count", "$::bigint", "l.transition_count"),
    ("preemptible", "$::boolean", "l.preemptible"),
    ("sealed", "$::text", "l.sealed"),
    ("request_id", "$::uuid", "l.request_id"),
    ("request_grant", "$::uuid", "l.request_grant"),
    ("request_by", "$::text", "l.request_by"),
    ("answered", "$::uuid", "l.answered"),
    ("acquired_at", "to_timestamp($::float8 / 1000)", wall_time!("l.acquired_at")),
    ("renewed_at", "to_timestamp($::float8 / 1000)", wall_time!("l.renewed_at")),
    ("expires_at", "to_timestamp($::float8 / 1000)", wall_time!("l.expires_at")),
    ("note", "$::text", "l.note"),
    ("extra", "$::jsonb", "l.extra"),
];

/// The columns that a beat changes, in [`bind_beat`]'s order; all others are as the compared tag's writer left them.
const BEAT: [Column; 5] = [COLUMNS[0], COLUMNS[3], COLUMNS[8], COLUMNS[17], COLUMNS[18]];

/// the timeline from the log that is being written; the control file lags after a promotion.
const TIMELINE: &str = "left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)";
/// The whole lineage, read anew, so that a pooler that was turned to another server is noticed too.
const LINEAGE: &str = "(SELECT system_identifier::text FROM pg_control_system()) || '/' || \
                       left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)";
/// E-1: what the sequence has issued. Its first value is 1, and is also shown before it was ever issued.
const ISSUED: &str = "(SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {schema}.leasehold_epochs)";

/// All statements, for one schema.
pub(crate) struct Statements {
    pub(crate) observe: Sql,
    pub(crate) list: Sql,
    pub(crate) history: Sql,
    pub(crate) schema_version: Sql,
    present: [Sql; CHANGES.len()],
    absent: [Sql; CHANGES.len()],
}

const CHANGES: [Change; 8] = [
    Change::Init,
    Change::Acquire,
    Change::Renew,
    Change::Release,
    Change::Revoke,
    Change::Request,
    Change::Seal,
    Change::Restore,
];

impl Statements {
    pub(crate) fn new(config: &PostgresConfig) -> Self {
        let sql = |text: String| Sql::from(config.schema.render(&text));
        Self {
            observe: sql(read("LEFT JOIN {schema}.coordination_leases l ON l.lease_name = $1")),
            list: sql(read(
                "JOIN {schema}.coordination_leases l ON starts_with(l.lease_name, $1) ORDER BY 1",
            )),
            history: sql(
                "SELECT history_id, lease_name, transition_count, epoch, holder_workload_id, event_type, \
                 "
                .to_owned()
                    + wall_time!("event_at")
                    + " AS event_at, note \
                 FROM {schema}.coordination_lease_history WHERE lease_name = $1 \
                 ORDER BY history_id DESC LIMIT $2",
            ),
            schema_version: sql("SELECT max(version) AS version FROM {schema}.leasehold_schema".to_owned()),
            present: CHANGES.map(|change| sql(put(config, change, true))),
            absent: CHANGES.map(|change| sql(put(config, change, false))),
        }
    }

    /// The statement of a `put_if`.
    pub(crate) fn put(&self, change: Change, present: bool) -> &Sql {
        let index = CHANGES.iter().position(|c| *c == change).expect("CHANGES has every change");
        if present { &self.present[index] } else { &self.absent[index] }
    }
}

/// Runs one of our own texts, which hold no input but the checked name of the schema.
pub(crate) fn query<'q>(sql: &Sql) -> PgQuery<'q> {
    sqlx::query(AssertSqlSafe(sql.clone()))
}

fn read(join: &str) -> String {
    let columns = COLUMNS.map(|(name, _, read)| format!("{read} AS {name}")).join(", ");
    format!(
        "SELECT l.lease_name, s.*, {columns} FROM (SELECT \
         (SELECT system_identifier::text FROM pg_control_system()) AS system_id, \
         {TIMELINE} AS timeline, {ISSUED} AS issued, pg_backend_pid() AS pid, \
         current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync, \
         current_setting('synchronous_standby_names') AS synchronous_standby_names, \
         current_setting('lock_timeout') AS lock_timeout, {READ_ONLY} AS read_only) s {join}"
    )
}

/// One statement for one `put_if`: it compares and writes, and answers with one row if and only if it wrote.
fn put(config: &PostgresConfig, change: Change, present: bool) -> String {
    // PG-1, as part of the compare: what would not survive a crash is not written.
    let mut durable =
        "current_setting('fsync') = 'on' AND current_setting('synchronous_commit') <> 'off'".to_owned();
    if config.synchronous_replication {
        durable += " AND current_setting('synchronous_commit') <> 'local' \
                    AND current_setting('synchronous_standby_names') <> ''";
    }
    // $1 is the name, $2 the lineage, and then the columns follow.
    let value = |at: usize, (_, write, _): &Column| write.replace('$', &format!("${}", at + 3));
    let set = |columns: &[Column]| {
        let set: Vec<_> = columns
            .iter()
            .enumerate()
            .map(|(at, column)| format!("{} = {}", column.0, value(at, column)))
            .collect();
        let tag = columns.len() + 3;
        format!(
            "UPDATE {{schema}}.coordination_leases l SET {} \
             WHERE l.lease_name = $1::text AND l.tag = ${tag}::uuid AND {durable}",
            set.join(", ")
        )
    };
    // Those that only some statements have follow the columns, and the tag if there is one.
    let further = |at: usize| COLUMNS.len() + 3 + usize::from(present) + at;
    if change == Change::Renew && present {
        // A bare UPDATE by primary key. The system identifier was compared when the connection was opened.
        return format!("{} AND {TIMELINE} = $2::text", set(&BEAT));
    }
    let issued = match change {
        Change::Init | Change::Acquire | Change::Revoke | Change::Seal => {
            "nextval('{schema}.leasehold_epochs')"
        }
        _ => ISSUED,
    };
    // The observation behind an acquisition may come from a notification, which anybody can send.
    let compared = match change {
        Change::Acquire => format!(
            " AND l.grant_id IS NOT DISTINCT FROM ${}::uuid AND l.epoch = ${}::bigint",
            further(1),
            further(2)
        ),
        _ => String::new(),
    };
    let write = if present {
        format!("{} AND {LINEAGE} = $2::text{compared} RETURNING {issued} AS issued", set(&COLUMNS))
    } else {
        let names = COLUMNS.map(|(name, ..)| name).join(", ");
        let values: Vec<_> = COLUMNS.iter().enumerate().map(|(at, column)| value(at, column)).collect();
        format!(
            "INSERT INTO {{schema}}.coordination_leases AS l (lease_name, {names}) \
             SELECT $1::text, {} WHERE {LINEAGE} = $2::text AND {durable} \
             ON CONFLICT (lease_name) DO NOTHING RETURNING {issued} AS issued",
            values.join(", ")
        )
    };
    // After these somebody should act at once. Never on a beat or an acquisition: a notifying commit that waits for
    // a synchronous standby holds up every other one in the cluster.
    let notify = match change {
        Change::Release | Change::Revoke | Change::Request => {
            let shown = further(usize::from(leaves_history(change)));
            format!(", pg_notify('{}', ${shown}::text)::text", config.schema.channel())
        }
        _ => String::new(),
    };
    if !leaves_history(change) {
        return write + &notify;
    }
    let event = further(0);
    format!(
        "WITH put AS ({write}, l.lease_name, l.transition_count, l.epoch, l.holder_workload_id, l.note), \
         logged AS (INSERT INTO {{schema}}.coordination_lease_history \
         (lease_name, transition_count, epoch, holder_workload_id, event_type, note) \
         SELECT lease_name, transition_count, epoch, holder_workload_id, ${event}::text, note FROM put) \
         SELECT issued{notify} FROM put"
    )
}

fn leaves_history(change: Change) -> bool {
    matches!(change, Change::Acquire | Change::Release | Change::Revoke | Change::Seal | Change::Restore)
}

/// Binds what [`put`] numbers.
pub(crate) fn bind_put<'q>(
    query: PgQuery<'q>,
    name: &'q LeaseName,
    expected: &'q Observation,
    record: &'q Record,
    change: Change,
) -> Result<PgQuery<'q>, BackendError> {
    let (_, timeline) = split(&expected.lineage);
    let query = query.bind(name.as_str());
    let mut query = match is_beat(expected, change) {
        true => bind_beat(query.bind(timeline), record)?,
        false => bind_record(query.bind(&expected.lineage.0), record)?,
    };
    if let Some(tag) = expected.tag() {
        query = query.bind(uuid(tag.0));
    }
    if leaves_history(change) {
        query = query.bind(HistoryEvent::of(expected, record, change).map(HistoryEvent::as_str));
    }
    match (change, &expected.record) {
        (Change::Acquire, Some(found)) => {
            query = query.bind(found.grant.map(|grant| uuid(grant.0))).bind(bigint("epoch", found.epoch)?);
        }
        (Change::Release | Change::Revoke | Change::Request, _) => {
            query = query.bind(payload(name, expected, record));
        }
        _ => {}
    }
    Ok(query)
}

/// The one write that is a bare UPDATE.
pub(crate) fn is_beat(expected: &Observation, change: Change) -> bool {
    change == Change::Renew && expected.record.is_some()
}

/// A lineage's system identifier and timeline; of another store's, something that equals none of ours.
pub(crate) fn split(lineage: &Lineage) -> (&str, &str) {
    lineage.0.split_once('/').unwrap_or_default()
}

fn bind_beat<'q>(query: PgQuery<'q>, record: &'q Record) -> Result<PgQuery<'q>, BackendError> {
    Ok(query
        .bind(uuid(record.tag.0))
        .bind(bigint("beat", record.beat)?)
        .bind(&record.lineage.0)
        .bind(millis(record.renewed_at))
        .bind(millis(record.expires_at)))
}

fn bind_record<'q>(query: PgQuery<'q>, record: &'q Record) -> Result<PgQuery<'q>, BackendError> {
    let request = record.request.as_ref();
    Ok(query
        .bind(uuid(record.tag.0))
        .bind(record.grant.map(|grant| uuid(grant.0)))
        .bind(bigint("epoch", record.epoch)?)
        .bind(bigint("beat", record.beat)?)
        .bind(&record.holder)
        .bind(&record.region)
        .bind(bigint("ttl_ms", record.ttl_ms)?)
        .bind(bigint("max_ttl_ms", record.max_ttl_ms)?)
        .bind(&record.lineage.0)
        .bind(bigint("transitions", record.transitions)?)
        .bind(record.preemptible)
        .bind(&record.sealed)
        .bind(request.map(|request| uuid(request.id.0)))
        .bind(request.map(|request| uuid(request.grant.0)))
        .bind(request.map(|request| request.by.as_str()))
        .bind(record.answered.map(|id| uuid(id.0)))
        .bind(millis(record.acquired_at))
        .bind(millis(record.renewed_at))
        .bind(millis(record.expires_at))
        .bind(&record.note)
        .bind(Json(&record.extra)))
}

fn uuid(bits: u128) -> Uuid {
    Uuid::from_u128(bits)
}

fn bigint(field: &str, value: u64) -> Result<i64, BackendError> {
    i64::try_from(value).map_err(|_| {
        BackendError::refused(format!("{field} = {value} is above {}, the store's greatest", i64::MAX))
    })
}

/// For people, so years that the store can't write are moved to the nearest that it can.
fn millis(time: WallTime) -> f64 {
    const YEAR_1: i64 = -62_135_596_800_000;
    const YEAR_9999: i64 = 253_402_300_799_000;
    time.0.clamp(YEAR_1, YEAR_9999) as f64
}

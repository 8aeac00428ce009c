-- The canonical events, in SQLite. May be run again. Times are milliseconds since 1970.
CREATE TABLE IF NOT EXISTS canonical_events (
    -- The order in which events were let in; forwarder_epoch never falls along it, for one lease (F-1).
    ingest_id            INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id            TEXT    NOT NULL,
    workload_instance_id TEXT    NOT NULL,
    producer_sequence    INTEGER NOT NULL,
    event_time           INTEGER NOT NULL,
    payload              TEXT    NOT NULL CHECK (json_valid(payload)),
    -- The producer's epoch: data, compared by nobody.
    fencing_epoch        INTEGER NOT NULL,
    -- Who brought it: the forwarders' lease, and the epoch of the term.
    forwarder_lease      TEXT    NOT NULL,
    forwarder_epoch      INTEGER NOT NULL,
    ingested_at          INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000.0 + 0.5 AS INTEGER)),
    UNIQUE (tenant_id, workload_instance_id, producer_sequence)
) STRICT;

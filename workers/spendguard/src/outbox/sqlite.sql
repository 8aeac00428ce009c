-- The audit outbox, in SQLite. May be run again. Times are milliseconds since 1970.
CREATE TABLE IF NOT EXISTS audit_outbox (
    outbox_id            INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant_id            TEXT    NOT NULL CHECK (tenant_id <> ''),
    workload_instance_id TEXT    NOT NULL CHECK (workload_instance_id <> '' AND instr(workload_instance_id, '/') = 0),
    producer_sequence    INTEGER NOT NULL CHECK (producer_sequence >= 0),
    event_time           INTEGER NOT NULL,
    payload              TEXT    NOT NULL CHECK (json_valid(payload)),
    -- The producer's epoch when it wrote the row: data, compared by nobody.
    fencing_epoch        INTEGER NOT NULL,
    pending_forward      INTEGER NOT NULL DEFAULT 1 CHECK (pending_forward IN (0, 1)),
    created_at           INTEGER NOT NULL DEFAULT (CAST((julianday('now') - 2440587.5) * 86400000.0 + 0.5 AS INTEGER)),
    -- Who marked it: the epoch of the forwarder's term, and when.
    forwarded_epoch      INTEGER,
    forwarded_at         INTEGER
) STRICT;
CREATE INDEX IF NOT EXISTS audit_outbox_pending ON audit_outbox (outbox_id) WHERE pending_forward = 1;

-- Outlives the rows, so that forwarded ones may be removed and a key is still used only once.
CREATE TABLE IF NOT EXISTS audit_outbox_global_keys (
    tenant_id            TEXT    NOT NULL,
    workload_instance_id TEXT    NOT NULL,
    producer_sequence    INTEGER NOT NULL,
    UNIQUE (tenant_id, workload_instance_id, producer_sequence)
) STRICT;
CREATE TRIGGER IF NOT EXISTS audit_outbox_key BEFORE INSERT ON audit_outbox BEGIN
    INSERT INTO audit_outbox_global_keys VALUES (NEW.tenant_id, NEW.workload_instance_id, NEW.producer_sequence);
END;

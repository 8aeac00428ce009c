-- A lease file as of 821e316, with one lease that is held.
-- The lease file of Leasehold, version 1. Written for people with a sqlite3 shell (3.31 or newer) too:
--
--   SELECT lease_name, holder_workload_id, expires_at, expires_at < datetime('now') AS already_expired
--     FROM coordination_leases;
--
-- Times are UTC and for people; nothing compares them to decide.

-- One register per lease. `record` is all of it; the columns after it are read out of it and can't differ from it.
CREATE TABLE coordination_leases (
    lease_name         TEXT NOT NULL PRIMARY KEY,
    record             TEXT NOT NULL CHECK (json_valid(record)),
    -- What the last write that changed the holder was; writing this column writes the history row.
    last_event         TEXT,
    tag                TEXT    AS (json_extract(record, '$.tag')) NOT NULL,
    epoch              INTEGER AS (json_extract(record, '$.epoch')) NOT NULL CHECK (typeof(epoch) = 'integer'),
    -- NULL: free.
    grant_id           TEXT    AS (json_extract(record, '$.grant')),
    beat               INTEGER AS (json_extract(record, '$.beat')),
    holder_workload_id TEXT    AS (json_extract(record, '$.holder')),
    region             TEXT    AS (coalesce(json_extract(record, '$.region'), '')),
    transition_count   INTEGER AS (json_extract(record, '$.transitions')),
    ttl_ms             INTEGER AS (json_extract(record, '$.ttl_ms')),
    acquired_at        TEXT    AS (strftime('%Y-%m-%d %H:%M:%f', json_extract(record, '$.acquired_at') / 1000.0, 'unixepoch')),
    renewed_at         TEXT    AS (strftime('%Y-%m-%d %H:%M:%f', json_extract(record, '$.renewed_at') / 1000.0, 'unixepoch')),
    expires_at         TEXT    AS (strftime('%Y-%m-%d %H:%M:%f', json_extract(record, '$.expires_at') / 1000.0, 'unixepoch')),
    note               TEXT    AS (coalesce(json_extract(record, '$.note'), ''))
) WITHOUT ROWID;

-- The greatest epoch that each lease has had (E-1). Outlives the register, so that its epochs outlive it too. A name
-- that is here and has no register lost it to an administrator.
CREATE TABLE coordination_lease_floors (
    lease_name TEXT NOT NULL PRIMARY KEY,
    epoch      INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE coordination_lease_history (
    sequence           INTEGER PRIMARY KEY AUTOINCREMENT,
    lease_name         TEXT NOT NULL,
    transition_count   INTEGER NOT NULL,
    epoch              INTEGER NOT NULL,
    holder_workload_id TEXT NOT NULL,
    event_type         TEXT NOT NULL,
    event_at           TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    note               TEXT NOT NULL
);
CREATE INDEX coordination_lease_history_by_lease ON coordination_lease_history (lease_name, sequence);
CREATE INDEX coordination_lease_history_by_time ON coordination_lease_history (event_at);

-- One row.
CREATE TABLE coordination_lease_settings (
    id                        INTEGER PRIMARY KEY CHECK (id = 1),
    history_retention_seconds INTEGER NOT NULL
);
INSERT INTO coordination_lease_settings (id, history_retention_seconds) VALUES (1, 90 * 86400);

-- What an administrator may delete: one row allows the deletion of one register, once.
CREATE TABLE coordination_lease_deletions (lease_name TEXT NOT NULL PRIMARY KEY) WITHOUT ROWID;

CREATE TRIGGER coordination_leases_created AFTER INSERT ON coordination_leases BEGIN
    INSERT INTO coordination_lease_floors (lease_name, epoch) VALUES (NEW.lease_name, NEW.epoch)
        ON CONFLICT (lease_name) DO UPDATE SET epoch = max(epoch, excluded.epoch);
    INSERT INTO coordination_lease_history
        (lease_name, transition_count, epoch, holder_workload_id, event_type, note)
        SELECT NEW.lease_name, NEW.transition_count, NEW.epoch, NEW.holder_workload_id, NEW.last_event, NEW.note
         WHERE NEW.last_event IS NOT NULL;
END;

CREATE TRIGGER coordination_leases_floor AFTER UPDATE ON coordination_leases WHEN NEW.epoch > OLD.epoch BEGIN
    UPDATE coordination_lease_floors SET epoch = max(epoch, NEW.epoch) WHERE lease_name = NEW.lease_name;
END;

CREATE TRIGGER coordination_leases_event AFTER UPDATE OF last_event ON coordination_leases BEGIN
    INSERT INTO coordination_lease_history
        (lease_name, transition_count, epoch, holder_workload_id, event_type, note)
        VALUES (NEW.lease_name, NEW.transition_count, NEW.epoch, NEW.holder_workload_id, NEW.last_event, NEW.note);
END;

CREATE TRIGGER coordination_lease_history_retention AFTER INSERT ON coordination_lease_history BEGIN
    DELETE FROM coordination_lease_history
     WHERE event_at < (SELECT strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || history_retention_seconds || ' seconds')
                         FROM coordination_lease_settings);
END;

CREATE TRIGGER coordination_leases_keep BEFORE DELETE ON coordination_leases
WHEN NOT EXISTS (SELECT 1 FROM coordination_lease_deletions WHERE lease_name = OLD.lease_name) BEGIN
    SELECT RAISE(ABORT, 'a lease register is kept for ever: release or revoke the lease instead; to delete it all the same, insert its lease_name into coordination_lease_deletions first');
END;

CREATE TRIGGER coordination_leases_deleted AFTER DELETE ON coordination_leases BEGIN
    DELETE FROM coordination_lease_deletions WHERE lease_name = OLD.lease_name;
END;

PRAGMA application_id = 1279607123;
PRAGMA user_version = 1;
INSERT INTO coordination_leases (lease_name, record, last_event) VALUES ('forwarder', '{"tag": "0123456789abcdef0123456789abcdef", "grant": "fedcba9876543210fedcba9876543210", "epoch": 42, "beat": 7, "holder": "outbox-forwarder-5d8f7c9b6-x2x4q", "ttl_ms": 15000, "max_ttl_ms": 30000, "lineage": "0:0", "transitions": 5, "request": {"id": "00000000000000000000000000000009", "grant": "fedcba9876543210fedcba9876543210", "by": "an operator"}, "acquired_at": 1763733224000, "renewed_at": 1763733259000, "expires_at": 1763733274000, "region": "eu-west-1", "note": "as of 049f8ed", "of_a_later_version": {"n": [1, 2]}}', 'acquired');

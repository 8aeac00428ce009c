-- The canonical events, in Postgres. May be run again.
CREATE TABLE IF NOT EXISTS canonical_events (
    -- The order in which events were let in; forwarder_epoch never falls along it, for one lease (F-1).
    ingest_id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id            text        NOT NULL,
    workload_instance_id text        NOT NULL,
    producer_sequence    bigint      NOT NULL,
    event_time           timestamptz NOT NULL,
    payload              json        NOT NULL,
    -- The producer's epoch: data, compared by nobody.
    fencing_epoch        bigint      NOT NULL,
    -- Who brought it: the forwarders' lease, and the epoch of the term.
    forwarder_lease      text        NOT NULL,
    forwarder_epoch      bigint      NOT NULL,
    ingested_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (tenant_id, workload_instance_id, producer_sequence)
);
SELECT leasehold_keep_counter('canonical_events', 'ingest_id');

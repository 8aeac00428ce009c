-- What the tables as of 821e316 held, once a lease was held and an effect made: they are those of migrations 0001 and 0002.
-- {schema} stands for the name of the schema.

CREATE TABLE {schema}.leasehold_schema
    (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT clock_timestamp());
INSERT INTO {schema}.leasehold_schema (version) VALUES (1), (2);
INSERT INTO {schema}.coordination_leases
    (lease_name, holder_workload_id, region, acquired_at, renewed_at, expires_at, transition_count, epoch, grant_id, tag,
     beat, ttl_ms, max_ttl_ms, lineage, extra)
    VALUES ('forwarder', 'outbox-forwarder-5d8f7c9b6-x2x4q', 'eu-west-1', now(), now(), now() + interval '15 s', 5,
            (1::bigint << 46) + 42, 'fedcba98-7654-3210-fedc-ba9876543210', '01234567-89ab-cdef-0123-456789abcdef', 7,
            15000, 30000, 'another', '{"of_a_later_version": {"n": [1, 2]}}');
SELECT setval('{schema}.leasehold_epochs', 42);
SELECT {schema}.leasehold_admit('outbox', (1::bigint << 46) + 42, 'fedcba98-7654-3210-fedc-ba9876543210');

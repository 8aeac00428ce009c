-- The registers, one row for each lease, and the history of their holders.
-- {schema} stands for the quoted name of the schema.

CREATE TABLE {schema}.coordination_leases (
    lease_name         text COLLATE "C" PRIMARY KEY,
    holder_workload_id text        NOT NULL,
    region             text        NOT NULL,
    -- For people. No program compares these three; a free lease's expires_at is when it was given up.
    acquired_at        timestamptz NOT NULL,
    renewed_at         timestamptz NOT NULL,
    expires_at         timestamptz NOT NULL,
    transition_count   bigint      NOT NULL CHECK (transition_count >= 0),
    epoch              bigint      NOT NULL CHECK (epoch >= 0),
    grant_id           uuid, -- null: free
    tag                uuid        NOT NULL,
    beat               bigint      NOT NULL CHECK (beat >= 0),
    ttl_ms             bigint      NOT NULL CHECK (ttl_ms >= 0),
    max_ttl_ms         bigint      NOT NULL CHECK (max_ttl_ms >= 0),
    lineage            text        NOT NULL,
    preemptible        boolean     NOT NULL DEFAULT false,
    sealed             text,
    request_id         uuid,
    request_grant      uuid,
    request_by         text,
    answered           uuid,
    note               text        NOT NULL DEFAULT '',
    extra              jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(extra) = 'object'),
    CHECK (num_nulls(request_id, request_grant, request_by) IN (0, 3))
) WITH (fillfactor = 50); -- Room for the next beat's version of the row on the same page.

-- E-1: the floor's lower part. Advanced by each acquisition, in the same statement.
CREATE SEQUENCE {schema}.leasehold_epochs AS bigint MAXVALUE 70368744177663 CACHE 1;

CREATE TABLE {schema}.coordination_lease_history (
    history_id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lease_name         text COLLATE "C" NOT NULL,
    transition_count   bigint      NOT NULL,
    epoch              bigint      NOT NULL,
    holder_workload_id text        NOT NULL,
    event_type         text        NOT NULL CHECK (event_type IN
        ('acquired', 'taken_over', 'released', 'revoked', 'stepped_down', 'expired_observed', 'sealed')),
    event_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    note               text        NOT NULL DEFAULT ''
);
CREATE INDEX coordination_lease_history_by_lease ON {schema}.coordination_lease_history (lease_name, history_id);
CREATE INDEX coordination_lease_history_by_time ON {schema}.coordination_lease_history (event_at);

CREATE TABLE {schema}.leasehold_settings (
    only_row          boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    history_retention interval NOT NULL DEFAULT '90 days'
);
INSERT INTO {schema}.leasehold_settings DEFAULT VALUES;

-- A deleted register makes every candidate wait (T-5), so nobody deletes one by accident.
CREATE FUNCTION {schema}.leasehold_refuse_delete() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('leasehold.allow_delete', true) = 'on' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'registers of leases are not deleted: every process that wants the lease would stand still'
        USING ERRCODE = 'LH002',
              HINT = 'To do it all the same: SET LOCAL leasehold.allow_delete = on in the same transaction, '
                     'then run leasehold init --above with the greatest epoch.';
END $$;
CREATE TRIGGER leasehold_refuse_delete BEFORE DELETE ON {schema}.coordination_leases
    FOR EACH ROW EXECUTE FUNCTION {schema}.leasehold_refuse_delete();
CREATE TRIGGER leasehold_refuse_truncate BEFORE TRUNCATE ON {schema}.coordination_leases
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.leasehold_refuse_delete();

-- Retention: each new row takes up to 100 outdated ones with it, whoever writes it, so that nothing has to be
-- scheduled. It never waits for another statement that does the same.
CREATE FUNCTION {schema}.leasehold_prune_history() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM {schema}.coordination_lease_history WHERE history_id IN (
        SELECT history_id FROM {schema}.coordination_lease_history
        WHERE event_at < now() - (SELECT history_retention FROM {schema}.leasehold_settings)
        ORDER BY event_at LIMIT 100 FOR UPDATE SKIP LOCKED);
    RETURN NULL;
END $$;
CREATE TRIGGER leasehold_prune_history AFTER INSERT ON {schema}.coordination_lease_history
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.leasehold_prune_history();

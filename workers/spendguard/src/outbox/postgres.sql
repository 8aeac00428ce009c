-- The audit outbox, in Postgres. May be run again.
CREATE TABLE IF NOT EXISTS audit_outbox (
    outbox_id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id            text        NOT NULL CHECK (tenant_id <> ''),
    workload_instance_id text        NOT NULL CHECK (workload_instance_id <> '' AND strpos(workload_instance_id, '/') = 0),
    producer_sequence    bigint      NOT NULL CHECK (producer_sequence >= 0),
    event_time           timestamptz NOT NULL,
    payload              json        NOT NULL,
    -- The producer's epoch when it wrote the row: data, compared by nobody.
    fencing_epoch        bigint      NOT NULL,
    pending_forward      boolean     NOT NULL DEFAULT true,
    created_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Who marked it: the epoch of the forwarder's term, and when.
    forwarded_epoch      bigint,
    forwarded_at         timestamptz
);
CREATE INDEX IF NOT EXISTS audit_outbox_pending ON audit_outbox (outbox_id) WHERE pending_forward;
SELECT leasehold_keep_counter('audit_outbox', 'outbox_id');

-- Outlives the rows, so that forwarded ones may be removed and a key is still used only once.
CREATE TABLE IF NOT EXISTS audit_outbox_global_keys (
    tenant_id            text   NOT NULL,
    workload_instance_id text   NOT NULL,
    producer_sequence    bigint NOT NULL,
    UNIQUE (tenant_id, workload_instance_id, producer_sequence)
);
CREATE OR REPLACE FUNCTION audit_outbox_keep_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_outbox_global_keys
        SELECT tenant_id, workload_instance_id, producer_sequence FROM new_rows;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER audit_outbox_keep_keys AFTER INSERT ON audit_outbox
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION audit_outbox_keep_keys();

-- Removes rows that were forwarded more than so many days ago, at most p_limit, oldest first; returns how many. Their
-- keys stay. Rows are forwarded in the table's own order, so the ones to go are at its head, and no other index is paid
-- for by every write.
--
-- SECURITY DEFINER: whoever forwards may remove what is old by this function only, and can't delete anything else.
CREATE OR REPLACE FUNCTION audit_outbox_prune(p_limit integer, p_days integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_old bigint[];
BEGIN
    IF p_limit < 1 OR p_days < 1 THEN
        RAISE EXCEPTION 'limit % and days %: use 1 or more', p_limit, p_days USING ERRCODE = '22023';
    END IF;
    SELECT array_agg(outbox_id) INTO v_old FROM
        (SELECT outbox_id, pending_forward, forwarded_at FROM audit_outbox ORDER BY outbox_id LIMIT p_limit) AS oldest
        WHERE NOT pending_forward AND forwarded_at < clock_timestamp() - make_interval(days => p_days);
    IF v_old IS NULL THEN
        RETURN 0;
    END IF;
    RETURN leasehold_remove('audit_outbox', 'outbox_id', v_old);
END $$;
REVOKE ALL ON FUNCTION audit_outbox_prune(integer, integer) FROM PUBLIC;

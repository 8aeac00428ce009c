-- F-1: the marks of fenced resources, and the one function that admits terms. May be run again.
-- {schema} stands for the quoted name of the schema.

CREATE TABLE IF NOT EXISTS {schema}.leasehold_fence_marks (
    resource  text COLLATE "C" PRIMARY KEY,
    epoch     bigint      NOT NULL CHECK (epoch >= 0),
    grant_id  uuid        NOT NULL,
    raised_at timestamptz NOT NULL DEFAULT clock_timestamp() -- for people
) WITH (fillfactor = 50);

-- Admits the term in the caller's transaction, or raises LH001. The shared lock makes a later term wait until the
-- effects of this transaction are committed or gone.
CREATE OR REPLACE FUNCTION {schema}.leasehold_admit(p_resource text, p_epoch bigint, p_grant uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_marked bigint;
BEGIN
    PERFORM FROM {schema}.leasehold_fence_marks
        WHERE resource = p_resource AND epoch = p_epoch AND grant_id = p_grant FOR SHARE;
    IF FOUND THEN
        RETURN;
    END IF;
    -- A look without a lock: a later term's mark may be locked by the look above, which waited for its raising. To
    -- raise a mark from there would be a deadlock with another transaction that did the same.
    SELECT epoch INTO v_marked FROM {schema}.leasehold_fence_marks WHERE resource = p_resource;
    IF v_marked IS NULL OR v_marked < p_epoch THEN
        INSERT INTO {schema}.leasehold_fence_marks AS mark (resource, epoch, grant_id)
            VALUES (p_resource, p_epoch, p_grant)
            ON CONFLICT (resource) DO UPDATE
                SET epoch = excluded.epoch, grant_id = excluded.grant_id, raised_at = clock_timestamp()
                WHERE mark.epoch < excluded.epoch;
        IF FOUND THEN
            RETURN;
        END IF;
    END IF;
    -- Another transaction of the same term may have raised the mark since the first look.
    PERFORM FROM {schema}.leasehold_fence_marks
        WHERE resource = p_resource AND epoch = p_epoch AND grant_id = p_grant FOR SHARE;
    IF FOUND THEN
        RETURN;
    END IF;
    SELECT epoch INTO v_marked FROM {schema}.leasehold_fence_marks WHERE resource = p_resource;
    RAISE EXCEPTION 'FENCING_EPOCH_STALE: epoch % of grant % is refused on %, which has admitted epoch %',
            p_epoch, p_grant, p_resource, v_marked
        USING ERRCODE = 'LH001',
              HINT = 'A later term has acted here: roll back and stop.';
END $$;

REVOKE ALL ON FUNCTION {schema}.leasehold_admit(text, bigint, uuid) FROM PUBLIC;

-- The ceiling of epochs (E-1), and the repair of a mark. May be run again.
-- {schema} stands for the quoted name of the schema.

-- Each time that an operator set a mark back, for audits.
CREATE TABLE IF NOT EXISTS {schema}.leasehold_fence_lowerings (
    lowering_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    resource    text        NOT NULL,
    from_epoch  bigint      NOT NULL,
    from_grant  uuid        NOT NULL,
    to_epoch    bigint      NOT NULL,
    to_grant    uuid        NOT NULL,
    lowered_by  text        NOT NULL,
    note        text        NOT NULL,
    lowered_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- As before, and raises LH004 for an epoch that no store issues: once admitted, it would refuse every real term for ever.
CREATE OR REPLACE FUNCTION {schema}.leasehold_admit(p_resource text, p_epoch bigint, p_grant uuid) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_marked bigint;
BEGIN
    IF p_epoch > 4611686018427387904 THEN
        RAISE EXCEPTION 'FENCING_EPOCH_ABOVE_CEILING: epoch % of grant % is refused on %, no epoch is above 2^62',
                p_epoch, p_grant, p_resource
            USING ERRCODE = 'LH004', HINT = 'Look where this epoch comes from: no lease store issued it.';
    END IF;
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
              HINT = 'A later term has acted here: roll back and stop. If no lease ever issued the admitted epoch, an '
                     'operator sets it back: leasehold fence lower.';
END $$;

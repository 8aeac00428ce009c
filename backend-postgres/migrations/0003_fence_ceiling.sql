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

-- No store issues an epoch above 2^62; once admitted, it would refuse every real term for ever. A trigger beside
-- leasehold_admit, so that no mark gets there, by whatever way.
CREATE OR REPLACE FUNCTION {schema}.leasehold_refuse_epoch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'FENCING_EPOCH_ABOVE_CEILING: epoch % of grant % is refused on %, no epoch is above 2^62',
            NEW.epoch, NEW.grant_id, NEW.resource
        USING ERRCODE = 'LH004', HINT = 'Look where this epoch comes from: no lease store issued it.';
END $$;
DO $$ BEGIN
    -- Locks the table only where the trigger is missing.
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = '{schema}.leasehold_fence_marks'::regclass
                   AND tgname = 'leasehold_fence_ceiling') THEN
        CREATE TRIGGER leasehold_fence_ceiling BEFORE INSERT OR UPDATE ON {schema}.leasehold_fence_marks
            FOR EACH ROW WHEN (NEW.epoch > 4611686018427387904)
            EXECUTE FUNCTION {schema}.leasehold_refuse_epoch();
    END IF;
END $$;

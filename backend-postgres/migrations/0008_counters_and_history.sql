-- The counters and the history of a lease store; see 0006 and 0007.
-- {schema} stands for the quoted name of the schema.

SELECT {schema}.leasehold_keep_counter('{schema}.coordination_lease_history', 'history_id');

-- E-1: the floor's counter is at least at the registers' epochs of the present timeline, so that an epoch outlives a
-- deletion of its register on the new server, too. Each new connection rehearses an insert, and so comes by here. The
-- upper half of the numbers stays: an operator may have raised an epoch to the end of them, and no term could follow.
CREATE OR REPLACE FUNCTION {schema}.leasehold_counter_of_epochs() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_timeline bigint := ('x00000000' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(64)::bigint;
    v_greatest bigint;
BEGIN
    SELECT max(epoch & 70368744177663) INTO v_greatest FROM {schema}.coordination_leases
        WHERE epoch >> 46 = v_timeline AND (epoch & 70368744177663) < 35184372088832;
    PERFORM {schema}.leasehold_lift_counter('{schema}.leasehold_epochs', v_greatest);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER leasehold_counter BEFORE INSERT ON {schema}.coordination_leases
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.leasehold_counter_of_epochs();

-- Retention: as before, and a row of the history that can't go doesn't stop whoever writes the next one.
CREATE OR REPLACE FUNCTION {schema}.leasehold_prune_history() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_old bigint[];
BEGIN
    SELECT array_agg(history_id) INTO v_old FROM (
        SELECT history_id FROM {schema}.coordination_lease_history
        WHERE event_at < now() - (SELECT history_retention FROM {schema}.leasehold_settings)
        ORDER BY event_at LIMIT 100 FOR UPDATE SKIP LOCKED) AS old;
    IF v_old IS NOT NULL THEN
        PERFORM {schema}.leasehold_remove('{schema}.coordination_lease_history', 'history_id', v_old);
    END IF;
    RETURN NULL;
END $$;

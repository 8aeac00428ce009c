-- How long the ledger remembers, in Postgres. May be run again.

-- Few rows: one for each change of holder.
CREATE INDEX IF NOT EXISTS fencing_scope_events_age ON fencing_scope_events (created_at);

-- Forgets what is older than so many days, at most p_limit rows of each table, oldest first; returns how many. 0 days
-- keeps for ever. The sweepers' term is admitted first (F-1), as for ledger_sweep.
--
-- A scope's present term keeps its rows, whatever their age: they say who holds it, and know the attempt that got it.
-- An audit row stays while its reservation is live, and while its event is still to be forwarded. An event that can't be
-- forwarded keeps its own row, not those of all others.
--
-- SECURITY DEFINER: whoever may sweep may forget what is old by this function only, and can't delete anything else.
CREATE OR REPLACE FUNCTION ledger_prune(
    p_limit integer, p_scope_days integer, p_audit_days integer, p_epoch bigint, p_grant uuid
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    -- Once: compared with a clock that moves, every row would be visited.
    v_now    timestamptz := clock_timestamp();
    v_before timestamptz;
    v_waits  bigint[];
    v_old    bigint[];
    v_scopes bigint := 0;
    v_audits bigint := 0;
BEGIN
    PERFORM leasehold_admit('ttl_sweeper', p_epoch, p_grant);
    IF p_limit < 1 OR p_scope_days < 0 OR p_audit_days < 0 THEN
        RAISE EXCEPTION 'limit % and days %, %: use a limit of 1 or more, and days of 0 or more', p_limit, p_scope_days, p_audit_days
            USING ERRCODE = '22023';
    END IF;
    IF p_scope_days > 0 THEN
        SELECT array_agg(event_id) INTO v_old FROM (
            SELECT event_id FROM fencing_scope_events AS event
            WHERE created_at < v_now - make_interval(days => p_scope_days)
                  AND NOT EXISTS (SELECT FROM fencing_scopes AS scope
                      WHERE scope.fencing_scope_id = event.fencing_scope_id AND scope.current_epoch <= event.new_epoch)
            ORDER BY created_at LIMIT p_limit) AS old;
        IF v_old IS NOT NULL THEN
            v_scopes := leasehold_remove('fencing_scope_events', 'event_id', v_old);
        END IF;
    END IF;
    IF p_audit_days > 0 THEN
        -- Not the first of the outbox's queue, and nothing as young as the oldest of these, if they are many: numbers and
        -- the times at which rows were written go up together. (The events' own times are their producers'.)
        SELECT array_agg(producer_sequence),
               least(v_now - make_interval(days => p_audit_days), CASE WHEN count(*) >= 1000 THEN min(created_at) END)
            INTO v_waits, v_before
            FROM (SELECT producer_sequence, created_at FROM audit_outbox WHERE pending_forward
                  ORDER BY outbox_id LIMIT 1000) AS waiting;
        -- By the table's own order, which is that of time: every write would pay for another index. Only so far that
        -- the live ones at its head, which are a day old at most when they expire, can't make this a long search.
        SELECT array_agg(event_id) INTO v_old FROM (
            SELECT event_id FROM
                (SELECT event_id, created_at, reservation_id FROM reservation_events
                 ORDER BY event_id LIMIT p_limit::bigint * 4) AS oldest
            WHERE created_at < v_before AND event_id <> ALL (coalesce(v_waits, '{}'))
                  AND NOT EXISTS (SELECT FROM reservations AS live
                      WHERE live.reservation_id = oldest.reservation_id AND live.current_state = 'reserved')
            ORDER BY event_id LIMIT p_limit) AS old;
        IF v_old IS NOT NULL THEN
            v_audits := leasehold_remove('reservation_events', 'event_id', v_old);
        END IF;
    END IF;
    RETURN v_scopes + v_audits;
END $$;
REVOKE ALL ON FUNCTION ledger_prune(integer, integer, integer, bigint, uuid) FROM PUBLIC;

-- A fleet's home (M-2): the mode and the lease under which the work on a resource is led. May be run again.
CREATE TABLE IF NOT EXISTS leasehold_homes (
    resource   text COLLATE "C" PRIMARY KEY,
    -- Names the work on this resource, whoever leads it (W-1).
    work       text NOT NULL DEFAULT gen_random_uuid()::text,
    mode       text,
    lease      text,
    settled_at timestamptz, -- for people
    CHECK ((mode IS NULL) = (lease IS NULL))
);

-- The home, the work and the mark of a resource. FOR SHARE, since only a primary that takes writes can lock.
CREATE OR REPLACE FUNCTION leasehold_home(p_resource text, OUT work text, OUT mode text, OUT lease text, OUT epoch bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    SELECT home.work, home.mode, home.lease, mark.epoch INTO work, mode, lease, epoch
        FROM leasehold_homes AS home LEFT JOIN leasehold_fence_marks AS mark ON mark.resource = home.resource
        WHERE home.resource = p_resource FOR SHARE OF home;
END $$;
REVOKE ALL ON FUNCTION leasehold_home(text) FROM PUBLIC;

-- Whose term was just admitted is at home here, or raises LH005: an empty home is anybody's, another mode's only that of
-- the fleet that comes from there. In the transaction that admits the term.
CREATE OR REPLACE FUNCTION leasehold_settle(p_resource text, p_mode text, p_lease text, p_from text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_home leasehold_homes;
BEGIN
    PERFORM FROM leasehold_homes WHERE resource = p_resource AND mode = p_mode AND lease = p_lease;
    IF FOUND THEN
        RETURN;
    END IF;
    UPDATE leasehold_homes SET mode = p_mode, lease = p_lease, settled_at = clock_timestamp()
        WHERE resource = p_resource AND lease IS NOT DISTINCT FROM CASE WHEN mode IS NOT NULL THEN p_lease END
            AND (mode IS NULL OR mode IN (p_from, p_mode));
    IF NOT FOUND THEN
        SELECT * INTO v_home FROM leasehold_homes WHERE resource = p_resource;
        RAISE EXCEPTION 'the work on % is led in mode %, under lease %, and not in mode %, under lease %',
                p_resource, v_home.mode, v_home.lease, p_mode, p_lease
            USING ERRCODE = 'LH005', HINT = 'Another fleet leads here: stop one of the two.';
    END IF;
END $$;
REVOKE ALL ON FUNCTION leasehold_settle(text, text, text, text) FROM PUBLIC;

-- Whoever may admit a term here, by an older roles.sql, must be able to say where it leads.
DO $$
DECLARE
    v_role regrole;
BEGIN
    FOR v_role IN
        SELECT DISTINCT rights.grantee FROM pg_proc, aclexplode(proacl) AS rights
        WHERE pronamespace = 'public'::regnamespace AND proname = 'leasehold_admit' AND rights.grantee <> 0
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION leasehold_home(text), leasehold_settle(text, text, text, text) TO %s', v_role);
    END LOOP;
END $$;

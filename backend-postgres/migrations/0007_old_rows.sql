-- Removes rows by their numbers; returns how many. One that can't go, because another table refers to it or a trigger
-- keeps it, by whichever SQLSTATE or by none, stays, and doesn't keep the others; one warning says how many there are, to
-- the server's log and to the client's. What would stop every other row too is raised: a transaction that is over (classes
-- 25, 40), a lock (55), no room (53), an operator (57), a broken server (58, XX). May be run again.
-- {schema} stands for the quoted name of the schema.
CREATE OR REPLACE FUNCTION {schema}.leasehold_remove(p_table regclass, p_column text, p_numbers bigint[]) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_remove  text := format('DELETE FROM %s WHERE %I = ANY ($1)', p_table, p_column);
    v_removed bigint := 0;
    v_one     bigint;
    v_number  bigint;
    v_why     text;
    v_general text[] := ARRAY['25', '40', '53', '55', '57', '58', 'XX'];
BEGIN
    BEGIN
        EXECUTE v_remove USING p_numbers;
        GET DIAGNOSTICS v_removed = ROW_COUNT;
        -- Also what would be asked at the commit only.
        SET CONSTRAINTS ALL IMMEDIATE;
    EXCEPTION WHEN OTHERS THEN
        IF left(SQLSTATE, 2) = ANY (v_general) THEN
            RAISE;
        END IF;
        -- One at a time, then.
        v_removed := 0;
        FOREACH v_number IN ARRAY p_numbers LOOP
            BEGIN
                EXECUTE v_remove USING ARRAY[v_number];
                GET DIAGNOSTICS v_one = ROW_COUNT;
                SET CONSTRAINTS ALL IMMEDIATE;
                v_removed := v_removed + v_one;
            EXCEPTION WHEN OTHERS THEN
                IF left(SQLSTATE, 2) = ANY (v_general) THEN
                    RAISE;
                END IF;
                v_why := format('%s %s: %s', p_column, v_number, SQLERRM);
            END;
        END LOOP;
    END;
    IF v_removed < cardinality(p_numbers) THEN
        RAISE WARNING '% of % old rows of % can not be removed, and stay: %', cardinality(p_numbers) - v_removed,
            cardinality(p_numbers), p_table, coalesce(v_why, 'a trigger or a rule of that table keeps them');
    END IF;
    RETURN v_removed;
END $$;
REVOKE ALL ON FUNCTION {schema}.leasehold_remove(regclass, text, bigint[]) FROM PUBLIC;

-- Removes rows by their numbers; returns how many. One that can't go, because another table refers to it or a trigger
-- keeps it, stays, and doesn't keep the others. May be run again.
-- {schema} stands for the quoted name of the schema.
CREATE OR REPLACE FUNCTION {schema}.leasehold_remove(p_table regclass, p_column text, p_numbers bigint[]) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_remove  text := format('DELETE FROM %s WHERE %I = ANY ($1)', p_table, p_column);
    v_removed bigint := 0;
    v_number  bigint;
BEGIN
    BEGIN
        EXECUTE v_remove USING p_numbers;
        GET DIAGNOSTICS v_removed = ROW_COUNT;
        -- Also what would be asked at the commit only.
        SET CONSTRAINTS ALL IMMEDIATE;
        RETURN v_removed;
    EXCEPTION WHEN integrity_constraint_violation OR data_exception OR raise_exception THEN
        -- One at a time, then.
    END;
    FOREACH v_number IN ARRAY p_numbers LOOP
        BEGIN
            EXECUTE v_remove USING ARRAY[v_number];
            SET CONSTRAINTS ALL IMMEDIATE;
            v_removed := v_removed + 1;
        EXCEPTION WHEN integrity_constraint_violation OR data_exception OR raise_exception THEN
            RAISE WARNING 'the old row of % with % = % stays: %', p_table, p_column, v_number, SQLERRM;
        END;
    END LOOP;
    RETURN v_removed;
END $$;
REVOKE ALL ON FUNCTION {schema}.leasehold_remove(regclass, text, bigint[]) FROM PUBLIC;

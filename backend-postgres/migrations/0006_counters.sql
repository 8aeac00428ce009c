-- A counter is not copied with the rows that it has numbered: not by logical replication, not by COPY. Then new rows
-- would be refused for numbers that others have. So each statement that inserts first lifts the table's counter to the
-- greatest number there. May be run again.
-- {schema} stands for the quoted name of the schema.

-- Lifts a counter that is below p_least. One at a time, since setval also lowers; the margin is room for numbers that
-- others draw meanwhile.
CREATE OR REPLACE FUNCTION {schema}.leasehold_lift_counter(p_counter regclass, p_least bigint) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF coalesce(pg_sequence_last_value(p_counter), 0) < p_least THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('leasehold counter ' || p_counter::oid, 0));
        IF coalesce(pg_sequence_last_value(p_counter), 0) < p_least THEN
            PERFORM setval(p_counter, p_least + 1000);
        END IF;
    END IF;
END $$;
REVOKE ALL ON FUNCTION {schema}.leasehold_lift_counter(regclass, bigint) FROM PUBLIC;

-- Has every statement that inserts into p_table lift the counter of p_column, and lifts it now.
CREATE OR REPLACE FUNCTION {schema}.leasehold_keep_counter(p_table regclass, p_column text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_counter text := pg_get_serial_sequence(p_table::text, p_column);
    v_lift    text;
BEGIN
    SELECT format('%I.%I', nspname, 'leasehold_counter_of_' || relname) INTO STRICT v_lift
        FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = p_table;
    -- SECURITY DEFINER: whoever may insert need not be allowed to set the counter.
    EXECUTE format($made$
        CREATE OR REPLACE FUNCTION %1$s() RETURNS trigger LANGUAGE plpgsql
            SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $lift$
        DECLARE
            v_greatest bigint := (SELECT max(%2$I) FROM %3$s);
        BEGIN
            IF coalesce(pg_sequence_last_value(%4$L), 0) < v_greatest THEN
                PERFORM {schema}.leasehold_lift_counter(%4$L, v_greatest);
            END IF;
            RETURN NULL;
        END $lift$
    $made$, v_lift, p_column, p_table, v_counter);
    -- Locks the table only where the trigger is missing.
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = p_table AND tgname = 'leasehold_counter') THEN
        EXECUTE format('CREATE TRIGGER leasehold_counter BEFORE INSERT ON %s FOR EACH STATEMENT EXECUTE FUNCTION %s()',
                       p_table, v_lift);
    END IF;
    EXECUTE format('SELECT {schema}.leasehold_lift_counter(%L, max(%I)) FROM %s', v_counter, p_column, p_table);
END $$;
REVOKE ALL ON FUNCTION {schema}.leasehold_keep_counter(regclass, text) FROM PUBLIC;

SELECT {schema}.leasehold_keep_counter('{schema}.leasehold_fence_lowerings', 'lowering_id');

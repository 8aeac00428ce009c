-- Fencing scopes, in Postgres. May be run again.
--
-- A scope and every effect that it guards live in this database, so the clock here decides only when a takeover is
-- polite; what makes writes safe is ledger_admit in their own transactions.
CREATE TABLE IF NOT EXISTS fencing_scopes (
    fencing_scope_id           text COLLATE "C" PRIMARY KEY CHECK (fencing_scope_id <> ''),
    tenant_id                  text   NOT NULL CHECK (tenant_id <> ''),
    current_holder_instance_id text,
    current_epoch              bigint NOT NULL DEFAULT 0 CHECK (current_epoch >= 0),
    ttl_expires_at             timestamptz,
    -- What renewals and writes must present; none while nobody holds the scope.
    current_grant              uuid,
    -- The grant that was given up last: a release that is repeated is told so.
    released_grant             uuid,
    acquired_at                timestamptz,
    renewed_at                 timestamptz,
    CHECK ((current_holder_instance_id IS NULL) = (current_grant IS NULL)),
    CHECK ((current_grant IS NULL) = (ttl_expires_at IS NULL))
) WITH (fillfactor = 50);

-- One row for each change of holder; renewals, 17,000 a day, leave none.
CREATE TABLE IF NOT EXISTS fencing_scope_events (
    event_id                   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    fencing_scope_id           text COLLATE "C" NOT NULL,
    tenant_id                  text   NOT NULL,
    old_epoch                  bigint NOT NULL,
    new_epoch                  bigint NOT NULL,
    owner_instance_id          text,
    previous_owner_instance_id text,
    -- A takeover is called promote here, as alerts know it.
    action                     text   NOT NULL CHECK (action IN ('acquire', 'recover', 'promote', 'revoke', 'release')),
    ttl_seconds                integer,
    audit_event_id             text,
    note                       text,
    created_at                 timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX IF NOT EXISTS fencing_scope_events_attempt
    ON fencing_scope_events (fencing_scope_id, audit_event_id) WHERE audit_event_id IS NOT NULL;
SELECT leasehold_keep_counter('fencing_scope_events', 'event_id');

-- Advisory lock that guards a scope's ownership: writes share it, and every change of holder takes it alone (decision
-- 0052). It is advisory because row locks are not fair: writers that share a row's lock one after the other would keep a
-- release or a revocation waiting for as long as they are busy (12 s measured). Scopes with the same hash share a lock.
CREATE OR REPLACE FUNCTION ledger_scope_lock(p_scope text) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT hashtextextended(p_scope, 5501207)
$$;

-- Takes the lock before any change of holder, even one made by hand. A renewal changes none of these columns.
CREATE OR REPLACE FUNCTION ledger_scope_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(ledger_scope_lock(OLD.fencing_scope_id));
    RETURN coalesce(NEW, OLD);
END $$;
CREATE OR REPLACE TRIGGER fencing_scopes_changes BEFORE DELETE
    OR UPDATE OF fencing_scope_id, tenant_id, current_holder_instance_id, current_epoch, current_grant ON fencing_scopes
    FOR EACH ROW EXECUTE FUNCTION ledger_scope_changes();

-- Acquires, renews, releases or revokes a scope by the ledger's own clock, for clients that are no electors. Changes of
-- holder go one at a time: the lock, then FOR UPDATE. A renewal takes no lock but its row's, so that it never waits
-- behind its own term's writes.
--
-- p_request: acquire (p_grant: a renewal), release, revoke (nobody holds the scope afterwards).
-- o_outcome: an action (acquire, renew, recover, takeover, revoke), released, revoked, denied, or error.
CREATE OR REPLACE FUNCTION ledger_fencing_scope(
    p_request text, p_scope text, p_tenant text, p_instance text, p_epoch bigint, p_grant uuid,
    p_ttl_seconds integer, p_force boolean, p_attempt text, p_fresh uuid, p_note text,
    OUT o_outcome text, OUT o_code text, OUT o_message text, OUT o_holder text, OUT o_epoch bigint,
    OUT o_expires_us bigint, OUT o_grant uuid
) LANGUAGE plpgsql AS $$
DECLARE
    v_scope   fencing_scopes%ROWTYPE;
    v_attempt fencing_scope_events%ROWTYPE;
    v_now     timestamptz;
    v_live    boolean;
BEGIN
    IF p_request = 'acquire' AND p_grant IS NOT NULL THEN
        UPDATE fencing_scopes SET ttl_expires_at = clock_timestamp() + make_interval(secs => p_ttl_seconds),
               renewed_at = clock_timestamp()
            WHERE fencing_scope_id = p_scope AND tenant_id = p_tenant AND current_holder_instance_id = p_instance
                  AND current_grant = p_grant AND ttl_expires_at > clock_timestamp()
            RETURNING current_epoch, extract(epoch FROM ttl_expires_at) * 1000000 INTO o_epoch, o_expires_us;
        IF FOUND THEN
            o_outcome := 'renew';
            o_grant := p_grant;
            RETURN;
        END IF;
    END IF;
    PERFORM pg_advisory_xact_lock(ledger_scope_lock(p_scope));
    SELECT * INTO v_scope FROM fencing_scopes WHERE fencing_scope_id = p_scope FOR UPDATE;
    IF NOT FOUND AND p_request = 'acquire' THEN
        -- fencingScopeMode perPod: <scope>/<node> comes into being when it is first asked for, if <scope> is there.
        INSERT INTO fencing_scopes (fencing_scope_id, tenant_id)
            SELECT p_scope, parent.tenant_id FROM fencing_scopes parent
            WHERE parent.fencing_scope_id = regexp_replace(p_scope, '/[^/]+$', '') AND parent.tenant_id = p_tenant
                  AND parent.fencing_scope_id <> p_scope
            ON CONFLICT DO NOTHING;
        SELECT * INTO v_scope FROM fencing_scopes WHERE fencing_scope_id = p_scope FOR UPDATE;
    END IF;
    -- Only now: the wait for the lock may have been long.
    v_now := clock_timestamp();
    v_live := v_scope.current_grant IS NOT NULL AND v_scope.ttl_expires_at > v_now;
    o_outcome := 'error';
    o_epoch := v_scope.current_epoch;
    IF v_scope.fencing_scope_id IS NULL THEN
        o_code := 'FENCING_SCOPE_UNKNOWN';
        o_message := format('there is no fencing scope %s of tenant %s: make it by leasehold worker ledger --add-scope, or name another', p_scope, p_tenant);
        RETURN;
    ELSIF v_scope.tenant_id <> p_tenant THEN
        o_code := 'TENANT_MISMATCH';
        o_message := format('fencing scope %s is not of tenant %s: name the tenant that owns it', p_scope, p_tenant);
        RETURN;
    END IF;

    IF p_request = 'release' THEN
        IF v_scope.current_grant = p_grant AND v_scope.current_epoch = p_epoch
           AND v_scope.current_holder_instance_id = p_instance THEN
            UPDATE fencing_scopes SET current_holder_instance_id = NULL, current_grant = NULL, ttl_expires_at = NULL,
                   released_grant = p_grant
                WHERE fencing_scope_id = p_scope;
            INSERT INTO fencing_scope_events (fencing_scope_id, tenant_id, old_epoch, new_epoch,
                    previous_owner_instance_id, action)
                VALUES (p_scope, p_tenant, p_epoch, p_epoch, p_instance, 'release');
            PERFORM pg_notify('leasehold_fencing_scopes', p_scope);
        -- Repeated, it is what it was, whoever has come since.
        ELSIF v_scope.released_grant IS DISTINCT FROM p_grant THEN
            o_code := 'FENCING_EPOCH_STALE';
            o_message := format('epoch %s is over on %s, which is at epoch %s: nothing was changed', p_epoch, p_scope, v_scope.current_epoch);
            RETURN;
        END IF;
        o_outcome := 'released';
        o_epoch := p_epoch;
        RETURN;
    END IF;

    IF p_request = 'revoke' THEN
        o_outcome := 'revoked';
        IF v_scope.current_grant IS NULL THEN
            RETURN;
        END IF;
        o_holder := v_scope.current_holder_instance_id;
        o_epoch := v_scope.current_epoch + 1;
        UPDATE fencing_scopes SET current_holder_instance_id = NULL, current_grant = NULL, ttl_expires_at = NULL,
               current_epoch = o_epoch
            WHERE fencing_scope_id = p_scope;
        -- Electors hear of it by the register, and the holder comes after the others (H-3 of the lease protocol).
        UPDATE fencing_scopes SET register = register || jsonb_build_object(
                'tag', translate(gen_random_uuid()::text, '-', ''), 'note', coalesce(p_note, ''),
                'revoked', jsonb_build_object('epoch', o_epoch, 'by', '', 'except', o_holder, 'for_ms', 0))
            WHERE fencing_scope_id = p_scope;
        INSERT INTO fencing_scope_events (fencing_scope_id, tenant_id, old_epoch, new_epoch,
                previous_owner_instance_id, action, note)
            VALUES (p_scope, p_tenant, v_scope.current_epoch, o_epoch, o_holder, 'revoke', p_note);
        PERFORM pg_notify('leasehold_fencing_scopes', p_scope);
        RETURN;
    END IF;

    IF p_grant IS NOT NULL THEN
        -- A renewal is never an acquisition: whoever has lost the scope must hear of it.
        IF v_scope.current_grant IS DISTINCT FROM p_grant OR v_scope.current_holder_instance_id <> p_instance THEN
            o_code := 'FENCING_EPOCH_STALE';
            o_message := format('this term of %s is over, the scope is at epoch %s: stop, then acquire without a grant', p_scope, v_scope.current_epoch);
            RETURN;
        END IF;
        -- It came too late: the term is over, and is taken anew if nobody else has.
    ELSIF p_attempt IS NOT NULL THEN
        SELECT * INTO v_attempt FROM fencing_scope_events
            WHERE fencing_scope_id = p_scope AND audit_event_id = p_attempt;
        IF FOUND AND (v_attempt.owner_instance_id <> p_instance OR v_attempt.ttl_seconds <> p_ttl_seconds) THEN
            o_code := 'IDEMPOTENCY_KEY_REUSED';
            o_message := format('audit_event_id %s was another request''s: use a fresh one for each attempt', p_attempt);
            RETURN;
        ELSIF FOUND AND v_attempt.new_epoch = v_scope.current_epoch AND v_live THEN
            o_outcome := CASE v_attempt.action WHEN 'promote' THEN 'takeover' ELSE v_attempt.action END;
            o_grant := v_scope.current_grant;
            o_expires_us := extract(epoch FROM v_scope.ttl_expires_at) * 1000000;
            RETURN;
        ELSIF FOUND THEN
            -- To say again that it succeeded would be true of the past only.
            o_code := 'FENCING_EPOCH_STALE';
            o_message := format('attempt %s got epoch %s of %s, which is over: acquire under a fresh audit_event_id', p_attempt, v_attempt.new_epoch, p_scope);
            RETURN;
        END IF;
    END IF;

    o_outcome := CASE
        WHEN v_scope.current_grant IS NULL THEN 'acquire'
        WHEN NOT v_live AND v_scope.current_holder_instance_id = p_instance THEN 'recover'
        WHEN NOT v_live THEN 'takeover'
        WHEN p_force THEN 'revoke'
        -- Also by the holder's own name: two processes of one name are two holders.
        ELSE 'denied'
    END;
    IF o_outcome = 'denied' THEN
        o_holder := v_scope.current_holder_instance_id;
        o_expires_us := extract(epoch FROM v_scope.ttl_expires_at) * 1000000;
        RETURN;
    END IF;
    IF v_scope.current_epoch >= 4611686018427387904 THEN
        o_outcome := 'error';
        o_code := 'FENCING_EPOCH_ABOVE_CEILING';
        o_message := format('scope %s is at epoch %s, and no epoch is above 2^62: nobody can hold it until an operator sets it back by leasehold worker ledger --lower-scope', p_scope, v_scope.current_epoch);
        RETURN;
    END IF;
    o_epoch := v_scope.current_epoch + 1;
    o_grant := p_fresh;
    UPDATE fencing_scopes SET current_holder_instance_id = p_instance, current_grant = p_fresh, current_epoch = o_epoch,
           ttl_expires_at = v_now + make_interval(secs => p_ttl_seconds), acquired_at = v_now, renewed_at = v_now
        WHERE fencing_scope_id = p_scope;
    INSERT INTO fencing_scope_events (fencing_scope_id, tenant_id, old_epoch, new_epoch, owner_instance_id,
            previous_owner_instance_id, action, ttl_seconds, audit_event_id, note)
        VALUES (p_scope, p_tenant, v_scope.current_epoch, o_epoch, p_instance, v_scope.current_holder_instance_id,
                CASE o_outcome WHEN 'takeover' THEN 'promote' ELSE o_outcome END, p_ttl_seconds,
                -- A renewal that came too late names no attempt of its own.
                CASE WHEN p_grant IS NULL THEN p_attempt END, p_note);
    o_expires_us := extract(epoch FROM v_now + make_interval(secs => p_ttl_seconds)) * 1000000;
END $$;

-- The scope as a register that electors compare and write (ledger_put_scope): a lease record as JSON, whose tag is
-- different after every change.
DO $$ BEGIN
    -- Locks the table only where the column is missing.
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = 'fencing_scopes'::regclass AND attname = 'register') THEN
        ALTER TABLE fencing_scopes ADD COLUMN register jsonb;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION ledger_millis(p_at timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce((extract(epoch FROM p_at) * 1000)::bigint, 0)
$$;

-- Keeps the register true to the columns after every other write: ledger_fencing_scope, or a statement by hand.
CREATE OR REPLACE FUNCTION ledger_scope_register() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_before jsonb := CASE WHEN TG_OP = 'UPDATE' THEN OLD.register END;
    v_grant  text  := translate(NEW.current_grant::text, '-', '');
    v_new    boolean;
BEGIN
    IF NEW.register IS NOT NULL AND NEW.register IS DISTINCT FROM v_before THEN
        RETURN NEW;
    END IF;
    v_before := coalesce(v_before, '{"beat": 0, "holder": "", "ttl_ms": 0, "max_ttl_ms": 0, "lineage": "ledger",
                                     "transitions": 0, "preemptible": true}');
    v_new := v_grant IS NOT NULL AND v_grant IS DISTINCT FROM v_before->>'grant';
    NEW.register := v_before || jsonb_build_object(
        'tag', translate(gen_random_uuid()::text, '-', ''),
        'grant', v_grant,
        'epoch', NEW.current_epoch,
        'beat', CASE WHEN v_new THEN 0 ELSE (v_before->>'beat')::bigint + 1 END,
        'holder', coalesce(NEW.current_holder_instance_id, v_before->>'holder'),
        'ttl_ms', coalesce(round(extract(epoch FROM NEW.ttl_expires_at - NEW.renewed_at))::bigint * 1000,
                           (v_before->>'ttl_ms')::bigint),
        'transitions', (v_before->>'transitions')::bigint + v_new::integer,
        'request', CASE WHEN v_grant = v_before->>'grant' THEN v_before->'request' END,
        'acquired_at', ledger_millis(NEW.acquired_at),
        'renewed_at', ledger_millis(NEW.renewed_at),
        'expires_at', ledger_millis(coalesce(NEW.ttl_expires_at, clock_timestamp())));
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER fencing_scopes_register BEFORE INSERT OR UPDATE ON fencing_scopes
    FOR EACH ROW EXECUTE FUNCTION ledger_scope_register();
-- Scopes made before there was a register.
UPDATE fencing_scopes SET current_epoch = current_epoch WHERE register IS NULL;

-- Shows a scope to whoever wants to read, await or write its register; o_record is null where it is not made yet (perPod).
-- Whether its term has run out is the database's clock's word, which no write asks for.
CREATE OR REPLACE FUNCTION ledger_scope_view(
    p_scope text, p_tenant text,
    OUT o_code text, OUT o_message text, OUT o_record text, OUT o_free boolean, OUT o_run_out boolean,
    OUT o_remaining_ms bigint
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_scope fencing_scopes%ROWTYPE;
BEGIN
    SELECT * INTO v_scope FROM fencing_scopes WHERE fencing_scope_id = p_scope;
    IF NOT FOUND THEN
        PERFORM FROM fencing_scopes WHERE fencing_scope_id = regexp_replace(p_scope, '/[^/]+$', '')
            AND tenant_id = p_tenant AND fencing_scope_id <> p_scope;
        IF NOT FOUND THEN
            o_code := 'FENCING_SCOPE_UNKNOWN';
            o_message := format('there is no fencing scope %s of tenant %s: make it by leasehold worker ledger --add-scope, or name another', p_scope, p_tenant);
        END IF;
    ELSIF v_scope.tenant_id <> p_tenant THEN
        o_code := 'TENANT_MISMATCH';
        o_message := format('fencing scope %s is not of tenant %s: name the tenant that owns it', p_scope, p_tenant);
    ELSE
        o_record := v_scope.register::text;
    END IF;
    o_remaining_ms := greatest(0, coalesce(ledger_millis(v_scope.ttl_expires_at) - ledger_millis(clock_timestamp()), 0));
    o_run_out := v_scope.current_grant IS NOT NULL AND v_scope.ttl_expires_at <= clock_timestamp();
    o_free := v_scope.current_grant IS NULL OR o_run_out;
END $$;

-- Is this change one that a sidecar makes? It takes a scope in a new term, keeps its own, gives up whatever term there is,
-- and makes its node's scope. It closes none for good, and uses no numbers up.
CREATE OR REPLACE FUNCTION ledger_is_a_sidecars(p_change text, p_before jsonb, p_after jsonb) RETURNS boolean
    LANGUAGE sql IMMUTABLE AS $$
    SELECT p_before->>'sealed' IS NULL AND p_after->>'sealed' IS NULL
        AND (p_after->'epochs_above' IS NULL OR p_after->'epochs_above' = p_before->'epochs_above')
        AND (p_after->'revoked' IS NULL OR p_after->'revoked' = p_before->'revoked')
        AND CASE p_change
            WHEN 'renew' THEN (p_after->>'grant')::uuid = (p_before->>'grant')::uuid AND p_after->'epoch' = p_before->'epoch'
            WHEN 'release' THEN p_after->>'grant' IS NULL AND p_after->'epoch' = p_before->'epoch'
            WHEN 'acquire' THEN (p_after->>'grant')::uuid IS DISTINCT FROM (p_before->>'grant')::uuid
                AND p_after->>'grant' IS NOT NULL
            ELSE p_change = 'init'
        END
        -- Room for the distances that electors keep after a restore (T-6).
        AND (p_after->>'epoch')::bigint
            <= greatest((p_before->>'epoch')::bigint, coalesce((p_before->>'epochs_above')::bigint, 0)) + 16777216
$$;

-- Writes a scope's register if its tag still is p_expected, or if there is none and p_expected is null. Knows nothing of
-- expiry, like every register: the caller decides when it may take a scope, and ledger_admit makes that safe. Without
-- p_operates it writes only what a sidecar may.
--
-- p_change: as lease_core::Change names it. o_outcome: the change, or for an acquisition an action as above; conflict; or
-- error. A renewal takes no lock but its row's, so that it never waits behind its own term's writes (decision 0041).
DROP FUNCTION IF EXISTS ledger_put_scope(text, text, uuid, jsonb, text);
CREATE OR REPLACE FUNCTION ledger_put_scope(
    p_scope text, p_tenant text, p_expected uuid, p_record jsonb, p_change text, p_operates boolean DEFAULT true,
    OUT o_outcome text, OUT o_code text, OUT o_message text
) LANGUAGE plpgsql AS $$
DECLARE
    v_scope  fencing_scopes%ROWTYPE;
    v_grant  uuid     := (p_record->>'grant')::uuid;
    v_epoch  bigint   := (p_record->>'epoch')::bigint;
    v_ttl    interval := make_interval(secs => (p_record->>'ttl_ms')::numeric / 1000);
    v_now    timestamptz;
BEGIN
    IF p_change = 'renew' THEN
        UPDATE fencing_scopes SET register = p_record, renewed_at = clock_timestamp(),
               ttl_expires_at = clock_timestamp() + v_ttl
            WHERE fencing_scope_id = p_scope AND tenant_id = p_tenant AND (register->>'tag')::uuid = p_expected
                  AND current_grant = v_grant AND current_epoch = v_epoch
                  AND (p_operates OR ledger_is_a_sidecars(p_change, register, p_record));
        IF FOUND THEN
            o_outcome := 'renew';
            RETURN;
        END IF;
    END IF;
    o_outcome := 'conflict';
    -- A conflict need not wait for the lock.
    PERFORM FROM fencing_scopes WHERE fencing_scope_id = p_scope AND tenant_id = p_tenant
        AND (register->>'tag')::uuid = p_expected;
    IF NOT FOUND AND p_expected IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM pg_advisory_xact_lock(ledger_scope_lock(p_scope));
    IF p_expected IS NULL THEN
        -- fencingScopeMode perPod: <scope>/<node> may be made by whoever serves it, if <scope> is there.
        INSERT INTO fencing_scopes (fencing_scope_id, tenant_id)
            SELECT p_scope, parent.tenant_id FROM fencing_scopes parent
            WHERE parent.fencing_scope_id = regexp_replace(p_scope, '/[^/]+$', '') AND parent.tenant_id = p_tenant
                  AND parent.fencing_scope_id <> p_scope
            ON CONFLICT DO NOTHING
            RETURNING (register->>'tag')::uuid INTO p_expected;
    END IF;
    SELECT * INTO v_scope FROM fencing_scopes WHERE fencing_scope_id = p_scope AND tenant_id = p_tenant FOR UPDATE;
    IF v_scope.fencing_scope_id IS NULL OR (v_scope.register->>'tag')::uuid IS DISTINCT FROM p_expected THEN
        RETURN;
    END IF;
    IF v_epoch > 4611686018427387904 THEN
        o_outcome := 'error';
        o_code := 'INVALID_ARGUMENT';
        o_message := format('epoch %s of %s: no epoch is above 2^62', v_epoch, p_scope);
        RETURN;
    END IF;
    IF v_epoch < v_scope.current_epoch OR v_epoch = v_scope.current_epoch AND p_change = 'acquire' THEN
        o_outcome := 'error';
        o_code := 'INVALID_ARGUMENT';
        o_message := format('epoch %s of %s is over, the scope is at epoch %s: a new term needs a greater epoch', v_epoch, p_scope, v_scope.current_epoch);
        RETURN;
    END IF;
    IF NOT p_operates AND ledger_is_a_sidecars(p_change, v_scope.register, p_record) IS NOT TRUE THEN
        o_outcome := 'error';
        o_code := 'NOT_ALLOWED';
        o_message := format('this %s of %s changes more than a sidecar may: it needs the right to operate', p_change, p_scope);
        RETURN;
    END IF;
    -- Only now: the wait for the lock may have been long.
    v_now := clock_timestamp();
    o_outcome := CASE
        WHEN p_change <> 'acquire' THEN p_change
        WHEN v_scope.current_grant IS NULL THEN 'acquire'
        WHEN v_scope.ttl_expires_at <= v_now AND v_scope.current_holder_instance_id = p_record->>'holder' THEN 'recover'
        ELSE 'takeover'
    END;
    UPDATE fencing_scopes SET register = p_record, current_grant = v_grant, current_epoch = v_epoch,
           current_holder_instance_id = CASE WHEN v_grant IS NOT NULL THEN p_record->>'holder' END,
           -- A request or a note prolongs nothing.
           ttl_expires_at = CASE WHEN v_grant = v_scope.current_grant THEN v_scope.ttl_expires_at
                                 WHEN v_grant IS NOT NULL THEN v_now + v_ttl END,
           acquired_at = CASE p_change WHEN 'acquire' THEN v_now ELSE v_scope.acquired_at END,
           renewed_at = CASE p_change WHEN 'acquire' THEN v_now ELSE v_scope.renewed_at END
        WHERE fencing_scope_id = p_scope;
    IF p_change IN ('acquire', 'release', 'revoke') THEN
        INSERT INTO fencing_scope_events (fencing_scope_id, tenant_id, old_epoch, new_epoch, owner_instance_id,
                previous_owner_instance_id, action, ttl_seconds, note)
            VALUES (p_scope, p_tenant, v_scope.current_epoch, v_epoch,
                    CASE p_change WHEN 'acquire' THEN p_record->>'holder' END, v_scope.current_holder_instance_id,
                    CASE o_outcome WHEN 'takeover' THEN 'promote' ELSE o_outcome END,
                    ceil(extract(epoch FROM v_ttl))::integer, nullif(p_record->>'note', ''));
    END IF;
    IF v_grant IS NULL THEN
        PERFORM pg_notify('leasehold_fencing_scopes', p_scope);
    END IF;
END $$;

-- Is this the scope's present term? Asked in the write's own transaction, before anything that its effects depend on.
-- The shared lock makes a takeover wait until those effects are committed or gone; without it a holder that is paused
-- here would write beside its successor. The look is a statement of its own, after the lock: it must see what was
-- committed while this waited, which a snapshot of before, or of the whole transaction, would hide.
CREATE OR REPLACE FUNCTION ledger_admit(p_scope text, p_tenant text, p_owner text, p_epoch bigint, p_grant uuid)
    RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'a fenced write needs READ COMMITTED, this transaction is %', current_setting('transaction_isolation')
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    PERFORM pg_advisory_xact_lock_shared(ledger_scope_lock(p_scope));
    PERFORM FROM fencing_scopes
        WHERE fencing_scope_id = p_scope AND tenant_id = p_tenant AND current_holder_instance_id = p_owner
              AND current_epoch = p_epoch AND current_grant = p_grant;
    RETURN FOUND;
END $$;

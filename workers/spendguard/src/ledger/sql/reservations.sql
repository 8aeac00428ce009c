-- Budgets, reservations and their audit rows, in Postgres, beside the audit outbox. May be run again.
--
-- Order of locks, everywhere: the scope, the reservation, the key of the audit row, the budget. The budget's row is
-- the hottest and is locked last.
CREATE TABLE IF NOT EXISTS budgets (
    tenant_id       text   NOT NULL CHECK (tenant_id <> ''),
    currency        text   NOT NULL,
    limit_minor     bigint NOT NULL CHECK (limit_minor >= 0),
    -- The sums of the tenant's reservations in state reserved, and in state committed.
    reserved_minor  bigint NOT NULL DEFAULT 0 CHECK (reserved_minor >= 0),
    committed_minor bigint NOT NULL DEFAULT 0 CHECK (committed_minor >= 0),
    PRIMARY KEY (tenant_id, currency)
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS reservations (
    reservation_id   uuid PRIMARY KEY,
    tenant_id        text   NOT NULL,
    amount_minor     bigint NOT NULL CHECK (amount_minor > 0),
    currency         text   NOT NULL,
    current_state    text   NOT NULL DEFAULT 'reserved' CHECK (current_state IN ('reserved', 'released', 'committed')),
    ttl_expires_at   timestamptz NOT NULL,
    fencing_scope_id text   NOT NULL,
    -- The epoch that wrote the present state.
    fencing_epoch    bigint NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at       timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 80);
CREATE INDEX IF NOT EXISTS reservations_live ON reservations (ttl_expires_at) WHERE current_state = 'reserved';

-- The audit trail: one row for each change of a reservation. It is also what is remembered of idempotency keys: a key
-- is used once, for as long as its row is kept. Its number is the producer_sequence of its row in audit_outbox.
CREATE TABLE IF NOT EXISTS reservation_events (
    event_id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id         text   NOT NULL,
    -- None for what the sweeper does.
    idempotency_key   text,
    action            text   NOT NULL CHECK (action IN ('reserve', 'commit', 'release', 'expire')),
    reservation_id    uuid   NOT NULL,
    amount_minor      bigint NOT NULL,
    currency          text   NOT NULL,
    ttl_seconds       integer,
    state             text   NOT NULL,
    expires_at        timestamptz NOT NULL,
    fencing_scope_id  text,
    fencing_epoch     bigint NOT NULL,
    owner_instance_id text   NOT NULL,
    request_id        text,
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (tenant_id, idempotency_key)
);
CREATE INDEX IF NOT EXISTS reservation_events_of ON reservation_events (reservation_id);
SELECT leasehold_keep_counter('reservation_events', 'event_id');

-- The first thing on each connection. Says why this server can't serve, or nothing.
-- SECURITY DEFINER: sweepers draw numbers, too, and may not set them otherwise.
CREATE OR REPLACE FUNCTION ledger_begin_session() RETURNS text LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    v_floor bigint := extract(epoch FROM clock_timestamp()) * 1000000;
BEGIN
    IF current_setting('synchronous_commit') = 'off' OR current_setting('fsync') = 'off' THEN
        RETURN 'a crash would lose acknowledged writes: set fsync = on and synchronous_commit = on';
    END IF;
    -- A pooler may have dropped what the connection asked for, and ledger_admit would refuse every write.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN format('transactions are %s here: ALTER ROLE %I SET default_transaction_isolation = ''read committed''',
                      current_setting('transaction_isolation'), session_user);
    END IF;
    -- A restored backup has forgotten numbers that canonical-ingest knows: a new event under such a number would be
    -- taken for a repetition. So they go on from the clock, in microseconds, which nobody uses up. The margin of a
    -- million is room for the numbers that others draw meanwhile; it is small, since a standby that was promoted may
    -- have forgotten numbers that were drawn a moment ago.
    IF (SELECT last_value FROM reservation_events_event_id_seq) < v_floor - 1000000 THEN
        PERFORM leasehold_lift_counter('reservation_events_event_id_seq', v_floor);
    END IF;
    RETURN NULL;
END $$;

-- What a key was answered before, if it was; an error if it was another request's.
CREATE OR REPLACE FUNCTION ledger_replay(
    p_tenant text, p_key text, p_action text, p_amount bigint, p_currency text, p_ttl integer, p_reservation uuid)
RETURNS TABLE (r_code text, r_message text, r_reservation uuid, r_state text, r_expires_us bigint, r_epoch bigint)
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN same THEN NULL ELSE 'IDEMPOTENCY_KEY_REUSED' END,
           CASE WHEN same THEN NULL ELSE format('idempotency key %s was another request''s: use a fresh key for each request', p_key) END,
           reservation_id, state, (extract(epoch FROM expires_at) * 1000000)::bigint, fencing_epoch
    FROM (SELECT *, action = p_action AND CASE action
                        WHEN 'reserve' THEN amount_minor = p_amount AND currency = p_currency AND ttl_seconds = p_ttl
                        ELSE reservation_id = p_reservation END AS same
          FROM reservation_events WHERE tenant_id = p_tenant AND idempotency_key = p_key) AS before
$$;

-- The outbox's copy of an audit row.
CREATE OR REPLACE FUNCTION ledger_announce(p_event reservation_events) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO audit_outbox (tenant_id, workload_instance_id, producer_sequence, event_time, fencing_epoch, payload)
        VALUES (p_event.tenant_id, p_event.owner_instance_id, p_event.event_id, p_event.created_at, p_event.fencing_epoch,
                json_build_object('action', p_event.action, 'reservation_id', p_event.reservation_id,
                    'amount_minor', p_event.amount_minor, 'currency', p_event.currency, 'state', p_event.state,
                    'expires_at', p_event.expires_at, 'fencing_scope_id', p_event.fencing_scope_id,
                    'fencing_epoch', p_event.fencing_epoch, 'request_id', p_event.request_id));
END $$;

CREATE OR REPLACE FUNCTION ledger_reserve(
    p_scope text, p_tenant text, p_owner text, p_epoch bigint, p_grant uuid, p_key text, p_request_id text,
    p_reservation uuid, p_amount bigint, p_currency text, p_ttl integer,
    OUT o_code text, OUT o_message text, OUT o_reservation uuid, OUT o_state text, OUT o_expires_us bigint,
    OUT o_epoch bigint
) LANGUAGE plpgsql AS $$
DECLARE
    v_room  bigint;
    v_event reservation_events%ROWTYPE;
    v_code  text;
    v_why   text;
BEGIN
    -- Before the fence: what was done, was done, whoever asks again.
    SELECT * INTO o_code, o_message, o_reservation, o_state, o_expires_us, o_epoch
        FROM ledger_replay(p_tenant, p_key, 'reserve', p_amount, p_currency, p_ttl, NULL);
    IF FOUND THEN
        RETURN;
    END IF;
    IF NOT ledger_admit(p_scope, p_tenant, p_owner, p_epoch, p_grant) THEN
        v_code := 'FENCING_EPOCH_STALE';
        v_why := format('epoch %s of %s is not the present term of fencing scope %s: stop, then acquire it anew', p_epoch, p_owner, p_scope);
    ELSE
        -- A look without the lock: most refusals are made here, where nothing has been written yet.
        SELECT limit_minor - reserved_minor - committed_minor INTO v_room
            FROM budgets WHERE tenant_id = p_tenant AND currency = p_currency;
        IF NOT FOUND THEN
            v_code := 'BUDGET_UNKNOWN';
            v_why := format('tenant %s has no budget in %s: set one by leasehold worker ledger --set-budget', p_tenant, p_currency);
        ELSIF v_room < p_amount THEN
            v_code := 'BUDGET_EXCEEDED';
            v_why := format('tenant %s has not as much as %s %s left: release reservations, or raise the budget', p_tenant, p_amount, p_currency);
        ELSE
            INSERT INTO reservation_events (tenant_id, idempotency_key, action, reservation_id, amount_minor, currency,
                    ttl_seconds, state, expires_at, fencing_scope_id, fencing_epoch, owner_instance_id, request_id)
                VALUES (p_tenant, p_key, 'reserve', p_reservation, p_amount, p_currency, p_ttl, 'reserved',
                        clock_timestamp() + make_interval(secs => p_ttl), p_scope, p_epoch, p_owner, p_request_id)
                ON CONFLICT (tenant_id, idempotency_key) DO NOTHING RETURNING * INTO v_event;
        END IF;
    END IF;
    IF v_event.event_id IS NULL THEN
        -- The same request may have been done since the first look.
        SELECT * INTO o_code, o_message, o_reservation, o_state, o_expires_us, o_epoch
            FROM ledger_replay(p_tenant, p_key, 'reserve', p_amount, p_currency, p_ttl, NULL);
        IF NOT FOUND THEN
            o_code := v_code;
            o_message := v_why;
        END IF;
        RETURN;
    END IF;
    INSERT INTO reservations (reservation_id, tenant_id, amount_minor, currency, ttl_expires_at, fencing_scope_id, fencing_epoch)
        VALUES (p_reservation, p_tenant, p_amount, p_currency, v_event.expires_at, p_scope, p_epoch);
    PERFORM ledger_announce(v_event);
    UPDATE budgets SET reserved_minor = reserved_minor + p_amount
        WHERE tenant_id = p_tenant AND currency = p_currency
              AND limit_minor - reserved_minor - committed_minor >= p_amount;
    IF NOT FOUND THEN
        -- Others took it since the look: everything above is undone.
        RAISE EXCEPTION 'tenant % has not as much as % % left: release reservations, or raise the budget', p_tenant, p_amount, p_currency
            USING ERRCODE = 'LH003';
    END IF;
    o_reservation := p_reservation;
    o_state := 'reserved';
    o_expires_us := extract(epoch FROM v_event.expires_at) * 1000000;
    o_epoch := p_epoch;
END $$;

-- p_action: commit or release.
CREATE OR REPLACE FUNCTION ledger_settle(
    p_action text, p_scope text, p_tenant text, p_owner text, p_epoch bigint, p_grant uuid, p_key text,
    p_request_id text, p_reservation uuid,
    OUT o_code text, OUT o_message text, OUT o_reservation uuid, OUT o_state text, OUT o_expires_us bigint,
    OUT o_epoch bigint
) LANGUAGE plpgsql AS $$
DECLARE
    v_was   reservations%ROWTYPE;
    v_event reservation_events%ROWTYPE;
    v_state text := CASE p_action WHEN 'commit' THEN 'committed' ELSE 'released' END;
    v_code  text;
    v_why   text;
BEGIN
    SELECT * INTO o_code, o_message, o_reservation, o_state, o_expires_us, o_epoch
        FROM ledger_replay(p_tenant, p_key, p_action, NULL, NULL, NULL, p_reservation);
    IF FOUND THEN
        RETURN;
    END IF;
    IF NOT ledger_admit(p_scope, p_tenant, p_owner, p_epoch, p_grant) THEN
        v_code := 'FENCING_EPOCH_STALE';
        v_why := format('epoch %s of %s is not the present term of fencing scope %s: stop, then acquire it anew', p_epoch, p_owner, p_scope);
    ELSE
        SELECT * INTO v_was FROM reservations
            WHERE reservation_id = p_reservation AND tenant_id = p_tenant FOR UPDATE;
        IF NOT FOUND THEN
            v_code := 'RESERVATION_UNKNOWN';
            v_why := format('tenant %s has no reservation %s', p_tenant, p_reservation);
        ELSIF v_was.current_state <> 'reserved' THEN
            v_code := 'RESERVATION_WRONG_STATE';
            v_why := format('reservation %s is %s already', p_reservation, v_was.current_state);
        ELSIF p_action = 'commit' AND v_was.ttl_expires_at <= clock_timestamp() THEN
            v_code := 'RESERVATION_EXPIRED';
            v_why := format('reservation %s expired at %s: reserve anew', p_reservation, v_was.ttl_expires_at);
        ELSE
            INSERT INTO reservation_events (tenant_id, idempotency_key, action, reservation_id, amount_minor, currency,
                    state, expires_at, fencing_scope_id, fencing_epoch, owner_instance_id, request_id)
                VALUES (p_tenant, p_key, p_action, p_reservation, v_was.amount_minor, v_was.currency, v_state,
                        v_was.ttl_expires_at, p_scope, p_epoch, p_owner, p_request_id)
                ON CONFLICT (tenant_id, idempotency_key) DO NOTHING RETURNING * INTO v_event;
        END IF;
    END IF;
    IF v_event.event_id IS NULL THEN
        SELECT * INTO o_code, o_message, o_reservation, o_state, o_expires_us, o_epoch
            FROM ledger_replay(p_tenant, p_key, p_action, NULL, NULL, NULL, p_reservation);
        IF NOT FOUND THEN
            o_code := v_code;
            o_message := v_why;
        END IF;
        RETURN;
    END IF;
    UPDATE reservations SET current_state = v_state, fencing_epoch = p_epoch, changed_at = clock_timestamp()
        WHERE reservation_id = p_reservation;
    PERFORM ledger_announce(v_event);
    UPDATE budgets SET reserved_minor = reserved_minor - v_was.amount_minor,
           committed_minor = committed_minor + CASE p_action WHEN 'commit' THEN v_was.amount_minor ELSE 0 END
        WHERE tenant_id = p_tenant AND currency = v_was.currency;
    o_reservation := p_reservation;
    o_state := v_state;
    o_expires_us := extract(epoch FROM v_was.ttl_expires_at) * 1000000;
    o_epoch := p_epoch;
END $$;

-- Releases reservations, which the caller has locked; returns how many. Budgets are locked in one order, so that two
-- sweepers could not wait for each other.
CREATE OR REPLACE FUNCTION ledger_expire(p_ids uuid[], p_owner text, p_epoch bigint) RETURNS bigint
    LANGUAGE plpgsql AS $$
DECLARE
    v_swept bigint;
BEGIN
    IF p_ids IS NULL THEN
        RETURN 0;
    END IF;
    UPDATE reservations SET current_state = 'released', fencing_epoch = p_epoch, changed_at = clock_timestamp()
        WHERE reservation_id = ANY (p_ids);
    WITH audited AS (
        INSERT INTO reservation_events (tenant_id, action, reservation_id, amount_minor, currency, state, expires_at,
                fencing_epoch, owner_instance_id)
            SELECT tenant_id, 'expire', reservation_id, amount_minor, currency, 'released', ttl_expires_at, p_epoch, p_owner
            FROM reservations WHERE reservation_id = ANY (p_ids)
            RETURNING *)
    INSERT INTO audit_outbox (tenant_id, workload_instance_id, producer_sequence, event_time, fencing_epoch, payload)
        SELECT tenant_id, owner_instance_id, event_id, created_at, fencing_epoch,
               json_build_object('action', action, 'reservation_id', reservation_id, 'amount_minor', amount_minor,
                   'currency', currency, 'state', state, 'expires_at', expires_at, 'fencing_epoch', fencing_epoch)
        FROM audited;
    GET DIAGNOSTICS v_swept = ROW_COUNT;
    PERFORM FROM budgets WHERE (tenant_id, currency) IN
        (SELECT tenant_id, currency FROM reservations WHERE reservation_id = ANY (p_ids))
        ORDER BY tenant_id, currency FOR UPDATE;
    UPDATE budgets SET reserved_minor = reserved_minor - swept.amount
        FROM (SELECT tenant_id, currency, sum(amount_minor)::bigint AS amount FROM reservations
              WHERE reservation_id = ANY (p_ids) GROUP BY tenant_id, currency) AS swept
        WHERE budgets.tenant_id = swept.tenant_id AND budgets.currency = swept.currency;
    RETURN v_swept;
END $$;

-- Releases expired reservations, at most p_limit; returns how many. The sweepers' term is admitted first (F-1), and all
-- of it is one statement: a sweeper that is paused or killed leaves no transaction open.
CREATE OR REPLACE FUNCTION ledger_sweep(p_limit integer, p_owner text, p_epoch bigint, p_grant uuid) RETURNS bigint
    LANGUAGE plpgsql AS $$
DECLARE
    v_ids uuid[];
    -- Once: compared with a clock that moves, every live reservation would be visited.
    v_now timestamptz := clock_timestamp();
BEGIN
    PERFORM leasehold_admit('ttl_sweeper', p_epoch, p_grant);
    SELECT array_agg(reservation_id) INTO v_ids FROM (
        SELECT reservation_id FROM reservations
        WHERE current_state = 'reserved' AND ttl_expires_at <= v_now
        ORDER BY ttl_expires_at LIMIT p_limit FOR UPDATE SKIP LOCKED) AS expired;
    RETURN ledger_expire(v_ids, p_owner, p_epoch);
END $$;

-- The same for those of p_ids that have expired: where ledger_sweep fails for one that can't be released.
CREATE OR REPLACE FUNCTION ledger_sweep_these(p_ids uuid[], p_owner text, p_epoch bigint, p_grant uuid) RETURNS bigint
    LANGUAGE plpgsql AS $$
DECLARE
    v_ids uuid[];
BEGIN
    PERFORM leasehold_admit('ttl_sweeper', p_epoch, p_grant);
    SELECT array_agg(reservation_id) INTO v_ids FROM (
        SELECT reservation_id FROM reservations
        WHERE reservation_id = ANY (p_ids) AND current_state = 'reserved' AND ttl_expires_at <= clock_timestamp()
        FOR UPDATE SKIP LOCKED) AS expired;
    RETURN ledger_expire(v_ids, p_owner, p_epoch);
END $$;

-- Roles for the ledger's database: one each for ledger, ttl-sweeper and outbox-forwarder, which may do their work and
-- nothing else. To be run by the tables' owner (who migrates, adds scopes and sets budgets), after the migration:
--   psql "$ADMIN_URL" -v ledger=leasehold_ledger -v sweeper=leasehold_sweeper -v forwarder=leasehold_forwarder -f roles.sql
-- They have no passwords yet: \password leasehold_ledger, or whatever the server authenticates by. May be run again.
\set ON_ERROR_STOP on
\if :{?ledger} \else \set ledger leasehold_ledger \endif
\if :{?sweeper} \else \set sweeper leasehold_sweeper \endif
\if :{?forwarder} \else \set forwarder leasehold_forwarder \endif
BEGIN;
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'ledger') AS is_new \gset
\if :is_new
    CREATE ROLE :"ledger" LOGIN;
\endif
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'sweeper') AS is_new \gset
\if :is_new
    CREATE ROLE :"sweeper" LOGIN;
\endif
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'forwarder') AS is_new \gset
\if :is_new
    CREATE ROLE :"forwarder" LOGIN;
\endif
GRANT USAGE ON SCHEMA public TO :"ledger", :"sweeper", :"forwarder";

-- Scopes, reservations, and the sums of budgets; not their limits.
GRANT SELECT, INSERT,
    UPDATE (current_holder_instance_id, current_epoch, ttl_expires_at, current_grant, released_grant, acquired_at, renewed_at,
        register)
    ON public.fencing_scopes TO :"ledger";
GRANT SELECT, INSERT ON public.fencing_scope_events TO :"ledger";
GRANT SELECT, UPDATE (reserved_minor, committed_minor) ON public.budgets TO :"ledger";
GRANT SELECT, INSERT, UPDATE (current_state, fencing_epoch, changed_at) ON public.reservations TO :"ledger";
GRANT SELECT, INSERT ON public.reservation_events TO :"ledger";
GRANT INSERT ON public.audit_outbox, public.audit_outbox_global_keys TO :"ledger";
-- The numbers of a restored backup are raised when a ledger connects.
GRANT SELECT, UPDATE ON SEQUENCE public.reservation_events_event_id_seq TO :"ledger";

-- Releases what has expired; old rows go by ledger_prune only.
GRANT SELECT, UPDATE (current_state, fencing_epoch, changed_at) ON public.reservations TO :"sweeper";
GRANT SELECT, UPDATE (reserved_minor) ON public.budgets TO :"sweeper";
GRANT SELECT, INSERT ON public.reservation_events TO :"sweeper";
GRANT INSERT ON public.audit_outbox, public.audit_outbox_global_keys TO :"sweeper";
GRANT EXECUTE ON FUNCTION public.ledger_prune(integer, integer, integer, bigint, uuid) TO :"sweeper";

-- Reads what is pending, and marks it; old rows go by audit_outbox_prune only.
GRANT SELECT, UPDATE (pending_forward, forwarded_epoch, forwarded_at) ON public.audit_outbox TO :"forwarder";
GRANT EXECUTE ON FUNCTION public.audit_outbox_prune(integer, integer) TO :"forwarder";

-- The fence: marks are raised by its function only.
GRANT SELECT ON public.leasehold_fence_marks TO :"sweeper", :"forwarder";
GRANT EXECUTE ON FUNCTION public.leasehold_admit(text, bigint, uuid) TO :"sweeper", :"forwarder";
-- Who leads (M-2): read and set by their functions only.
GRANT EXECUTE ON FUNCTION public.leasehold_home(text), public.leasehold_settle(text, text, text, text)
    TO :"sweeper", :"forwarder";
COMMIT;

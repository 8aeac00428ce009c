-- A role for canonical-ingest's database that may let events in, and nothing else. To be run by the tables' owner, after
-- the migration:
--   psql "$ADMIN_URL" -v ingest=leasehold_ingest -f roles.sql
-- It has no password yet: \password leasehold_ingest, or whatever the server authenticates by. May be run again.
\set ON_ERROR_STOP on
\if :{?ingest} \else \set ingest leasehold_ingest \endif
BEGIN;
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'ingest') AS is_new \gset
\if :is_new
    CREATE ROLE :"ingest" LOGIN;
\endif
GRANT USAGE ON SCHEMA public TO :"ingest";
-- Events are never changed; SELECT is what a repetition is found by.
GRANT SELECT, INSERT ON public.canonical_events TO :"ingest";
-- The fence: marks are raised by its function only.
GRANT SELECT ON public.leasehold_fence_marks TO :"ingest";
GRANT EXECUTE ON FUNCTION public.leasehold_admit(text, bigint, uuid) TO :"ingest";
COMMIT;

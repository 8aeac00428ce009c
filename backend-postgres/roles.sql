-- A role that may hold leases and be fenced, and nothing else. To be run by the tables' owner, after the migration:
--   psql "$ADMIN_URL" -v role=leasehold -v schema=public -f roles.sql
-- It has no password yet: \password leasehold, or whatever the server authenticates by. May be run again.
\set ON_ERROR_STOP on
\if :{?role} \else \set role leasehold \endif
\if :{?schema} \else \set schema public \endif
BEGIN;
SELECT NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') AS is_new \gset
\if :is_new
    CREATE ROLE :"role" LOGIN;
\endif
-- Statements that nobody waits for any more must not pile up behind a locked row; poolers may drop the same
-- setting when a connection asks for it.
ALTER ROLE :"role" SET lock_timeout = '1s';
GRANT USAGE ON SCHEMA :"schema" TO :"role";
GRANT SELECT ON :"schema".leasehold_schema TO :"role";
GRANT SELECT, INSERT, UPDATE ON :"schema".coordination_leases TO :"role";
GRANT SELECT, INSERT ON :"schema".coordination_lease_history TO :"role";
GRANT SELECT, USAGE ON SEQUENCE :"schema".leasehold_epochs TO :"role";
-- The fence: marks are raised by its function only.
GRANT SELECT ON :"schema".leasehold_fence_marks TO :"role";
GRANT EXECUTE ON FUNCTION :"schema".leasehold_admit(text, bigint, uuid) TO :"role";
COMMIT;

#!/usr/bin/env bash
# Through postgres_fdw, SKIP LOCKED does not skip and NOWAIT waits; neither is refused.
#
# `select ... for update skip locked` is how workers on PostgreSQL claim a job, and `... nowait` how one tries a lock.
# If the table is a foreign table of postgres_fdw (a shard, an old database that is being moved), FOR UPDATE does work:
# the rows are locked on the other server until the local transaction ends. One expects the same of the words behind
# it, or an error, as one gets for other things that a foreign table cannot do. postgres_fdw puts FOR UPDATE into the
# statement that it sends, leaves the other words away, and the local server does not apply them to foreign rows either.
#
# For leases: what never waits on a local table waits here for as long as the first worker holds its row, without a
# limit by default; all workers queue for the same row, and each of them holds its local transaction open meanwhile.
# The session's lock_timeout does not end that wait, because no lock is waited for on this side; statement_timeout does.
# Seen (PostgreSQL 15.20 on both sides): on the table: the other row, and an error for NOWAIT, both in milliseconds;
# on the foreign table: nothing for 2 s in both cases (lock_timeout 0.5 s, statement_timeout 2 s); the plan's remote
# statement ends in "FOR UPDATE".
# Source: PostgreSQL, contrib/postgres_fdw/deparse.c, deparseLockingClause (a comment says that NOWAIT is left out);
# nothing about it was found in the manual's page on postgres_fdw.
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

python_packages 'psycopg[binary]==3.3.9'
start_postgres

cat >"$work/observe.py" <<'PYTHON'
import sys
import time

import psycopg

URL, PORT = sys.argv[1:]
admin = psycopg.connect(URL, autocommit=True)
admin.execute("create table jobs (id int primary key)")
admin.execute("insert into jobs values (1), (2)")
admin.execute("create extension postgres_fdw")
other = f"options (host '127.0.0.1', port '{PORT}', dbname 'postgres')"
admin.execute(f"create server other foreign data wrapper postgres_fdw {other}")
admin.execute("create user mapping for postgres server other options (user 'postgres', password_required 'false')")
admin.execute("create foreign table foreign_jobs (id int) server other options (table_name 'jobs')")

first = psycopg.connect(URL)
first.execute("select id from jobs order by id limit 1 for update")


def second(table, words):
    """Another worker's attempt: its answer, or the error's name, within the 2 seconds that it is given."""
    begun = time.monotonic()
    with psycopg.connect(URL) as connection:
        connection.execute("set lock_timeout = 500")
        connection.execute("set statement_timeout = 2000")
        try:
            answer = connection.execute(f"select id from {table} order by id limit 1 for update {words}").fetchall()
        except psycopg.Error as error:
            answer = type(error).__name__
            connection.rollback()
    print(f"{table}, for update {words}: {answer} after {time.monotonic() - begun:.2f}s")
    return answer


seen = [second(table, words) for table in ("jobs", "foreign_jobs") for words in ("skip locked", "nowait")]
plan = admin.execute("explain verbose select id from foreign_jobs for update skip locked").fetchall()
remote = next(line for (line,) in plan if "Remote SQL" in line)
print(remote.strip())
if seen != [[(2,)], "LockNotAvailable", "QueryCanceled", "QueryCanceled"] or not remote.endswith("FOR UPDATE"):
    sys.exit("CHANGED: postgres_fdw no longer drops SKIP LOCKED and NOWAIT")
PYTHON
run 60 "$python" "$work/observe.py" "$pg_url" "$pg_port"

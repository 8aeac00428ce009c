#!/usr/bin/env bash
# PgBouncer's query_timeout "cancels" a statement, and the statement commits afterwards.
#
# The manual of PgBouncer 1.18.0 (Debian 12) says of query_timeout: "Queries running longer than that are canceled",
# and the client gets "query timeout". A reader expects what PostgreSQL's own statement_timeout does: the statement is
# cancelled, its transaction rolled back, nothing was written.
# PgBouncer sends no cancel request. It closes both connections; PostgreSQL's backend looks at its socket only when it
# has an answer to send, so it works on, commits, and only then finds nobody there.
#
# For leases: "query timeout" is an unknown outcome, never a failure. Whoever writes a lease, gets this error and starts
# over with another attempt has two attempts under way, and the older one can commit last. A time limit that does roll
# back must be PostgreSQL's (statement_timeout, below query_timeout).
# Seen: the client is told "query timeout" after 2.0 s; PostgreSQL shows the UPDATE as active; it commits after 5.0 s.
# Source: pgbouncer/pgbouncer issue 385 and pull request 497 (cancel before disconnecting; closed, not merged).
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

python_packages 'psycopg[binary]==3.3.9'
start_postgres pgbouncer=1.18.0-1+deb12u1 libc-ares2=1.18.1-3

pool_port=$(free_port)
cat >"$work/pgbouncer.ini" <<INI
[databases]
postgres = host=127.0.0.1 port=$pg_port user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $pool_port
unix_socket_dir =
auth_type = any
pool_mode = transaction
query_timeout = 2
INI
start pgbouncer.log "${unprivileged[@]}" "${with_debian[@]}" "$debian/usr/sbin/pgbouncer" "$work/pgbouncer.ini"
wait_for 20 "PgBouncer's port" listening "$pool_port"

cat >"$work/observe.py" <<'PYTHON'
import sys
import time

import psycopg

direct = psycopg.connect(sys.argv[1], autocommit=True)
direct.execute("create table lease (name text primary key, holder text)")
direct.execute("insert into lease values ('leader', 'nobody')")
pooled = psycopg.connect(sys.argv[2], autocommit=True, prepare_threshold=None)


def holder():
    return direct.execute("select holder from lease").fetchone()[0]


begun = time.monotonic()
try:
    pooled.execute("update lease set holder = 'me' from pg_sleep(5)")
    answer = "success"
except psycopg.Error as error:
    answer = str(error)
told, seen_then = time.monotonic() - begun, holder()
active = direct.execute("select count(*) from pg_stat_activity where query like 'update lease%' and state = 'active'")
active = active.fetchone()[0]
print(f"the client is told {answer!r} after {told:.1f}s; the holder is {seen_then}; statements at work: {active}")
while holder() != "me" and time.monotonic() - begun < 20:
    time.sleep(0.05)
print(f"{time.monotonic() - begun:.1f}s after the start the holder is {holder()}")
if "query timeout" not in answer or told > 4.5 or seen_then != "nobody" or active != 1 or holder() != "me":
    sys.exit("CHANGED: a statement over query_timeout does not commit after the error any more")
PYTHON
run 60 "$python" "$work/observe.py" "$pg_url" "postgresql://postgres@127.0.0.1:$pool_port/postgres"

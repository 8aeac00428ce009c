#!/usr/bin/env bash
# PgBouncer leaves a LISTEN behind on the server's connection, and another client gets the notifications.
#
# PgBouncer's feature map says "LISTEN/NOTIFY: Never" for transaction pooling. One expects a refusal, or a LISTEN that has
# no effect, or one that ends with its client. PgBouncer passes LISTEN on to whichever server connection is free, answers
# with success, and in transaction mode runs no server_reset_query when it lends that connection to somebody else. So the
# connection listens for as long as it lives, whoever uses it and whether the first client is still there. A notification
# that arrives while another client's transaction has the connection is that client's, which never asked for one;
# drivers that don't expect it fail the statement. One that arrives while the connection is idle makes PgBouncer close it.
#
# For leases: a standby that LISTENs for releases through such a pooler hears nothing, spoils other programs' connections,
# and goes on doing so after it has ended. Make certain that the session is your own before the first LISTEN: give a
# parameter a random value in the start-up packet and look for it in pg_settings, with the source "client".
# Seen (PgBouncer 1.18.0, PostgreSQL 15.20): the listener has disconnected; a later client's session listens on its
# channel, and that client gets "stray"; the parameter of its start-up packet is 0 from "default" through PgBouncer, as
# given from "client" without it.
# Source: pgbouncer/pgbouncer doc/features.md; go-pg/pg issue 1385 (a driver that fails).
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
default_pool_size = 1
ignore_startup_parameters = options
INI
start pgbouncer.log "${unprivileged[@]}" "${with_debian[@]}" "$debian/usr/sbin/pgbouncer" "$work/pgbouncer.ini"
wait_for 20 "PgBouncer's port" listening "$pool_port"

cat >"$work/observe.py" <<'PYTHON'
import sys

import psycopg

SERVER, POOLER = sys.argv[1:]
LOOK = "select setting || ' from ' || source from pg_settings where name = 'gin_fuzzy_search_limit'"


def connect(url, **more):
    return psycopg.connect(url, autocommit=True, prepare_threshold=None, **more)


def mark(url):
    with connect(url, options="-c gin_fuzzy_search_limit=1234567") as session:
        return session.execute(LOOK).fetchone()[0]


with connect(POOLER) as listener:
    listener.execute("listen released")
other, heard = connect(POOLER), []
other.add_notify_handler(lambda notification: heard.append(notification.payload))
listens = [channel for (channel,) in other.execute("select pg_listening_channels()")]
with other.transaction():
    other.execute("select 1")
    with connect(SERVER) as somebody:
        somebody.execute("notify released, 'stray'")
    other.execute("select pg_sleep(0.5)")
    other.execute("select 1")
print(f"another client's session listens on {listens}, and that client gets {heard}")
marks = mark(POOLER), mark(SERVER)
print(f"the start-up packet's parameter: through PgBouncer {marks[0]}; without it {marks[1]}")
if listens != ["released"] or heard != ["stray"] or marks != ("0 from default", "1234567 from client"):
    sys.exit("CHANGED: a LISTEN does not outlive its client in PgBouncer any more")
PYTHON
run 60 "$python" "$work/observe.py" "$pg_url" "postgresql://postgres@127.0.0.1:$pool_port/postgres"

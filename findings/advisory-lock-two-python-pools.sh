#!/usr/bin/env bash
# One statement, two Python pools for PostgreSQL, two opposite ways to lose a session's advisory lock.
#
# A job takes leadership by `select pg_try_advisory_lock(7)` through its connection pool and gets true. It would be
# reasonable to guess that the pool has no opinion: the lock belongs to the session, and the session stays open.
#
# asyncpg 0.32.0 resets a connection on its way back to the pool, and the reset unlocks all advisory locks. With the
# pool's own one-line calls (`pool.fetchval(...)`) that is before the caller sees the answer: it is told true, and
# another process is told true as well.
# psycopg_pool 3.3.3 resets nothing. The lock stays with the idle connection for as long as the pool keeps it: other
# processes are refused though nobody works, and the next borrower of that connection, who may be another thread of
# the same program, is told true, because a session may take its own lock again. The locks are counted, so one unlock
# by each borrower is needed, on that very connection, before another process gets it.
#
# For leases: a session-level lock is a lease only on a connection that is held for its whole life and never lent.
# Seen: asyncpg: true, other process true. psycopg_pool: true, second borrower true, other process false; after one
# unlock still false.
# Source: asyncpg, asyncpg/connection.py, Connection.get_reset_query; psycopg_pool, ConnectionPool: what is done on
# return beyond ending the transaction is the hook `reset`, which is none by default.
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

python_packages asyncpg==0.32.0 'psycopg[binary]==3.3.9' psycopg-pool==3.3.3
start_postgres

cat >"$work/observe.py" <<'PYTHON'
import asyncio
import sys

import asyncpg
import psycopg
import psycopg_pool

URL = sys.argv[1]
TAKE = "select pg_try_advisory_lock(7)"
UNLOCK = "select pg_advisory_unlock(7)"


def one(connection, statement):
    return connection.execute(statement).fetchone()[0]


async def with_asyncpg(other):
    async with asyncpg.create_pool(URL, min_size=1, max_size=1) as pool:
        return await pool.fetchval(TAKE), one(other, TAKE)


with psycopg.connect(URL, autocommit=True) as other:
    mine, theirs = asyncio.run(with_asyncpg(other))
    print(f"asyncpg: told {mine}; another process is told {theirs}")
    one(other, UNLOCK)

    with psycopg_pool.ConnectionPool(URL, min_size=1, max_size=1, open=True) as pool:
        with pool.connection() as connection:
            first = one(connection, TAKE)
        idle = one(other, TAKE)
        with pool.connection() as connection:
            second = one(connection, TAKE)
            one(connection, UNLOCK)
        after_one_unlock = one(other, TAKE)
    print(
        f"psycopg_pool: told {first}; returned to the pool, another process is told {idle}; the second borrower is "
        f"told {second}; after it has unlocked once another process is told {after_one_unlock}"
    )

if (mine, theirs) != (True, True) or (first, idle, second, after_one_unlock) != (True, False, True, False):
    sys.exit("CHANGED: the pools treat session locks differently now")
PYTHON
run 60 "$python" "$work/observe.py" "$pg_url"

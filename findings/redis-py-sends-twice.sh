#!/usr/bin/env bash
# redis-py as it comes sends a command again when the answer is late: a fence is raised twice, and a lock that was
# won is reported as lost.
#
# redis-py 8.1.0, `redis.Redis(...)` with no options: answers are waited for 5 s, and a time-out is retried up to 10
# times, for each command, whatever it does. Older engineers remember clients without a time limit and without
# retries; anyone would expect that a library which retries by itself leaves INCR and SET NX alone, since neither may
# be repeated blindly.
# Redis is single-threaded: one slow command makes every other client's answer late. What they had sent stays in the
# socket, is executed when the slow one ends, and is executed again from the retry's connection. Here a script of 7 s
# stands for any slow command (a large DEL, SORT or KEYS); busy-reply-threshold is raised so that it behaves like one.
#
# For leases: (1) `INCR fence` as the source of fencing tokens skips numbers, which is harmless only if nobody counts
# on density; (2) `SET lease TOKEN NX PX` and redis-py's own Lock.acquire() answer "taken" because of the client's own
# first attempt, so nobody works until the TTL has passed, and the token that would release it has been thrown away.
# Pass `retry=Retry(NoBackoff(), 0)` for what must not be repeated, and after a time-out read the key.
# Seen (server Redis 7.0.15, Debian 12): INCR on an absent key returns 2; Lock.acquire() returns False, yet the key
# holds this client's token and has its TTL; with retries off INCR raises TimeoutError, and the counter rises once.
# Source: redis/redis-py redis/_defaults.py and redis/client.py (retry=Retry(...) in the signature); the old issue 261
# describes the same doubling for an opt-in of 2012.
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

python_packages redis==8.1.0
start_redis --busy-reply-threshold 60000

cat >"$work/observe.py" <<'PYTHON'
import sys
import threading
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

PORT = int(sys.argv[1])
BUSY = """
local function now() local t = redis.call('TIME'); return t[1] * 1000 + t[2] / 1000 end
local over = now() + ARGV[1]
repeat until now() >= over
"""

# Only this client, which asks for the slow script and looks afterwards, has options.
admin = redis.Redis(port=PORT, socket_timeout=60)


class Slow:
    """The server is kept busy by somebody's script."""

    def __enter__(self):
        self.thread = threading.Thread(target=admin.eval, args=(BUSY, 0, 7000))
        self.thread.start()
        time.sleep(0.3)

    def __exit__(self, *exception):
        self.thread.join()
        time.sleep(0.5)


client = redis.Redis(port=PORT)
client.ping()
with Slow():
    fence = client.incr("fence")
print(f"INCR on an absent key returned {fence}")

lock = client.lock("lease", timeout=30, blocking=False)
with Slow():
    acquired = lock.acquire()
left = admin.pttl("lease")
print(f"Lock.acquire() returned {acquired}; the key exists: {admin.exists('lease') == 1}, for another {left / 1000:.0f}s")

once = redis.Redis(port=PORT, retry=Retry(NoBackoff(), 0))
once.ping()
with Slow():
    try:
        answer = once.incr("counted once")
    except redis.exceptions.TimeoutError:
        answer = "TimeoutError"
print(f"with retries off INCR ended with {answer}; the counter is {int(admin.get('counted once'))}")

if fence != 2 or acquired or left < 10_000 or answer != "TimeoutError" or int(admin.get("counted once")) != 1:
    sys.exit("CHANGED: redis-py no longer repeats INCR and SET NX by default")
PYTHON
run 100 "$python" "$work/observe.py" "$redis_port"

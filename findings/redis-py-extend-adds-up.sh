#!/usr/bin/env bash
# redis-py's Lock.extend(10), called as a heartbeat, makes a lock that outlives its dead holder by minutes.
#
# In most lease APIs a renewal sets the remaining time anew (etcd's keep-alive, Redisson's watchdog, Redlock's extend
# in Node), so a holder calls `lock.extend(10)` every few seconds and expects that its lock is gone 10 s after the last
# call. In redis-py 8.1.0 extend ADDS its argument to what is left, unless replace_ttl=True is passed. The remaining
# time grows with every beat; after an hour of beats each second with a ttl of 10 s, a crash leaves the lock held for
# nine more hours.
#
# For leases: the failure shows only when the holder dies, as an outage that grows with the uptime before it. Use
# `lock.reacquire()`, or extend(..., replace_ttl=True).
# Seen (server Redis 7.0.15, Debian 12): acquire(timeout=10), then 20 beats of extend(10), one each 0.1 s: 208 s left.
# The same with reacquire(): 10 s.
# Source: redis/redis-py redis/lock.py, the docstring of Lock.extend states the default.
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

python_packages redis==8.1.0
start_redis

cat >"$work/observe.py" <<'PYTHON'
import sys
import time

import redis

client = redis.Redis(port=int(sys.argv[1]))


def left_after_beats(name, beat):
    lock = client.lock(name, timeout=10)
    lock.acquire()
    for _ in range(20):
        time.sleep(0.1)
        beat(lock)
    return client.pttl(name) / 1000


extended = left_after_beats("extended", lambda lock: lock.extend(10))
reacquired = left_after_beats("reacquired", lambda lock: lock.reacquire())
print(f"after 20 beats in some 2s: {extended:.0f}s left by extend(10), {reacquired:.0f}s by reacquire()")
if extended < 190 or not 8 < reacquired <= 10:
    sys.exit("CHANGED: Lock.extend() no longer adds up")
PYTHON
run 60 "$python" "$work/observe.py" "$redis_port"

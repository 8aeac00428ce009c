#!/usr/bin/env bash
# A holder of Redisson's fenced lock makes its own token stale by entering the lock once more.
#
# A fencing token rises with each change of the holder, so that a store can refuse the writes of an earlier one. A
# fenced lock is also reentrant: a method that holds it may call another one that takes it. One expects that the token
# stays for as long as the lock is held, as Hazelcast's FencedLock, the model of it, documents for a reentrant acquire.
# Redisson counts up at each acquire, also at a nested one, also by the plain lock() of a helper that never asks for a
# token. The lock did not change hands, its holder's token is no longer the newest.
#
# For leases: after a nested call that wrote with its newer token, the store refuses the rest of the outer one, whose
# lock is valid: it sees "superseded" and looks for a second leader that never was. Reading the token anew before each
# write (getToken) is no way out: that reads the counter, whoever raised it, so a holder that was really superseded
# gets its successor's token and passes. A token belongs to the term, not to the call.
# Seen (Redisson 4.7.0, Redis 7.0.15): outer token 1, nested token 2, still held by the same thread; the store, which
# refuses anything lower than it has seen, refuses the outer write. After the end of a lease of 1 s and another
# client's acquire, the first one's getToken() is the other one's token.
# Source: Redisson, RedissonFencedLock.tryLockInnerAsync (incr in both branches); no issue about it was found.
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

jars=$work/jars
java_packages "$jars" org.redisson:redisson:4.7.0 org.slf4j:slf4j-nop:2.0.17
start_redis
cat >"$work/Observe.java" <<'JAVA'
import java.util.concurrent.TimeUnit;
import org.redisson.Redisson;
import org.redisson.api.RedissonClient;
import org.redisson.config.Config;

public class Observe {
    /** A store that is fenced as the textbook says: a token lower than one that was seen is refused. */
    static long highest = 0;

    static boolean write(long token) {
        if (token < highest) return false;
        highest = token;
        return true;
    }

    static RedissonClient connect(String port) {
        var config = new Config();
        config.useSingleServer().setAddress("redis://127.0.0.1:" + port)
            .setConnectionMinimumIdleSize(1).setConnectionPoolSize(4);
        return Redisson.create(config);
    }

    public static void main(String[] arguments) throws Exception {
        var lock = connect(arguments[0]).getFencedLock("leader");
        long outer = lock.lockAndGetToken();
        boolean before = write(outer);
        long nested = lock.lockAndGetToken();
        boolean inside = write(nested);
        lock.unlock();
        boolean after = write(outer);
        boolean held = lock.isHeldByCurrentThread();
        System.out.println("outer token " + outer + ", write: " + before + "; nested token " + nested + ", write: "
            + inside + "; outer again, write: " + after + ", lock held: " + held);
        lock.lock();
        long plain = lock.getToken();
        lock.unlock();
        System.out.println("after a nested lock() the token is " + plain);
        lock.unlock();

        long mine = lock.tryLockAndGetToken(1, 1, TimeUnit.SECONDS);
        long theirs = connect(arguments[0]).getFencedLock("leader").tryLockAndGetToken(20, 60, TimeUnit.SECONDS);
        long read = lock.getToken();
        System.out.println("my token was " + mine + ", my successor's is " + theirs + ", my getToken() says " + read);
        if (!before || !inside || after || !held || nested != outer + 1 || plain != nested + 1 || read != theirs) {
            System.out.println("CHANGED: a nested acquire keeps the token of the lock now");
            System.exit(1);
        }
        System.exit(0);
    }
}
JAVA
run_java 120 "$work/Observe.java" "$redis_port"

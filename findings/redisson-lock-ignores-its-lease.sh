#!/usr/bin/env bash
# Redisson's lockAndGetToken(2, SECONDS) takes a fenced lock without an end, although an end was asked for.
#
# A lock of Redisson without a lease time is renewed by a watchdog for as long as the process lives; one with a lease
# time ends by itself. That is the first thing one learns about it, and RFencedLock's documentation shows this very
# call with "automatically unlock it after 10 seconds". One expects that a thread which took it for 2 s and then died
# or forgot to unlock blocks the others for 2 s. The two arguments are dropped: lockAndGetToken(leaseTime, unit) calls
# the method without arguments, which starts the watchdog. tryLockAndGetToken(wait, lease, unit) keeps them.
#
# For leases: the bound that was chosen so that nobody has to be asked for the lock is gone, silently, and only in this
# variant; a test that looks at the token, or unlocks in time, does not notice. After taking a lease, ask the store how
# long it lasts (remainTimeToLive).
# Seen (Redisson 4.7.0, Redis 7.0.15, a watchdog of 9 s to be quick): by tryLockAndGetToken 2 s are left, and another
# client gets the lock then; by lockAndGetToken 9 s are left, and another client does not get it within 12 s, although
# the thread that took it has ended.
# Source: Redisson, RedissonFencedLock.lockAndGetToken(long, TimeUnit) and lockAndGetTokenAsync(); found by running it,
# no issue about it was found.
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

jars=$work/jars
java_packages "$jars" org.redisson:redisson:4.7.0 org.slf4j:slf4j-nop:2.0.17
start_redis
cat >"$work/Observe.java" <<'JAVA'
import java.util.concurrent.Callable;
import java.util.concurrent.FutureTask;
import java.util.concurrent.TimeUnit;
import org.redisson.Redisson;
import org.redisson.api.RFencedLock;
import org.redisson.api.RedissonClient;
import org.redisson.config.Config;

public class Observe {
    static RedissonClient connect(String port) {
        var config = new Config();
        config.setLockWatchdogTimeout(9_000);
        config.useSingleServer().setAddress("redis://127.0.0.1:" + port)
            .setConnectionMinimumIdleSize(1).setConnectionPoolSize(4);
        return Redisson.create(config);
    }

    /** Takes the lock for 2 s in a thread that ends without unlocking; the milliseconds that Redis says are left. */
    static long take(RFencedLock lock, Callable<Long> call) throws Exception {
        var task = new FutureTask<Long>(() -> call.call() == null ? -1 : lock.remainTimeToLive());
        var thread = new Thread(task);
        thread.start();
        thread.join();
        return task.get();
    }

    public static void main(String[] arguments) throws Exception {
        var holder = connect(arguments[0]);
        var other = connect(arguments[0]);
        var tried = holder.getFencedLock("tried");
        var locked = holder.getFencedLock("locked");
        long triedLeft = take(tried, () -> tried.tryLockAndGetToken(1, 2, TimeUnit.SECONDS));
        long lockedLeft = take(locked, () -> locked.lockAndGetToken(2, TimeUnit.SECONDS));
        boolean triedFree = other.getFencedLock("tried").tryLock(12, TimeUnit.SECONDS);
        boolean lockedFree = other.getFencedLock("locked").tryLock(12, TimeUnit.SECONDS);
        System.out.println("tryLockAndGetToken(1, 2, SECONDS): " + triedLeft + " ms are left; another client gets it: "
            + triedFree);
        System.out.println("lockAndGetToken(2, SECONDS): " + lockedLeft + " ms are left; another client gets it within "
            + "12 s: " + lockedFree);
        if (triedLeft > 2_000 || !triedFree || lockedLeft <= 2_000 || lockedFree) {
            System.out.println("CHANGED: lockAndGetToken keeps its lease time now");
            System.exit(1);
        }
        System.exit(0);
    }
}
JAVA
run_java 120 "$work/Observe.java" "$redis_port"

#!/usr/bin/env bash
# Curator's InterProcessMutex.acquire() succeeds in microseconds although the session is lost and somebody else holds
# the lock.
#
# Everybody knows that a lock may be lost while one *believes* to hold it, and that Curator wants a listener for that.
# But `acquire()` is the question itself, so a careful worker that calls acquire() before each piece of work expects
# that at least this call asks ZooKeeper: it should wait for the other holder, or fail. The mutex is reentrant, and
# reentrance is decided from a map of threads in the process. A thread that has not released gets true without any
# request, also when its session has expired, its node is gone, the client has reconnected with a new session, and
# another process has acquired the lock meanwhile.
#
# For leases: reentrance plus expiry is unsafe by construction: "I asked again and got it" says nothing. A renewal has
# to be a write which the store answers.
# Seen (Curator 5.9.0, ZooKeeper 3.9.4): the session ends, the other client acquires, the first reconnects with another
# session; acquire(2 s) returns true after some 10 microseconds; its node does not exist; both hold the lock.
# Source: Curator, InterProcessMutex.internalLock (threadData); its documentation recommends a listener for SUSPENDED
# and LOST.
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

start_zookeeper

cat >"$work/Observe.java" <<'JAVA'
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.retry.RetryOneTime;
import org.apache.zookeeper.ZooKeeper;

public class Observe {
    static final String LOCK = "/jobs/leader";

    static CuratorFramework connect(String address) throws Exception {
        var client = CuratorFrameworkFactory.newClient(address, 10_000, 10_000, new RetryOneTime(100));
        client.start();
        if (!client.blockUntilConnected(30, TimeUnit.SECONDS)) throw new Exception("no connection");
        return client;
    }

    static long session(CuratorFramework client) throws Exception {
        return client.getZookeeperClient().getZooKeeper().getSessionId();
    }

    public static void main(String[] arguments) throws Exception {
        var first = connect(arguments[0]);
        var second = connect(arguments[0]);
        var firstMutex = new InterProcessMutex(first, LOCK);
        var secondMutex = new InterProcessMutex(second, LOCK);
        firstMutex.acquire();
        String node = LOCK + "/" + first.getChildren().forPath(LOCK).get(0);

        // Ends the first client's session at the server, as an expiry does: a handle of the same session is closed.
        var handle = first.getZookeeperClient().getZooKeeper();
        long lost = handle.getSessionId();
        var twin = new ZooKeeper(arguments[0], 10_000, event -> {}, lost, handle.getSessionPasswd());
        long limit = System.nanoTime() + TimeUnit.SECONDS.toNanos(20);
        while (!twin.getState().isConnected() && System.nanoTime() < limit) Thread.sleep(20);
        twin.close();

        boolean other = secondMutex.acquire(20, TimeUnit.SECONDS);
        System.out.println("the session has ended; the second client acquires: " + other);
        while ((!first.getZookeeperClient().isConnected() || session(first) == lost) && System.nanoTime() < limit) {
            Thread.sleep(20);
        }
        System.out.println("the first client has a new session: " + (session(first) != lost));
        long begun = System.nanoTime();
        boolean again = firstMutex.acquire(2, TimeUnit.SECONDS);
        long micros = (System.nanoTime() - begun) / 1000;
        boolean exists = first.checkExists().forPath(node) != null;
        boolean stillOther = secondMutex.isAcquiredInThisProcess() && first.getChildren().forPath(LOCK).size() == 1;
        System.out.println("its acquire() returns " + again + " after " + micros + " us; its node exists: " + exists
            + "; the second client's node is the only one: " + stillOther);
        if (!other || !again || exists || !stillOther || session(first) == lost || micros > 50_000) {
            System.err.println("CHANGED: acquire() now notices the lost session");
            System.exit(1);
        }
        System.exit(0);
    }
}
JAVA
run_java 90 "$work/Observe.java" "$zookeeper"

#!/usr/bin/env bash
# The sequence number in a Curator lock's node falls back to 0 a minute after the lock was last used.
#
# ZooKeeper's sequential nodes are the textbook source of fencing tokens: each lock request gets a greater number than
# all before it. Apache Curator's InterProcessMutex makes such a node for each request
# (".../leader/_c_<uuid>-lock-0000000007"), so the number at its end looks like a token that only grows.
# The number is counted in the parent node. Curator makes the parent as a *container*, and ZooKeeper deletes a container
# as soon as it has no children and its cleaner comes by (each minute). The next request makes a new parent, whose count
# begins at 0. No fault, no restart and no operator is involved: an idle minute is enough.
#
# For leases: a resource that has admitted token 2 refuses every holder after the idle minute (or, after enough
# requests, admits an old one beside a new one). The node's czxid, a transaction id of the whole ensemble, does grow.
# Seen (Curator 5.9.0, ZooKeeper 3.9.4, cleaner's interval set from 60 s to 2 s): numbers 0, 1, 2; the parent is
# deleted; then 0 again. The czxid rises throughout.
# Source: ZooKeeper Programmer's Guide, "Container Nodes"; Curator, LockInternals and StandardLockInternalsDriver
# (creatingParentContainersIfNeeded).
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

start_zookeeper -Dznode.container.checkIntervalMs=2000

cat >"$work/Observe.java" <<'JAVA'
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.retry.RetryOneTime;

public class Observe {
    static final String LOCK = "/jobs/leader";

    /** Shows the name of the lock's node, which subclasses may read. */
    static class Mutex extends InterProcessMutex {
        Mutex(CuratorFramework client) {
            super(client, LOCK);
        }

        String node() {
            return getLockPath();
        }
    }

    public static void main(String[] arguments) throws Exception {
        var client = CuratorFrameworkFactory.newClient(arguments[0], 10_000, 10_000, new RetryOneTime(100));
        client.start();
        if (!client.blockUntilConnected(30, TimeUnit.SECONDS)) throw new Exception("no connection");
        List<Integer> numbers = new ArrayList<>();
        long created = 0;
        boolean createdRises = true;
        for (int turn = 0; turn < 4; turn++) {
            if (turn == 3) {
                long limit = System.nanoTime() + TimeUnit.SECONDS.toNanos(40);
                while (client.checkExists().forPath(LOCK) != null && System.nanoTime() < limit) Thread.sleep(50);
                System.out.println("idle; the parent exists: " + (client.checkExists().forPath(LOCK) != null));
            }
            var mutex = new Mutex(client);
            mutex.acquire();
            String node = mutex.node();
            numbers.add(Integer.parseInt(node.substring(node.lastIndexOf('-') + 1)));
            long czxid = client.checkExists().forPath(node).getCzxid();
            createdRises &= czxid > created;
            created = czxid;
            System.out.println("acquired with number " + numbers.get(turn) + ", created in transaction " + czxid);
            mutex.release();
        }
        client.close();
        if (!numbers.equals(List.of(0, 1, 2, 0)) || !createdRises) {
            System.err.println("CHANGED: the numbers no longer start again");
            System.exit(1);
        }
    }
}
JAVA
run_java 90 "$work/Observe.java" "$zookeeper"

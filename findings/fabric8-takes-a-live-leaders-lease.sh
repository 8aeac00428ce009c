#!/usr/bin/env bash
# fabric8's Java client for Kubernetes takes the lease of a live leader whose clock is behind, unlike client-go.
#
# client-go ignores the times in a Lease: a candidate measures by its own clock for how long the record has not changed,
# so clocks may be an hour apart; its package comment says so. fabric8's leader election, which Java operators use, has
# the same parameters, the same names and the same record on the same object, so one expects the same rule. But its
# candidate takes the lease if the record's renewTime + leaseDuration is before its own wall clock, at its first look.
# With the usual 15 s, a leader whose clock is more than 15 s behind the candidate's loses the lease while it renews it
# twice a second.
#
# For leases: a leader that did everything right is followed while it leads, until its next renewal tells it so; and one
# that dies with a clock that was ahead is followed that much later. The times in a record are for people to read.
# Seen (kubernetes-client 8.0.0, its own mock API server): with equal clocks the candidate waits; with the holder's
# clock 16 s behind it leads at once, less than a second after the holder's latest successful renewal.
# Source: fabric8io/kubernetes-client LeaderElector.canBecomeLeader; issue 7160 (about leaseDuration in the same line)
# is closed, no issue about the clocks was found. client-go tools/leaderelection, package comment.
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

jars=$work/jars
java_packages "$jars" io.fabric8:kubernetes-client:8.0.0 io.fabric8:kubernetes-server-mock:8.0.0 \
    org.slf4j:slf4j-nop:2.0.17
cat >"$work/Observe.java" <<'JAVA'
import io.fabric8.kubernetes.api.model.coordination.v1.LeaseBuilder;
import io.fabric8.kubernetes.client.KubernetesClient;
import io.fabric8.kubernetes.client.KubernetesClientException;
import io.fabric8.kubernetes.client.extended.leaderelection.LeaderCallbacks;
import io.fabric8.kubernetes.client.extended.leaderelection.LeaderElectionConfigBuilder;
import io.fabric8.kubernetes.client.extended.leaderelection.resourcelock.LeaseLock;
import io.fabric8.kubernetes.client.server.mock.KubernetesCrudDispatcher;
import io.fabric8.kubernetes.client.server.mock.KubernetesMockServer;
import io.fabric8.mockwebserver.Context;
import io.fabric8.mockwebserver.MockWebServer;
import java.time.Duration;
import java.time.ZoneOffset;
import java.time.ZonedDateTime;
import java.util.HashMap;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.logging.Level;
import java.util.logging.Logger;

public class Observe {
    static final Logger QUIET = Logger.getLogger("io.fabric8.mockwebserver");
    static KubernetesClient client;

    /** Renews a lease twice a second as its holder, until somebody else holds it or the time is over. */
    static class Holder extends Thread {
        final String name;
        final long behind;
        volatile long renewed;
        volatile String successor;

        Holder(String name, long behind) {
            this.name = name;
            this.behind = behind;
            client.leases().inNamespace("default").resource(new LeaseBuilder()
                .withNewMetadata().withName(name).endMetadata()
                .withNewSpec().withHolderIdentity("holder").withLeaseDurationSeconds(15).withLeaseTransitions(0)
                .withAcquireTime(clock()).withRenewTime(clock()).endSpec().build()).create();
            setDaemon(true);
            start();
        }

        ZonedDateTime clock() {
            return ZonedDateTime.now(ZoneOffset.UTC).minusSeconds(behind);
        }

        @Override
        public void run() {
            while (successor == null) {
                var lease = client.leases().inNamespace("default").withName(name).get();
                if (!"holder".equals(lease.getSpec().getHolderIdentity())) {
                    successor = lease.getSpec().getHolderIdentity();
                    return;
                }
                lease.getSpec().setRenewTime(clock());
                try {
                    client.leases().inNamespace("default").resource(lease).update();
                    renewed = System.nanoTime();
                    Thread.sleep(500);
                } catch (KubernetesClientException conflict) {
                    System.out.println("the holder's renewal: " + conflict.getStatus().getReason());
                } catch (InterruptedException e) {
                    return;
                }
            }
        }
    }

    /** A candidate with client-go's usual figures: true if it leads within 7 seconds. */
    static boolean takes(Holder holder) throws Exception {
        while (holder.renewed == 0) Thread.sleep(20);
        var leads = new CountDownLatch(1);
        var age = new long[1];
        var election = client.leaderElector().withConfig(new LeaderElectionConfigBuilder()
            .withName("candidate").withLock(new LeaseLock("default", holder.name, "candidate"))
            .withLeaseDuration(Duration.ofSeconds(15)).withRenewDeadline(Duration.ofSeconds(10))
            .withRetryPeriod(Duration.ofSeconds(2))
            .withLeaderCallbacks(new LeaderCallbacks(() -> {
                age[0] = System.nanoTime() - holder.renewed;
                leads.countDown();
            }, () -> {}, leader -> {})).build()).build().start();
        boolean taken = leads.await(7, TimeUnit.SECONDS);
        if (taken) {
            holder.join(5_000);
            System.out.println("the candidate leads, " + age[0] / 1_000_000 + " ms after the holder's latest renewal; "
                + "the holder finds in its lease: " + holder.successor);
        } else {
            System.out.println("the candidate waits");
        }
        election.cancel(true);
        return taken && "candidate".equals(holder.successor) && age[0] < TimeUnit.SECONDS.toNanos(5);
    }

    public static void main(String[] arguments) throws Exception {
        QUIET.setLevel(Level.OFF);
        var server = new KubernetesMockServer(new Context(), new MockWebServer(), new HashMap<>(),
            new KubernetesCrudDispatcher(List.of()), false);
        server.init();
        client = server.createClient();
        System.out.print("equal clocks: ");
        boolean control = takes(new Holder("equal", 0));
        System.out.print("the holder's clock is 16 s behind: ");
        boolean taken = takes(new Holder("behind", 16));
        if (control || !taken) {
            System.out.println("CHANGED: a candidate no longer judges another's lease by wall clocks");
            System.exit(1);
        }
        System.exit(0);
    }
}
JAVA
run_java 120 "$work/Observe.java"

#!/usr/bin/env bash
# An etcd that restarts every few seconds never lets a dead holder's lease expire, also with LeaseCheckpoint, the
# feature against just that, switched on.
#
# etcd judges the expiry of leases by the leader's memory, so a restart or an election gives each lease its whole ttl
# anew. That is known; lease checkpointing (a flag since 3.4, now the feature gates LeaseCheckpoint and
# LeaseCheckpointPersist) is there so that what was left of a ttl survives. With both on one expects that a lease of 5 s
# is gone some 5 s after its holder's death, restarts or not.
# What is left is written down every 5 minutes only (a constant; the flag for it is not offered), and for a lease that
# has more than that left. The ttl of a lease for leader election is nearly always below that: nothing is ever written
# for it, and the gates change nothing.
#
# For leases: while etcd crash-loops or elects again and again nobody takes over from a dead holder. Expiry must be
# judged by the candidate's own clock if it has to survive the store's trouble (this project: T-2; etcd's leases are not
# used). Lower bounds still hold: nothing is taken too early.
# Seen (etcd 3.7.3, both gates on): a lease of 5 s, never renewed, with a restart every 3 s: there after 15 s and more,
# each time with its whole ttl; without a further restart it goes after 5 s.
# Source: etcd server/lease/lessor.go, defaultLeaseCheckpointInterval and scheduleCheckpointIfNeeded;
# server/features/etcd_features.go says "long lived leases" of the second gate only; etcd-io/etcd issue 9888 and pull
# request 9924, where the five minutes are named.
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

build_etcd
etcdctl=$work/go/etcdctl
start_with_gates() { start_etcd --feature-gates=LeaseCheckpoint=true,LeaseCheckpointPersist=true; }

start_with_gates
lease=$("$etcdctl" lease grant 5 | awk '{print $2}')
"$etcdctl" put --lease="$lease" leader "a holder that died" >/dev/null
begun=$SECONDS
present() { [[ -n $("$etcdctl" get leader) ]]; }

for restart in {1..5}; do
    sleep 3
    kill -KILL "${started[-1]}"
    wait "${started[-1]}" 2>/dev/null || true
    start_with_gates
    present || changed "the key was gone after restart $restart"
    left=$("$etcdctl" lease timetolive "$lease")
    echo "restart $restart, $((SECONDS - begun)) s after the last sign of life: ${left#lease "$lease" }"
done
((SECONDS - begun >= 15)) || unusable "the restarts took less time than planned"
left_at=$SECONDS
while present && ((SECONDS - left_at < 20)); do sleep 0.2; done
present && changed "the key does not expire without restarts either"
echo "gone $((SECONDS - left_at)) s after the last restart"

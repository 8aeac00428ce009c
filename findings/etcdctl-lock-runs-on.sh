#!/usr/bin/env bash
# `etcdctl lock NAME COMMAND` lets the command run on after the lock is lost, and both runs end with exit code 0.
#
# `etcdctl lock` with a command is the usual way to run a cron job once in a cluster. From its likes (`consul lock`,
# which ends the child) one expects that the command is stopped, or at least that the exit code tells, when the lease
# behind the lock is gone: after a network cut longer than the ttl, a long pause, or a revocation.
# etcdctl 3.7.3 starts the command and then only waits for it. The lease is not looked at again; at the end the lock's
# key is deleted, which is no error if it is gone. (Without a command it does end.)
#
# For leases: two runs overlap and both report success, so nobody learns of it. A wrapper for programs must end the
# program before the lease can have passed to another (this project's `leasehold run`: rule G-1).
# Seen (etcd and etcdctl 3.7.3): A begins; its lease is revoked; B acquires and runs while A works; A ends with exit
# code 0 and no message.
# Source: etcd etcdctl/ctlv3/command/lock_command.go, lockUntilSignal.
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

build_etcd
start_etcd
etcdctl=$work/go/etcdctl
cd "$work"
mkfifo finish

# A's command works until it is let go; it says what it has done.
start a.log bash -c '"$0" lock job --ttl 5 -- bash -c "echo A begins; read -r < finish; echo A has worked on"; echo "A exits with $?"' \
    "$etcdctl"
wait_for 20 "A to hold the lock" grep -q "A begins" a.log
lease=$("$etcdctl" lease list | tail -n 1)
"$etcdctl" lease revoke "$lease" >/dev/null

b=$(timeout 30 "$etcdctl" lock job --ttl 5 -- bash -c "grep -q 'A has worked on' '$work/a.log' || echo B runs while A is at work") ||
    changed "B did not acquire the lock after A's lease was revoked"
echo "$b"
# As long again as the lease's ttl, for A to notice.
sleep 6
timeout 5 bash -c 'echo go > finish' || changed "A's command was ended"
wait_for 20 "A's end" grep -q "A exits" a.log
cat a.log
[[ $b == "B runs while A is at work" ]] || changed "B did not run beside A"
[[ $(cat a.log) == $'A begins\nA has worked on\nA exits with 0' ]] || changed "A noticed that its lock was lost"

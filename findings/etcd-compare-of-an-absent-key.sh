#!/usr/bin/env bash
# In etcd neither `value(key) = x` nor `value(key) != x` holds for a key that does not exist, though the compares of
# its version and revision do.
#
# A candidate writes its name if the lease is not another's: If(value(lock) != "other").Then(Put(lock, me)). For an
# absent key one expects that to hold (nothing is not "other") or, if absence counted as the empty string, that one of
# `= ""` and `!= ""` does. For the other targets an absent key does compare: as version 0 and revision 0.
# For the target VALUE etcd answers "fails", whatever the operator: a negation is not the opposite here.
#
# For leases: "not held by another" by value never acquires a lock that was deleted or never made: an outage that shows
# only after a deletion. The Else branch, written for "another holds it", is taken while nobody does.
# Compare create_revision = 0 for absence, in a transaction of its own or nested in Else.
# Seen (etcd 3.7.3): value = "x": fails; value != "x": fails; value < "x", value > "x": fail; version = 0: succeeds;
# mod_revision < 1: succeeds; with the key present, value != "x" succeeds.
# Source: etcd server/etcdserver/txn/txn.go, applyCompare, where a comment gives the reason: the protocol's messages
# can't tell a missing value from an empty one.
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

build_etcd
start_etcd

holds() {
    local answer
    answer=$(timeout 20 "$work/go/etcdctl" txn <<<"$1"$'\n\nget none\n\nget none\n')
    echo "${answer%%$'\n'*}"
}
check() {
    local seen
    seen=$(holds "$1")
    echo "$1: $seen"
    [[ $seen == "$2" ]] || changed "$1 gives $seen, not $2"
}
check 'value("lock") = "x"' FAILURE
check 'value("lock") != "x"' FAILURE
check 'value("lock") < "x"' FAILURE
check 'value("lock") > "x"' FAILURE
check 'ver("lock") = "0"' SUCCESS
check 'mod("lock") < "1"' SUCCESS
"$work/go/etcdctl" put lock me >/dev/null
echo "the key is written:"
check 'value("lock") != "x"' SUCCESS

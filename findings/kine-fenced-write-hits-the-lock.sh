#!/usr/bin/env bash
# On kine, the textbook fenced write of etcd overwrites the lock instead of the data, and says that it succeeded.
#
# With etcd one fences an effect by comparing the lock's key in the transaction that writes the data:
#     If(mod_revision(lock) == R).Then(Put(data, v)).Else(Get(lock))
# kine (the etcd shim that K3s runs on SQLite, PostgreSQL, ...) takes only the few transaction shapes that the
# Kubernetes API server sends, and says so in its README. One expects that other shapes are refused, as most of them
# are. But the shape check looks at the kinds of the operations, not at their keys: a compare of one key with a put of
# another is taken for "update this key", with the compare's key and the put's value.
#
# For leases: every client that fences works without an error, destroys its own lease record on its first effect, and
# writes no data. The same for deletes (the revision is compared with the *deleted* key's) and for "create the data if
# there is no lock" (the lock is not looked at). Before trusting an "etcd-compatible" endpoint, write through it once
# and read back; kine can be told by cluster id 0 in its answers.
# Seen (kine 0.17.5 with its default SQLite, etcd client 3.7.3): succeeded=true; data is still "100", the lock now holds
# "90"; a delete under the right lock revision: succeeded=false; a create "if there is no lock": succeeded=true while
# there is one.
# Source: k3s-io/kine pkg/server/update.go (isUpdate), delete.go (isDelete), create.go (isCreate); found by running it,
# no issue about it was found.
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

go_packages github.com/k3s-io/kine@v0.17.5 go.etcd.io/etcd/client/v3@v3.7.3
cat >main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	etcd "go.etcd.io/etcd/client/v3"
)

const lock, data, other = "/app/lock", "/app/data", "/app/other"

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Println("CHANGED:", err)
		os.Exit(1)
	}
	return value
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := must(etcd.New(etcd.Config{Endpoints: []string{os.Args[1]}, DialTimeout: 10 * time.Second}))
	value := func(key string) string {
		kvs := must(client.Get(ctx, key)).Kvs
		if len(kvs) == 0 {
			return ""
		}
		return string(kvs[0].Value)
	}
	revision := func() int64 { return must(client.Get(ctx, lock)).Kvs[0].ModRevision }
	ifLock := func(revision int64) etcd.Txn {
		return client.Txn(ctx).If(etcd.Compare(etcd.ModRevision(lock), "=", revision))
	}

	must(ifLock(0).Then(etcd.OpPut(lock, "holder A")).Commit())
	cluster := must(client.Put(ctx, data, "100")).Header.ClusterId
	fmt.Println("cluster id:", cluster)
	put := must(ifLock(revision()).Then(etcd.OpPut(data, "90")).Else(etcd.OpGet(lock)).Commit()).Succeeded
	fmt.Printf("fenced put of data: succeeded=%v; data=%q, lock=%q\n", put, value(data), value(lock))
	changed := !put || value(data) != "100" || value(lock) != "90"

	del := must(ifLock(revision()).Then(etcd.OpDelete(data)).Else(etcd.OpGet(lock)).Commit()).Succeeded
	fmt.Printf("fenced delete of data, at the lock's revision: succeeded=%v; data=%q\n", del, value(data))
	create := must(ifLock(0).Then(etcd.OpPut(other, "written")).Commit()).Succeeded
	fmt.Printf("put if there is no lock, while there is one: succeeded=%v; other=%q\n", create, value(other))
	if cluster != 0 || changed || del || value(data) != "100" || !create || value(other) != "written" {
		fmt.Println("CHANGED: kine no longer mixes up the keys of a transaction")
		os.Exit(1)
	}
}
GO
go_build kine github.com/k3s-io/kine
go_build observe .

mkdir "$work/state"
cd "$work/state"
port=$(free_port)
start kine.log "$work/go/kine" --listen-address "http://127.0.0.1:$port" --metrics-bind-address 0
wait_for 30 "kine's port" listening "$port"
run 70 "$work/go/observe" "127.0.0.1:$port"

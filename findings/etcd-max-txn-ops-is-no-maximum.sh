#!/usr/bin/env bash
# etcd's --max-txn-ops=128 lets a transaction of 4,096 writes through and refuses one of 254.
#
# The flag's help says "maximum number of operations permitted in a transaction", 128 unless set, and a flat
# transaction of 129 puts is refused. To renew many leases in one request, each under a compare of its own, one nests
# a transaction for each, and expects the same bound: 128 operations in all, or 128 at each level. It is neither. Of
# the bound each level takes its own width off and hands what is left to *each* of its branches: n nested transactions
# may have 128 - n operations each. 64 nested ones of 64 puts pass: 4,096 writes in one atomic request and in one
# revision. 127 nested ones of two puts each are refused.
#
# For leases: how many renewals fit one request depends on the widest of them (two operations in a branch: 126 leases),
# not on the bound alone; and the flag protects nobody from huge transactions.
# Seen (etcd 3.7.3, etcd client 3.7.3): 128 flat: passes; 129 flat: "too many operations in txn request"; 64 x 64
# nested: passes, 4,096 keys with one revision; 127 nested of one put each and 126 of two: pass; 127 of two: refused.
# Source: etcd server/etcdserver/api/v3rpc/key.go, checkTxnRequest and checkRequestOp (maxTxnOps-opc).
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

build_etcd
cat >observe.go <<'GO'
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	etcd "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client, err := etcd.New(etcd.Config{Endpoints: []string{os.Args[1]}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		panic(err)
	}
	asExpected := true
	try := func(text string, passes bool, operations []etcd.Op) {
		_, err := client.Txn(ctx).Then(operations...).Commit()
		fmt.Printf("%s: %v\n", text, err)
		asExpected = asExpected && (err == nil) == passes && (passes || errors.Is(err, rpctypes.ErrTooManyOps))
	}
	puts := func(prefix string, count int) (operations []etcd.Op) {
		for i := range count {
			operations = append(operations, etcd.OpPut(fmt.Sprintf("%s/%d", prefix, i), "beat"))
		}
		return operations
	}
	nested := func(prefix string, count, each int) (operations []etcd.Op) {
		for i := range count {
			operations = append(operations, etcd.OpTxn(nil, puts(fmt.Sprintf("%s/%d", prefix, i), each), nil))
		}
		return operations
	}
	try("128 puts", true, puts("/a", 128))
	try("129 puts", false, puts("/b", 129))
	try("64 nested transactions of 64 puts each", true, nested("/c", 64, 64))
	try("127 nested transactions of 1 put each", true, nested("/d", 127, 1))
	try("126 nested transactions of 2 puts each", true, nested("/e", 126, 2))
	try("127 nested transactions of 2 puts each", false, nested("/f", 127, 2))
	written, err := client.Get(ctx, "/c/", etcd.WithPrefix(), etcd.WithKeysOnly())
	if err != nil {
		panic(err)
	}
	revisions := map[int64]bool{}
	for _, kv := range written.Kvs {
		revisions[kv.ModRevision] = true
	}
	fmt.Println("keys written by the 64 x 64:", written.Count, "in revisions:", len(revisions))
	if !asExpected || written.Count != 4096 || len(revisions) != 1 {
		fmt.Println("CHANGED: the bound counts otherwise now")
		os.Exit(1)
	}
}
GO
go_build observe ./observe.go
start_etcd
run 70 ./observe "$etcd"

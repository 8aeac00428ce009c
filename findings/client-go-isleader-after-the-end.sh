#!/usr/bin/env bash
# client-go's LeaderElector.IsLeader() stays true after leadership is lost, after OnStoppedLeading and after Run has
# returned, for ever.
#
# IsLeader is the method to ask from a request handler or a metric: "returns true if the last observed leader was this
# client". One expects that it is false once the elector itself has said that it no longer leads. It compares the last
# *observed* record's holder with its own name. When the API server can't be reached, nothing new is observed: the
# renewals fail, the deadline passes, OnStoppedLeading is called, Run returns, and IsLeader() is still true; nobody
# will ever observe anything again. Meanwhile another process leads.
#
# For leases: a question that others ask must be answered by a clock, not by the last message seen. (This project:
# `is_leader_now()` compares the time with the deadline at each call, T-1.)
# Seen (client-go 0.37.2, its own fake clientset as the API server): the first is cut off, stops, and its Run returns;
# the second leads; 3 s later IsLeader() is true for both.
# Source: kubernetes/client-go tools/leaderelection/leaderelection.go, IsLeader and Run; the sentence above is its whole
# documentation. (client-go issue 940 is a question about it.)
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

build_client_go_election
cat >observe.go <<'GO'
package main

import (
	"context"
	"fmt"
	"os"
	"time"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	first, second := candidate("first"), candidate("second")
	returned := make(chan struct{})
	go func() { first.Run(ctx); close(returned) }()
	<-first.started
	go second.Run(ctx)
	first.cutOff()
	<-first.stopped
	<-returned
	<-second.started
	time.Sleep(3 * time.Second)
	fmt.Println("OnStoppedLeading was called and Run has returned in the first; the second leads")
	fmt.Println("IsLeader: first", first.IsLeader(), "second", second.IsLeader())
	if !first.IsLeader() || !second.IsLeader() || ctx.Err() != nil {
		fmt.Println("CHANGED: IsLeader() now knows the end")
		os.Exit(1)
	}
}
GO
go_build observe .
run 80 ./observe

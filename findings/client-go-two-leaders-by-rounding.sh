#!/usr/bin/env bash
# client-go's leader election accepts a LeaseDuration of 2.9 s, writes 2 s, and so has two leaders at once.
#
# LeaseDuration, RenewDeadline and RetryPeriod are Go durations, and NewLeaderElector checks their relation:
# LeaseDuration > RenewDeadline > 1.2 * RetryPeriod. The first is what keeps two leaders apart: a leader that can't
# renew gives up after RenewDeadline, before a candidate may take over after LeaseDuration. One expects that what
# passes the check is safe, and that fractions are either kept or refused. The record carries whole seconds, cut off,
# and candidates wait for the record's seconds, not for the configured duration. With 2.9 s and 2.7 s the candidate
# takes over after 2 s, the old leader stops after 2.7 s.
#
# For leases: two leaders for up to a second, from a configuration that was validated and with perfect clocks. Use
# whole seconds; this project refuses a ttl with a fraction in mode k8s (K-2).
# Seen (client-go 0.37.2, its own fake clientset as the API server): the record says 2; once the leader is cut off, the
# other leads after 1.4 to 2.1 s, and the first stops after 2.7 s.
# Source: kubernetes/client-go tools/leaderelection/leaderelection.go, tryAcquireOrRenew
# (int(LeaseDuration/time.Second)) and isLeaseValid; the documentation of LeaseDuration has no word on seconds.
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
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	first, second := candidate("first"), candidate("second")
	go first.Run(ctx)
	<-first.started
	go second.Run(ctx)
	time.Sleep(time.Second)
	fmt.Println("both configured with 2.9s; the record says", recordedSeconds(ctx))
	first.cutOff()
	cut := time.Now()
	overlap := false
	select {
	case <-second.started:
		fmt.Printf("%.1fs after the cut the second leads\n", time.Since(cut).Seconds())
		overlap = true
		<-first.stopped
		fmt.Printf("%.1fs after the cut the first has stopped\n", time.Since(cut).Seconds())
	case <-first.stopped:
	case <-ctx.Done():
	}
	if recordedSeconds(ctx) != 2 || !overlap {
		fmt.Println("CHANGED: fractions of LeaseDuration no longer make two leaders")
		os.Exit(1)
	}
}
GO
go_build observe .
run 60 ./observe

#!/usr/bin/env bash
# In NATS' key-value store a lease that was created with a ttl never expires once it has been renewed.
#
# Since per-key ttls exist, a lease in JetStream's key-value store looks easy: kv.Create(key, me, KeyTTL(3s))
# acquires, because it fails if the key is there; kv.Update(key, me, revision) renews, because it compares the
# revision; and if the holder dies, the ttl frees the key. One expects that a renewal starts the ttl again, or that
# the first ttl goes on. The ttl belongs to the *message*, not to the key. Update writes a new message, has no option
# for a ttl, and so writes one that lives for ever; with a bucket that keeps one value per key the message with the
# ttl is gone at once. No call fails.
#
# For leases: everything works, the failover tests of an unrenewed lease too; the first holder that dies after a renewal
# keeps the lease until somebody deletes the key by hand. A renewal has to be published to the key's subject with both
# headers (the expected revision and the ttl), past the key-value API.
# Seen (nats-server 2.15.3, nats.go 1.55.0): a key created with 3 s and left alone is gone after 3 s; one that was
# updated after 1 s, and then left alone, is there 10 s after its update; one that was renewed by a message
# with both headers is gone 3 s after that.
# Source: nats-io/nats.go jetstream/kv.go, Update takes no options while Create takes KeyTTL; nats-server issue 6959
# (meant so, says a maintainer) and nats.go issue 1994 (open as a defect).
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

go_packages github.com/nats-io/nats-server/v2@v2.15.3 github.com/nats-io/nats.go@v1.55.0
cat >main.go <<'GO'
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

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
	s := must(server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: os.Args[1], NoSigs: true}))
	s.Start()
	defer s.Shutdown()
	if !s.ReadyForConnections(20 * time.Second) {
		panic("the server does not answer")
	}
	js := must(jetstream.New(must(nats.Connect(s.ClientURL()))))
	kv := must(js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: "leases", LimitMarkerTTL: time.Second}))

	ttl := jetstream.KeyTTL(3 * time.Second)
	begun := time.Now()
	must(kv.Create(ctx, "abandoned", []byte("holder"), ttl))
	published := must(kv.Create(ctx, "published", []byte("holder"), ttl))
	revision := must(kv.Create(ctx, "renewed", []byte("holder"), ttl))
	time.Sleep(time.Second)
	must(kv.Update(ctx, "renewed", []byte("holder"), revision))
	must(js.Publish(ctx, "$KV.leases.published", []byte("holder"),
		jetstream.WithExpectLastSequencePerSubject(published), jetstream.WithMsgTTL(3*time.Second)))
	updated := time.Now()

	gone := func(key string) bool {
		_, err := kv.Get(ctx, key)
		return errors.Is(err, jetstream.ErrKeyNotFound)
	}
	for !gone("abandoned") && time.Since(begun) < 20*time.Second {
		time.Sleep(50 * time.Millisecond)
	}
	after := time.Since(begun).Seconds()
	fmt.Printf("created with a ttl of 3s and left alone: gone after %.1fs\n", after)
	kept := !gone("published")
	for !gone("published") && time.Since(updated) < 10*time.Second {
		time.Sleep(50 * time.Millisecond)
	}
	renewedFor := time.Since(updated).Seconds()
	fmt.Printf("renewed after 1s by a message with both headers: gone %.1fs after it\n", renewedFor)
	for !gone("renewed") && time.Since(updated) < 10*time.Second {
		time.Sleep(100 * time.Millisecond)
	}
	fmt.Printf("updated after 1s and left alone: there %.0fs after its update: %v\n", time.Since(updated).Seconds(), !gone("renewed"))
	if after > 9 || !kept || renewedFor > 9 || gone("renewed") {
		fmt.Println("CHANGED: an update keeps the ttl now")
		os.Exit(1)
	}
}
GO
go_build observe .
run 70 ./observe "$work/jetstream"

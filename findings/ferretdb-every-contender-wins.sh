#!/usr/bin/env bash
# On FerretDB 1, all clients win the same compare-and-set: findAndModify reads with its filter and writes without it.
#
# The usual lease in MongoDB is one document and one command: findOneAndUpdate({_id, epoch: n}, {$set: {holder, epoch:
# n + 1}}). It is safe because a command on one document is atomic, which is what all of MongoDB's documentation on
# concurrency rests on. FerretDB answers the same protocol over SQLite or PostgreSQL, both of which could do this in
# one statement, so one expects the same, or that the command is refused like others that FerretDB lacks.
# FerretDB runs a query, applies the update in its own memory, and then writes the whole document back by _id. Nothing
# holds the document in between and the filter is not looked at again: whoever read the old document in time
# overwrites it, and is told that the old document was the one it has replaced.
#
# For leases: all contenders of a moment believe that they lead, with the same epoch, so a fence by epoch does not tell
# them apart either. A single client, and a test that tries one contender after the other, sees nothing wrong.
# Seen (FerretDB 1.24.2, its SQLite backend, MongoDB's driver for Go 1.17.9; 4 clients): of 100 elections 99 or
# all have several winners, 41 to 83 of them all four; a contender that comes later with the old epoch is refused.
# Source: FerretDB internal/handler/msg_findandmodify.go, internal/handler/common/update.go (UpdateDocument, then
# UpdateAll by _id; the same code serves the PostgreSQL backend). Found by running it. FerretDB 2 is another program.
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

go_packages github.com/FerretDB/FerretDB/ferretdb@v1.24.2 go.mongodb.org/mongo-driver@v1.17.9
cat >main.go <<'GO'
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/FerretDB/FerretDB/ferretdb"
	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
)

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Println("CHANGED:", err)
		os.Exit(1)
	}
	return value
}

// take is true if this contender was told that it has replaced the given epoch by the next one.
func take(ctx context.Context, leases *mongo.Collection, name string, epoch int) bool {
	filter := bson.M{"_id": "leader", "epoch": epoch}
	update := bson.M{"$set": bson.M{"holder": name, "epoch": epoch + 1}}
	err := leases.FindOneAndUpdate(ctx, filter, update).Err()
	if err != nil && !errors.Is(err, mongo.ErrNoDocuments) {
		must(0, err)
	}
	return err == nil
}

func main() {
	const elections, contenders = 100, 4
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	server := must(ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: "127.0.0.1:0"},
		Handler:   "sqlite",
		SQLiteURL: "file:" + os.Args[1] + "/",
		Logger:    slog.New(slog.NewTextHandler(io.Discard, nil)),
	}))
	go server.Run(ctx)
	var clients []*mongo.Collection
	for range contenders {
		client := must(mongo.Connect(ctx, options.Client().ApplyURI(server.MongoDBURI())))
		clients = append(clients, client.Database("app").Collection("leases"))
	}
	must(clients[0].InsertOne(ctx, bson.M{"_id": "leader", "epoch": 0, "holder": ""}))

	var unsafe, all, late int
	for epoch := range elections {
		var winners atomic.Int32
		var group sync.WaitGroup
		for i, leases := range clients {
			group.Go(func() {
				if take(ctx, leases, fmt.Sprint("contender ", i), epoch) {
					winners.Add(1)
				}
			})
		}
		group.Wait()
		if winners.Load() > 1 {
			unsafe++
		}
		if winners.Load() == contenders {
			all++
		}
		if take(ctx, clients[0], "late", epoch) {
			late++
		}
	}
	fmt.Printf("of %d elections among %d clients, %d had several winners, %d of them all %d\n",
		elections, contenders, unsafe, all, contenders)
	fmt.Printf("a contender that came later with the old epoch won %d times\n", late)
	if unsafe == 0 || late != 0 {
		fmt.Println("CHANGED: FerretDB's findAndModify compares and sets in one step now")
		os.Exit(1)
	}
}
GO
go_build observe .
mkdir "$work/state"
run 120 ./observe "$work/state"

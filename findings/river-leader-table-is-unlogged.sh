#!/usr/bin/env bash
# One killed backend of PostgreSQL, and River has two leaders: its lease is in a table that does not survive a crash.
#
# River (a job queue for Go in PostgreSQL) elects a leader by a row with a holder and an end, expires_at, 15 s ahead.
# Whoever keeps a lease in PostgreSQL does so because the row is still there after anything that happens to the server:
# one expects that a crash costs a few failed renewals, and that nobody else is elected before expires_at.
# The table is UNLOGGED. PostgreSQL empties such tables in each crash recovery, and it does a crash recovery not only
# when the machine goes down: one backend that the kernel kills (out of memory) is enough. Everything else that was
# committed is there again a moment later, and the lease alone is not. The first follower that asks is elected at once,
# while the old leader, who looks at its row once in 5 s, leads on. A promoted standby starts with an empty table too,
# by PostgreSQL's rule for such tables; that was not run here.
#
# For leases: a lease must be as durable as the work it guards. After such a restart all holders have lost their leases
# without any time having passed, so an end that a holder computed from its last renewal protects nobody.
# Seen (River 0.51.2, PostgreSQL 15.20): expires_at is 15.0 s ahead when a backend that runs nothing is killed; another
# client is elected 0.3 to 0.9 s later, and the old one enqueues its periodic jobs until 5.0 s: two leaders for 4 s.
# Source: riverqueue/river, migration 002_initial_schema (CREATE UNLOGGED TABLE river_leader); internal/leadership/
# elector.go (the interval of 5 s). Found by running it, no issue about it was found.
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

start_postgres
go_packages github.com/riverqueue/river@v0.51.2 github.com/riverqueue/river/riverdriver/riverpgxv5@v0.51.2 \
    github.com/jackc/pgx/v5@v5.11.0
cat >main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Println("CHANGED:", err)
		os.Exit(1)
	}
	return value
}

type tick struct{}

func (tick) Kind() string { return "tick" }

type worker struct{ river.WorkerDefaults[tick] }

func (worker) Work(context.Context, *river.Job[tick]) error { return nil }

var (
	mutex sync.Mutex
	led   = map[string]time.Time{}
)

// start runs a client with connections of its own. Its periodic job is enqueued only while it is the leader.
func start(ctx context.Context, url, name string) {
	workers := river.NewWorkers()
	river.AddWorker(workers, worker{})
	client := must(river.NewClient(riverpgxv5.New(must(pgxpool.New(ctx, url))), &river.Config{
		ID:      name,
		Workers: workers,
		Queues:  map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 1}},
		Logger:  slog.New(slog.NewTextHandler(io.Discard, nil)),
		PeriodicJobs: []*river.PeriodicJob{river.NewPeriodicJob(river.PeriodicInterval(100*time.Millisecond),
			func() (river.JobArgs, *river.InsertOpts) {
				mutex.Lock()
				defer mutex.Unlock()
				led[name] = time.Now()
				return tick{}, nil
			}, nil)},
	}))
	must(0, client.Start(ctx))
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 110*time.Second)
	defer cancel()
	url := os.Args[1]
	pool := must(pgxpool.New(ctx, url))
	must(must(rivermigrate.New(riverpgxv5.New(pool), nil)).Migrate(ctx, rivermigrate.DirectionUp, nil))
	for _, name := range []string{"A", "B", "C", "D", "E"} {
		start(ctx, url, name)
	}

	var holder string
	var end time.Time
	row := func() bool {
		time.Sleep(10 * time.Millisecond)
		return pool.QueryRow(ctx, "select leader_id, expires_at from river_leader").Scan(&holder, &end) == nil
	}
	for !row() && ctx.Err() == nil {
	}
	leader, first := holder, end
	for !row() || end.Equal(first) && ctx.Err() == nil {
	}
	renewed := end

	var pid int
	idle := must(pgx.Connect(ctx, url))
	must(0, idle.QueryRow(ctx, "select pg_backend_pid()").Scan(&pid))
	must(0, syscall.Kill(pid, syscall.SIGKILL))
	killed := time.Now()
	fmt.Printf("%s leads, its lease ends in %.1fs; a backend is killed\n", leader, renewed.Sub(killed).Seconds())
	for (!row() || holder == leader) && time.Since(killed) < 20*time.Second {
	}
	elected, early := time.Since(killed).Seconds(), time.Until(renewed).Seconds()
	fmt.Printf("after %.1fs the leader is %s, %.1fs before the end of %s's lease\n", elected, holder, early, leader)
	time.Sleep(7 * time.Second)
	mutex.Lock()
	before, after := led[leader].Sub(killed).Seconds(), led[holder].Sub(killed).Seconds()
	fmt.Printf("%s enqueued as the leader until %.1fs, %s until %.1fs\n", leader, before, holder, after)
	if holder == leader || early < 5 || before <= elected || after <= before {
		fmt.Println("CHANGED: a crash of PostgreSQL does not make two leaders any more")
		os.Exit(1)
	}
}
GO
go_build observe .
run 120 ./observe "$pg_url"

// Program river measures River: tasks per second from the first insert to the last completion that is durable.
//
// It prints {"tasks": …, "seconds": …, "submitted": …} on standard output. DATABASE_URL says where PostgreSQL is.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

const (
	bytesIn  = 200
	bytesOut = 100
	// A JSON string has two quotes.
	quotes = 2
	batch  = 100
	// As many batches, and as many single inserts, in flight as the mesh's own client has.
	batchesInFlight = 8
	singlesInFlight = 100
	warmUpTasks     = 2000
	// River's own benchmark runs this many workers.
	maxWorkers = 2000
	// The best of 6, 10, 16, 24, 40 and 80 on two processors: single inserts share commits only when many are in flight.
	connectionsForBatches = 40
	connectionsForSingles = 80
)

type echoArgs struct {
	Payload string `json:"payload"`
}

func (echoArgs) Kind() string { return "bench.echo" }

type echoWorker struct {
	river.WorkerDefaults[echoArgs]
}

func (*echoWorker) Work(ctx context.Context, job *river.Job[echoArgs]) error {
	return river.RecordOutput(ctx, job.Args.Payload[:bytesOut-quotes])
}

type answer struct {
	Tasks     int     `json:"tasks"`
	Seconds   float64 `json:"seconds"`
	Submitted float64 `json:"submitted"`
}

func main() {
	how := flag.String("how", "batch", "batch or single")
	tasks := flag.Int("tasks", 60000, "how many")
	seconds := flag.Float64("seconds", 15, "how long to submit at most")
	flag.Parse()
	got, err := run(context.Background(), *how, *tasks, time.Duration(*seconds*float64(time.Second)))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	_ = json.NewEncoder(os.Stdout).Encode(got)
}

func run(ctx context.Context, how string, tasks int, limit time.Duration) (*answer, error) {
	config, err := pgxpool.ParseConfig(os.Getenv("DATABASE_URL"))
	if err != nil {
		return nil, err
	}
	config.MaxConns = connectionsForBatches
	if how == "single" {
		config.MaxConns = connectionsForSingles
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	driver := riverpgxv5.New(pool)
	migrator, err := rivermigrate.New(driver, nil)
	if err != nil {
		return nil, err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, err
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, &echoWorker{})
	client, err := river.NewClient(driver, &river.Config{
		// The shortest that River takes: a cool-down caps the rate at workers / cool-down.
		FetchCooldown:     river.FetchCooldownMin,
		FetchPollInterval: 20 * time.Millisecond,
		JobTimeout:        -1,
		Logger:            slog.New(slog.NewTextHandler(io.Discard, nil)),
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: maxWorkers}},
		Workers:           workers,
	})
	if err != nil {
		return nil, err
	}
	if err := client.Start(ctx); err != nil {
		return nil, err
	}
	defer func() { _ = client.Stop(ctx) }()
	if _, err := measure(ctx, client, pool, how, warmUpTasks, limit); err != nil {
		return nil, err
	}
	return measure(ctx, client, pool, how, tasks, limit)
}

func measure(
	ctx context.Context, client *river.Client[pgx.Tx], pool *pgxpool.Pool, how string, tasks int, limit time.Duration,
) (*answer, error) {
	if _, err := pool.Exec(ctx, "TRUNCATE river_job"); err != nil {
		return nil, err
	}
	// An event is sent after the row says completed.
	completed, cancel := client.SubscribeConfig(&river.SubscribeConfig{
		ChanSize: tasks + batch, Kinds: []river.EventKind{river.EventKindJobCompleted},
	})
	defer cancel()
	begun := time.Now()
	submitted, err := submit(ctx, client, how, tasks, begun.Add(limit))
	if err != nil {
		return nil, err
	}
	submitting := time.Since(begun)
	timeout := time.After(4*limit + time.Minute)
	for seen := 0; seen < submitted; seen++ {
		select {
		case <-completed:
		case <-timeout:
			return nil, fmt.Errorf("River completed %d of %d tasks", seen, submitted)
		}
	}
	taken := time.Since(begun)
	var durable int
	row := pool.QueryRow(ctx, "SELECT count(*) FROM river_job WHERE state = 'completed' AND attempt = 1 AND metadata ? 'output'")
	if err := row.Scan(&durable); err != nil {
		return nil, err
	}
	if durable != submitted {
		return nil, fmt.Errorf("of %d River tasks %d are completed", submitted, durable)
	}
	return &answer{Tasks: submitted, Seconds: taken.Seconds(), Submitted: submitting.Seconds()}, nil
}

func submit(ctx context.Context, client *river.Client[pgx.Tx], how string, tasks int, end time.Time) (int, error) {
	size, inFlight := batch, batchesInFlight
	if how == "single" {
		size, inFlight = 1, singlesInFlight
	}
	left := int64(tasks / size)
	var submitted atomic.Int64
	var failed error
	var once sync.Once
	var lanes sync.WaitGroup
	for range inFlight {
		lanes.Go(func() {
			for atomic.AddInt64(&left, -1) >= 0 && time.Now().Before(end) {
				if err := insert(ctx, client, size); err != nil {
					once.Do(func() { failed = err })
					return
				}
				submitted.Add(int64(size))
			}
		})
	}
	lanes.Wait()
	return int(submitted.Load()), failed
}

func insert(ctx context.Context, client *river.Client[pgx.Tx], size int) error {
	// {"payload":"…"} of exactly bytesIn bytes.
	args := echoArgs{Payload: strings.Repeat("x", bytesIn-len(`{"payload":""}`))}
	if size == 1 {
		_, err := client.Insert(ctx, args, nil)
		return err
	}
	many := make([]river.InsertManyParams, size)
	for place := range many {
		many[place] = river.InsertManyParams{Args: args}
	}
	count, err := client.InsertManyFast(ctx, many)
	if err == nil && count != size {
		return errors.New("River took fewer tasks than it was given")
	}
	return err
}

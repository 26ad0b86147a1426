package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// role is what a process of a run does: the program starts itself anew for each, and is told by its arguments which it is.
// This file is the process's side, process.go its parent's.
type role struct {
	broker bool // it talks to RabbitMQ too
	run    func(ctx context.Context, s surroundings, tell *teller) error
}

var roles map[string]role

// Filled in here because what plan.go draws from it is itself part of what it leads to.
func init() {
	roles = map[string]role{
		"producer-go":  {run: runGoProducer},
		"producer-sql": {run: runSQLProducer},
		"relay-1":      {broker: true, run: runRelay},
		"relay-2":      {broker: true, run: runRelay},
		"relay-3":      {broker: true, run: runRelay},
		billing:        {broker: true, run: runBilling},
		shipping:       {broker: true, run: runShipping},
		audit:          {broker: true, run: runAudit},
	}
}

func roleNames() []string { return slices.Sorted(maps.Keys(roles)) }

// surroundings are what a process is told of the world. They come in its environment, since they have passwords in them.
type surroundings struct {
	Name     string
	Postgres string // through a proxy of its own
	AMQP     string // …
	Rate     float64
	Planted  string // a fault of its own, for tests of the ledger
	Folder   string // of the run
}

const (
	roleCommand         = "role"
	surroundingsVar     = "SUREPOST_CHAOS_SURROUNDINGS"
	tellInterval        = 100 * time.Millisecond
	handlerTimeout      = 20 * time.Second
	producerTimeout     = 8 * time.Second
	brokerHeartbeat     = 3 * time.Second
	databaseDialSeconds = "5"
)

// isRole reports whether the program was started as one of a run's processes.
func isRole(args []string) bool { return len(args) == 3 && args[1] == roleCommand }

// runRole is the whole life of such a process. It returns the exit code.
func runRole(args []string) int {
	r, known := roles[args[2]]
	var s surroundings
	if err := json.Unmarshal([]byte(os.Getenv(surroundingsVar)), &s); err != nil || !known {
		fmt.Fprintf(os.Stderr, "chaos: %q isn't a role that can be started by hand: run chaos without it\n", args[2])
		return 2
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()

	// Standard input is a pipe from the parent that never says anything. It ends when the parent does, in whatever way.
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()

	tell := newTeller(os.Stdout)
	defer tell.stop()
	slog.Info("started", "pid", os.Getpid())
	if err := r.run(ctx, s, tell); err != nil && !errors.Is(err, context.Canceled) {
		slog.Error("ended", "err", err)
		return 1
	}
	slog.Info("ended in good order")
	return 0
}

// told is what a process tells its parent, one JSON object a line. It is for the progress line: no check rests on it.
type told struct {
	Ready   bool  `json:"ready,omitempty"`
	Done    int64 `json:"done,omitempty"`    // events written, published or handled since it began
	Copies  int64 `json:"copies,omitempty"`  // events that came again and were dropped
	Emptied int64 `json:"emptied,omitempty"` // leaves of the log's ring
}

// teller tells the parent how the work goes.
type teller struct {
	done, copies, emptied atomic.Int64
	once                  sync.Once

	mu    sync.Mutex
	to    *json.Encoder
	end   chan struct{}
	ended chan struct{}
}

func newTeller(w io.Writer) *teller {
	t := &teller{to: json.NewEncoder(w), end: make(chan struct{}), ended: make(chan struct{})}
	go t.run()
	return t
}

func (t *teller) run() {
	defer close(t.ended)
	ticker := time.NewTicker(tellInterval)
	defer ticker.Stop()
	var last told
	for more := true; more; {
		select {
		case <-ticker.C:
		case <-t.end:
			more = false
		}
		if now := (told{Done: t.done.Load(), Copies: t.copies.Load(), Emptied: t.emptied.Load()}); now != last {
			t.send(now)
			last = now
		}
	}
}

func (t *teller) send(what told) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.to.Encode(what) // without a parent this process is about to end
}

// ready says that the process does its work. What it says after the first time is no news.
func (t *teller) ready() { t.once.Do(func() { t.send(told{Ready: true}) }) }

func (t *teller) stop() {
	close(t.end)
	<-t.ended
}

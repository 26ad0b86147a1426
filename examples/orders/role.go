package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The program starts itself anew for every service: `orders service relay` is the relay. So each is a process of its
// own that can be killed.

// services are the processes by their names.
var services = map[string]func(context.Context, environment, *teller) error{
	"order-service": runOrderService,
	"inventory":     runInventory,
	"notification":  runNotification,
	"relay":         runRelay,
}

// serviceCommand is the first argument of a process that is a service.
const serviceCommand = "service"

// isService reports whether the program was started as a service.
func isService(args []string) bool { return len(args) == 3 && args[1] == serviceCommand }

// environment is where a service finds its database and the broker. It travels in environment variables: arguments,
// and the passwords in them, are for everybody to see in ps.
type environment struct {
	ordersDatabase       string
	inventoryDatabase    string
	notificationDatabase string
	amqp                 string
}

func (e environment) variables() []string {
	return []string{
		"ORDERS_DATABASE_URL=" + e.ordersDatabase,
		"INVENTORY_DATABASE_URL=" + e.inventoryDatabase,
		"NOTIFICATION_DATABASE_URL=" + e.notificationDatabase,
		"AMQP_URL=" + e.amqp,
	}
}

func readEnvironment() environment {
	return environment{
		ordersDatabase:       os.Getenv("ORDERS_DATABASE_URL"),
		inventoryDatabase:    os.Getenv("INVENTORY_DATABASE_URL"),
		notificationDatabase: os.Getenv("NOTIFICATION_DATABASE_URL"),
		amqp:                 os.Getenv("AMQP_URL"),
	}
}

// runService is the whole life of a service's process. It returns the exit code.
func runService(name string) int {
	run, known := services[name]
	if !known {
		fmt.Fprintf(os.Stderr, "orders: there is no service %q\n", name)
		return 2
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})).With("service", name))

	// Ctrl-C reaches all processes of the terminal at once; it is the parent's to say what happens then. SIGTERM asks
	// to finish and end.
	signal.Ignore(os.Interrupt)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()

	// Standard input is a pipe from the parent that never says anything. It ends when the parent does, in whatever
	// way, and no service outlives it. (Linux' PDEATHSIG does so only for the parent's thread, which Go may end at
	// any time.)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()

	tell := newTeller(os.Stdout)
	defer tell.stop()
	if err := run(ctx, readEnvironment(), tell); err != nil && !errors.Is(err, context.Canceled) {
		slog.Error("ended", "err", err)
		return 1
	}
	return 0
}

// report is what a service tells its parent: one JSON object a line.
type report struct {
	Ready   bool   `json:"ready,omitempty"`   // it does its work now
	Address string `json:"address,omitempty"` // where it listens, if it does
	Done    int64  `json:"done,omitempty"`    // events published or handled, since it began
}

// teller tells the parent how the work goes: for the progress line, and so that the parent can kill a process that is
// at work. No check rests on it.
type teller struct {
	mu    sync.Mutex
	to    *json.Encoder
	done  atomic.Int64
	end   chan struct{}
	ended chan struct{}
}

// tellInterval is how old the parent's picture may be.
const tellInterval = 10 * time.Millisecond

func newTeller(w io.Writer) *teller {
	t := &teller{to: json.NewEncoder(w), end: make(chan struct{}), ended: make(chan struct{})}
	go t.run()
	return t
}

func (t *teller) run() {
	defer close(t.ended)
	ticker := time.NewTicker(tellInterval)
	defer ticker.Stop()
	told := int64(0)
	for more := true; more; {
		select {
		case <-ticker.C:
		case <-t.end:
			more = false
		}
		if done := t.done.Load(); done != told {
			t.send(report{Done: done})
			told = done
		}
	}
}

func (t *teller) send(r report) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.to.Encode(r) // without a parent this process is about to end
}

// ready says that the service does its work now.
func (t *teller) ready(address string) { t.send(report{Ready: true, Address: address}) }

// did counts events.
func (t *teller) did(events int) { t.done.Add(int64(events)) }

func (t *teller) stop() {
	close(t.end)
	<-t.ended
}

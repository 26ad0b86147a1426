// Package child lets an example run its services as processes of their own, so that they can be killed: the program
// starts itself anew and is told by its arguments which service it is.
//
//	func main() {
//		if child.Is(os.Args) {
//			os.Exit(child.Run(os.Args, services))
//		}
//		…
//		relay := &child.Service{Name: "relay", Env: …}
//		err := relay.Start(ctx)
//		relay.Kill()
//	}
//
// child.go is the process's side, process.go its parent's.
package child

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

// command is the first argument of a process that is a service.
const command = "service"

// Is reports whether the program was started as a service, by its arguments (os.Args).
func Is(args []string) bool { return len(args) == 3 && args[1] == command }

// Run is the whole life of a service's process. It returns the exit code.
func Run(args []string, services map[string]func(context.Context, *Teller) error) int {
	name := args[2]
	run, known := services[name]
	if !known {
		fmt.Fprintf(os.Stderr, "there is no service %q\n", name)
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
	if err := run(ctx, tell); err != nil && !errors.Is(err, context.Canceled) {
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

// Teller tells the parent how the work goes: for the progress line, and so that the parent can kill a process that is
// at work. No check rests on it.
type Teller struct {
	mu    sync.Mutex
	to    *json.Encoder
	done  atomic.Int64
	end   chan struct{}
	ended chan struct{}
}

// TellInterval is how old the parent's picture may be.
const TellInterval = 10 * time.Millisecond

func newTeller(w io.Writer) *Teller {
	t := &Teller{to: json.NewEncoder(w), end: make(chan struct{}), ended: make(chan struct{})}
	go t.run()
	return t
}

func (t *Teller) run() {
	defer close(t.ended)
	ticker := time.NewTicker(TellInterval)
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

func (t *Teller) send(r report) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.to.Encode(r) // without a parent this process is about to end
}

// Ready says that the service does its work now, and where it listens, if it does.
func (t *Teller) Ready(address string) { t.send(report{Ready: true, Address: address}) }

// Did counts events.
func (t *Teller) Did(events int) { t.done.Add(int64(events)) }

func (t *Teller) stop() {
	close(t.end)
	<-t.ended
}

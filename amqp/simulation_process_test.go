package amqp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/internal/sim"
	"github.com/surepost/surepost/outbox"
)

// simProcess is one process of a service, from its start to its end: a Consumer with an Inbox.
type simProcess struct {
	*simulation
	actor    *sim.Actor
	consumer string
	outbox   *outbox.Outbox[*simTx]
	stop     context.CancelFunc
	result   chan error  // has room for what Run returned
	session  *simSession // the last one; under the world's lock
	ended    bool        // under the world's lock
}

// errSimCut is how a client learns of a lost connection: whether what it asked for took place isn't known.
var errSimCut = fmt.Errorf("the connection was cut: %w", io.ErrUnexpectedEOF)

// do has an effect on the world. It fails as a lost connection does.
func do[T any](ctx context.Context, p *simProcess, what, on string, effect func() (T, error)) (T, error) {
	result, err := sim.Do(ctx, p.actor, what, on, effect)
	if errors.Is(err, sim.ErrInjected) || errors.Is(err, sim.ErrKilled) {
		err = errSimCut
	}
	return result, err
}

// later has a server do something that isn't to be failed, only to be late.
func (s *simulation) later(server, what, on string, effect func()) {
	s.after(0, server, what, on, effect)
}

func (s *simulation) after(pause time.Duration, server, what, on string, effect func()) {
	a := s.Actor(server)
	s.servers.Go(func() {
		time.Sleep(pause)
		for done := false; !done; {
			_, _ = sim.Do(context.Background(), a, what, on, func() (struct{}, error) {
				if !done {
					effect()
				}
				done = true
				return struct{}{}, nil
			})
		}
	})
}

// start starts a process of the consumer.
func (s *simulation) start(consumer, name string) *simProcess {
	p := &simProcess{simulation: s, actor: s.Actor(name), consumer: consumer, result: make(chan error, 1)}
	store := simStore{s.db, p}
	var inStore inbox.Store[*simTx] = store
	if s.plant.store != nil {
		inStore = s.plant.store(store)
	}
	in, err := inbox.New(inStore, inbox.Config{Consumer: consumer})
	must(err)
	var outStore outbox.Store[*simTx] = store
	if s.plant.outbox != nil {
		outStore = s.plant.outbox(store)
	}
	p.outbox, err = outbox.New(outStore, outbox.Config{Source: consumer})
	must(err)
	in.On("One", func(ctx context.Context, tx *simTx, e surepost.Event) error { return p.handle(ctx, tx, e) })
	in.OnBatch("Many", func(ctx context.Context, tx *simTx, events []surepost.Event) error {
		for _, e := range events {
			if err := p.handle(surepost.WithHandling(ctx, e), tx, e); err != nil {
				return err
			}
		}
		return nil
	})
	config := s.config
	config.Queue = consumer
	config.Handler = in
	if s.plant.handler != nil {
		config.Handler = s.plant.handler(in)
	}
	config.Logger = slog.New(simLog{p})
	jitter := s.Rand(fmt.Sprintf("jitter of %s at %v", name, s.Now()))
	config.jitter = func(ceiling time.Duration) (pause time.Duration) {
		s.Look(func() { pause = upTo(jitter, ceiling) })
		return pause
	}
	c, err := NewConsumer(config)
	must(err)
	c.open = p.open
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	s.Note(name, "starts")
	go func() { p.result <- c.Run(ctx) }()
	return p
}

// kill ends the process, as SIGKILL does. What remains of it in this one can do nothing, and ends by itself.
func (p *simProcess) kill() {
	p.actor.Kill()
	p.Look(func() {
		p.ended = true
		if p.session != nil {
			p.session.end(errSimCut)
		}
	})
	p.stop()
}

// end stops the process in good order, and says if that takes longer than it may.
func (p *simProcess) end() {
	began := p.Now()
	p.stop()
	err := <-p.result
	took := p.Now() - began
	p.Look(func() { p.ended = true })
	select {
	case <-p.actor.Killed():
		return
	default:
	}
	p.Note(p.actor.Name(), "has stopped")
	if took > p.config.ShutdownTimeout {
		p.Fail("%s took %v to stop, its ShutdownTimeout is %v", p.actor.Name(), took, p.config.ShutdownTimeout)
	}
	if err != nil {
		p.Fail("%s stopped with an error: %w", p.actor.Name(), err)
	}
}

// errSimRefused is a failure of the event's own.
var errSimRefused = errors.New("refused by the simulation")

// handle is the service's work: a statement, and the events that follow.
func (p *simProcess) handle(ctx context.Context, tx *simTx, e surepost.Event) error {
	event, r := p.events[e.ID], simRecord{p.consumer, e.ID}
	_, err := execute(ctx, tx, "work on", e.ID, func() (struct{}, error) {
		switch event.kind {
		case simFine, simFlaky, simLate, simBlocked:
			tx.effects = append(tx.effects, r)
		}
		return struct{}{}, nil
	})
	if err != nil {
		return fmt.Errorf("work: %w", err)
	}
	failure, fatal := error(nil), false
	p.Look(func() {
		switch {
		case event.kind == simFlaky && event.failures[p.consumer] > 0:
			event.failures[p.consumer]--
			failure = errSimRefused
		case event.kind == simAlways, event.kind == simLate && !event.returned[p.consumer]:
			failure = errSimRefused
		case event.kind == simPermanent:
			failure = inbox.Permanent(errSimRefused)
		case event.kind == simBlocked && p.blocked:
			failure = fmt.Errorf("another service is down: %w", errSimDown)
		case event.kind == simKiller:
			fatal = true
		}
	})
	switch {
	case fatal:
		p.kill()
		return errSimCut
	case failure == errSimRefused && event.panics:
		panic(failure)
	case failure != nil:
		return failure
	}
	for i := range event.followUps {
		id := fmt.Sprintf("%s>%s.%d", e.ID, p.consumer, i)
		if err := p.outbox.Write(ctx, tx, surepost.Event{ID: id, Type: "Followed", Key: e.Key}); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	return nil
}

// simLog puts what a process logs into the trace, while it lives.
type simLog struct{ *simProcess }

func (l simLog) Enabled(context.Context, slog.Level) bool { return true }
func (l simLog) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l simLog) WithGroup(string) slog.Handler            { return l }

func (l simLog) Handle(_ context.Context, r slog.Record) error {
	select {
	case <-l.actor.Killed():
	default:
		l.Note(l.actor.Name(), "logs: %v", simLine(r))
	}
	return nil
}

// simLine formats a log record when it is printed.
type simLine slog.Record

func (l simLine) String() string {
	text := l.Message
	slog.Record(l).Attrs(func(a slog.Attr) bool {
		text += fmt.Sprintf("  %s=%v", a.Key, a.Value)
		return true
	})
	return text
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

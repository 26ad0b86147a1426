package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/surepost/surepost/examples/internal/child"
	"github.com/surepost/surepost/relay"
)

// shop is the four services and the witness, and what of them runs. To keep the program simple all of it runs in this
// process, except for the relay of the order service, which is to be killed.
type shop struct {
	at   place
	logs io.Writer
	fail context.CancelCauseFunc // ends the run

	order        orderService
	inventory    inventory
	payment      payment
	notification notification
	witness      *witness

	orderRelay *child.Service
	relays     []*task
	consumers  map[string]*task // by service
	told       map[string]bool  // by order id, whether the customer was told that the order is placed
}

const witnessName = "witness"

// serviceNames are the names of databases and queues.
var serviceNames = []string{"order", "inventory", "payment", "notification", witnessName}

// openShop opens the services and starts what they run: the consumers before the relays, since events that no queue is
// bound for yet would be put aside.
func openShop(ctx context.Context, at place, logs io.Writer, fail context.CancelCauseFunc) (*shop, error) {
	s := &shop{at: at, logs: logs, fail: fail, consumers: map[string]*task{}, told: map[string]bool{}}
	for _, step := range []func() error{
		func() (err error) { s.order, err = openOrderService(ctx, at); return err },
		func() (err error) { s.inventory, err = openInventory(ctx, at); return err },
		func() (err error) { s.payment, err = openPayment(ctx, at); return err },
		func() (err error) { s.notification, err = openNotification(ctx, at); return err },
		func() (err error) { s.witness, err = openWitness(ctx, at); return err },
		func() error { return s.startConsumer(ctx, witnessName, s.witness.watch) },
		func() error { return s.startConsumer(ctx, "inventory", s.inventory.consume) },
		func() error { return s.startConsumer(ctx, "payment", s.payment.consume) },
		func() error { return s.startConsumer(ctx, "notification", s.notification.consume) },
		func() error { return s.startRelay(ctx, s.witness.publishCopies) },
		func() error { return s.startRelay(ctx, s.inventory.publish) },
		func() error { return s.startRelay(ctx, s.payment.publish) },
		func() error { return s.startOrderRelay(ctx) },
	} {
		if err := step(); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func (s *shop) startConsumer(ctx context.Context, name string, work func(context.Context, func()) error) (err error) {
	s.consumers[name], err = s.start(ctx, "the consumer of "+name, work)
	return err
}

func (s *shop) startRelay(ctx context.Context, work func(context.Context, func()) error) error {
	t, err := s.start(ctx, "a relay", work)
	s.relays = append(s.relays, t)
	return err
}

// startOrderRelay starts the order service's relay as a process of its own.
func (s *shop) startOrderRelay(ctx context.Context) error {
	at, err := json.Marshal(s.at)
	if err != nil {
		return err
	}
	if s.orderRelay == nil {
		// Not as an argument: those, and the passwords in them, are for everybody to see in ps.
		env := []string{placeVariable + "=" + string(at)}
		s.orderRelay = &child.Service{Name: relayProcess, Env: env, Log: s.logs, Failed: s.fail}
	}
	_, err = s.orderRelay.Start(ctx)
	return err
}

const (
	relayProcess  = "relay"
	placeVariable = "SUREPOST_QUICKSTART_PLACE"
)

// runOrderRelay is that process.
func runOrderRelay(ctx context.Context, tell *child.Teller) error {
	var at place
	if err := json.Unmarshal([]byte(os.Getenv(placeVariable)), &at); err != nil {
		return err
	}
	db, store, err := at.openDatabase(ctx, "order")
	if err != nil {
		return err
	}
	defer db.Close()
	defer store.Close(context.WithoutCancel(ctx))
	hooks := relay.Hooks{OnPublished: func(_ relay.Lane, events int) { tell.Did(events) }}
	return runRelay(ctx, at, store, hooks, func() { tell.Ready("") })
}

// services are those with events and handlers.
func (s *shop) services() []*service {
	return []*service{s.order.service, s.inventory.service, s.payment.service, s.notification.service}
}

// stop ends everything that runs, in good order: what publishes first, then what handles.
func (s *shop) stop(ctx context.Context) error {
	var errs []error
	if s.orderRelay != nil {
		errs = append(errs, s.orderRelay.Stop(ctx))
	}
	for _, t := range s.relays {
		errs = append(errs, t.end())
	}
	for _, t := range s.consumers {
		errs = append(errs, t.end())
	}
	return errors.Join(errs...)
}

// close ends what still runs and closes the databases.
func (s *shop) close() {
	if s.orderRelay != nil {
		s.orderRelay.Kill()
	}
	ctx, cancel := context.WithTimeout(context.Background(), removeLimit)
	defer cancel()
	_ = s.stop(ctx) // it is told elsewhere why the run failed
	for _, service := range s.services() {
		if service != nil {
			service.close(ctx)
		}
	}
	if s.witness != nil {
		s.witness.close(ctx)
	}
}

// task is something that runs in this process until it is ended.
type task struct {
	cancel context.CancelFunc
	ended  chan struct{} // closed once err is set
	err    error
}

// startLimit bounds the time until a task is ready.
const startLimit = 30 * time.Second

// start starts a task and waits until it says that it is ready. A task that ends by itself ends the run.
func (s *shop) start(ctx context.Context, name string, work func(ctx context.Context, ready func()) error) (*task, error) {
	ctx, cancel := context.WithCancel(ctx)
	t := &task{cancel: cancel, ended: make(chan struct{})}
	ready := make(chan struct{})
	var once sync.Once
	go func() {
		defer close(t.ended)
		t.err = work(ctx, func() { once.Do(func() { close(ready) }) })
		if ctx.Err() == nil {
			s.fail(fmt.Errorf("%s ended by itself: %v", name, t.err))
		}
	}()
	var err error
	select {
	case <-ready:
		return t, nil
	case <-t.ended:
		err = t.err
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-time.After(startLimit):
		err = fmt.Errorf("it wasn't ready within %v", startLimit)
	}
	_ = t.end()
	return nil, fmt.Errorf("start %s: %w", name, err)
}

// end ends the task, and waits until it has finished what it had begun.
func (t *task) end() error {
	if t == nil {
		return nil
	}
	t.cancel()
	<-t.ended
	return t.err
}

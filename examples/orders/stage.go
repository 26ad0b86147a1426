package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost/examples/internal/child"
	"github.com/surepost/surepost/examples/internal/console"
)

// stage is a run: four services, the clients that post orders, and what is done to them.
type stage struct {
	progress   *console.Console
	services   map[string]*child.Service
	clients    *clients
	redelivery *redelivery

	orders, inventory, notification *pgxpool.Pool // to look on
}

// play posts the orders, kills and re-delivers on the way, waits until all is settled and returns the reconciliation.
// When it returns no process is left.
func play(ctx context.Context, env environment, orders []Order, clientCount int, progress *console.Console) (outcome, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	st := &stage{progress: progress, services: map[string]*child.Service{}}
	defer st.close()
	defer progress.Done()

	if err := st.open(ctx, cancel, env, clientCount); err != nil {
		return outcome{}, orCause(ctx, err)
	}
	began := time.Now()
	if err := st.post(ctx, orders, clientCount); err != nil {
		return outcome{}, orCause(ctx, err)
	}
	progress.Say("all orders are answered; waiting until everything has come to its end")
	if err := st.settle(ctx, func() { st.show(len(orders)) }); err != nil {
		return outcome{}, orCause(ctx, err)
	}
	took := time.Since(began)

	// A shutdown in good order is part of the show: from here on nothing is at work, and what a queue holds is really
	// left there.
	var late []string
	for _, name := range []string{"order-service", "relay", "inventory", "notification"} {
		if err := st.services[name].Stop(ctx); err != nil {
			late = append(late, err.Error())
		}
	}
	if ctx.Err() != nil {
		return outcome{}, context.Cause(ctx)
	}
	facts, err := st.gather(ctx)
	if err != nil {
		return outcome{}, orCause(ctx, err)
	}
	result := outcome{table: reconcile(facts), Copies: st.redelivery.copies.Load(), Took: took}
	result.Problems = append(result.Problems, late...)
	if result.Copies == 0 {
		result.Problems = append(result.Problems, "no message was re-delivered: this run shows nothing of duplicates")
	}
	return result, nil
}

// orCause prefers why ctx ended to what that led to.
func orCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// idleFor is how long nothing is posted at the beginning.
const idleFor = 500 * time.Millisecond

// open starts everything, the consumers before the relay: an event that no queue is bound for yet would be parked.
func (st *stage) open(ctx context.Context, failed context.CancelCauseFunc, env environment, clientCount int) error {
	address := ""
	for _, name := range []string{"order-service", "inventory", "notification", "relay"} {
		if name == "relay" { // what is re-delivered must be seen from the first event on
			var err error
			if st.redelivery, err = startRedelivery(env.amqp, failed); err != nil {
				return err
			}
		}
		s := &child.Service{Name: name, Env: env.variables(), Log: st.progress, Failed: failed}
		st.services[name] = s
		where, err := s.Start(ctx)
		if err != nil {
			return err
		}
		if where != "" {
			address = where
		}
	}
	st.clients = newClients(address, clientCount)
	for _, db := range []struct {
		url  string
		pool **pgxpool.Pool
	}{{env.ordersDatabase, &st.orders}, {env.inventoryDatabase, &st.inventory}, {env.notificationDatabase, &st.notification}} {
		pool, err := pgxpool.New(ctx, db.url)
		if err != nil {
			return err
		}
		*db.pool = pool
	}
	st.progress.Say("the order service, the inventory, the notification service and the relay run")

	// The relays find nothing for a while, as they do wherever a service is new: an empty log is a place to begin
	// from like any other.
	select {
	case <-time.After(idleFor):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// post posts all orders while chaos reigns.
func (st *stage) post(ctx context.Context, orders []Order, clientCount int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	chaos := newChaos(len(orders), st.clients.posted.Load, st.services, st.progress.Say)
	ended := make(chan error, 2)
	go func() { ended <- chaos.run(ctx) }()
	go func() { ended <- st.clients.post(ctx, orders, clientCount, chaos.gate) }()

	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	var errs []error
	for len(errs) < cap(ended) {
		select {
		case err := <-ended:
			if err != nil {
				cancel(err) // one can't do without the other
			}
			errs = append(errs, err)
		case <-ticker.C:
			st.show(len(orders))
		}
	}
	if errors.Join(errs...) != nil {
		return context.Cause(ctx)
	}
	return nil
}

// show shows how far everything is.
func (st *stage) show(orders int) {
	st.progress.Show("posted %s of %s, refused %s; published %s, reserved %s, notified %s, re-delivered %s",
		thousands(st.clients.posted.Load()), thousands(orders), thousands(st.clients.refused.Load()),
		thousands(st.services["relay"].Done()), thousands(st.services["inventory"].Done()), thousands(st.services["notification"].Done()),
		thousands(st.redelivery.copies.Load()))
}

// close ends what still runs.
func (st *stage) close() {
	for _, s := range st.services {
		s.Kill()
	}
	if st.redelivery != nil {
		st.redelivery.close()
	}
	for _, pool := range []*pgxpool.Pool{st.orders, st.inventory, st.notification} {
		if pool != nil {
			pool.Close()
		}
	}
}

// keepNote tells where to look.
func keepNote(env environment) string {
	return fmt.Sprintf("kept:\n  orders        %s\n  inventory     %s\n  notification  %s\n  broker        %s",
		env.ordersDatabase, env.inventoryDatabase, env.notificationDatabase, env.amqp)
}

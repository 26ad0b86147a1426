package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/examples/internal/console"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/relay"
)

// story is what is shown, chapter by chapter. Each one shows one promise.
type story struct {
	*shop
	*console.Console
	orders []Order
	odd    int // the place of the order in Swiss francs
}

func (s *story) tell(ctx context.Context) error {
	for i, chapter := range []struct {
		title string
		tell  func(context.Context) error
	}{
		{"An order and its event are committed together, or not at all", s.tellOfOrders},
		{"When the relay dies, nothing is lost, and nobody waits for it", s.tellOfTheRelay},
		{"Whatever comes twice has its effect once", s.tellOfCopies},
		{"A poison message holds up nobody else, and isn't lost", s.tellOfPoison},
		{"An event that nobody wants is kept until somebody does", s.tellOfParking},
	} {
		s.Print("\n%s", s.Bold(fmt.Sprintf("%d. %s", i+1, chapter.title)))
		if err := chapter.tell(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) tellOfOrders(ctx context.Context) error {
	half := s.odd / 2
	if err := s.placeOrders(ctx, s.orders[:half]); err != nil {
		return err
	}
	committed, refused := s.answers()
	s.Say("%d orders committed, %d refused: their transactions were rolled back after the event", committed, refused)
	s.Say("was written, and so the event is gone, too")
	return nil
}

func (s *story) tellOfTheRelay(ctx context.Context) error {
	// It shall be at work when it is killed.
	err := s.await(ctx, func(ctx context.Context) (bool, error) { return s.orderRelay.Done() > 0, nil })
	if err != nil {
		return err
	}
	pid, published := s.orderRelay.Kill()
	s.Say("the process that publishes the orders' events is killed (%s, pid %d), %d events far", killedBy(), pid, published)

	if err := s.placeOrders(ctx, s.orders[s.odd/2:s.odd]); err != nil {
		return err
	}
	committed, refused := s.answers()
	waiting, err := s.unpublished(ctx)
	if err != nil {
		return err
	}
	s.Say("the shop goes on: %d orders committed, %d refused by now; %d events wait in the outbox", committed, refused, waiting)
	if err := s.startOrderRelay(ctx); err != nil {
		return err
	}
	s.Say("another relay is started; it takes over when the dead one's lease ends, after %v at most", relayLease)
	if err := s.settle(ctx, 0); err != nil {
		return err
	}
	s.Say("everything has arrived: each order is reserved, paid or declined, and its customer told")
	return nil
}

// killedBy says what Kill is here.
func killedBy() string {
	if runtime.GOOS == "windows" {
		return "TerminateProcess"
	}
	return "SIGKILL"
}

func (s *story) tellOfCopies(ctx context.Context) error {
	r := &reader{ctx: ctx}
	copies := int(s.witness.copies.Load())
	messages := r.count(s.witness.db, `SELECT count(*) FROM sightings`)
	events := r.count(s.witness.db, `SELECT count(DISTINCT event_id) FROM sightings`)
	dropped := 0
	for _, service := range s.services() {
		dropped += r.count(service.db, `SELECT count(*) FROM dropped`)
	}
	s.Say("%d copies were thrown in all the while, and the new relay, which can't know what the dead", copies)
	s.Say("one had sent last, repeated %d: the services' inboxes have dropped all %d that they got", messages-events-copies, dropped)
	return r.err
}

func (s *story) tellOfPoison(ctx context.Context) error {
	if err := s.placeOrders(ctx, s.orders[s.odd:]); err != nil {
		return err
	}
	if err := s.settle(ctx, 1); err != nil {
		return err
	}
	letters := amqp.DeadLettersConfig{Connection: s.payment.connection(), Queue: s.payment.queue()}
	var found []amqp.DeadLetter
	err := s.await(ctx, func(ctx context.Context) (bool, error) {
		var err error
		found, err = amqp.DeadLetters(ctx, letters)
		return len(found) > 0, err
	})
	if err != nil {
		return err
	}
	s.Say("an order in Swiss francs is more than payment can handle: %q", found[0].Error)
	s.Say("its %s is in the dead-letter queue; the %d orders after it went past", found[0].Type, len(s.orders)-s.odd-1)

	if err := s.consumers["payment"].end(); err != nil {
		return err
	}
	s.payment.rates["CHF"] = 1060
	if err := s.startConsumer(ctx, "payment", s.payment.consume); err != nil {
		return err
	}
	report, err := amqp.Redrive(ctx, amqp.RedriveConfig{Connection: letters.Connection, Queue: letters.Queue})
	if err != nil {
		return err
	}
	if err := s.settle(ctx, 0); err != nil {
		return err
	}
	s.Say("payment is repaired and started again, %d dead letter is redriven: the order is paid", report.Moved)
	return nil
}

func (s *story) tellOfParking(ctx context.Context) error {
	if err := s.order.changePrice(ctx, PriceChange{Item: items[0], Cents: 5200}); err != nil {
		return err
	}
	var parked []relay.ParkedEvent
	err := s.await(ctx, func(ctx context.Context) (bool, error) {
		var err error
		parked, err = s.order.store.Parked(ctx, relay.ParkedFilter{}, 10)
		return len(parked) > 0, err
	})
	if err != nil {
		return err
	}
	s.Say("a %s leads to no queue; the relay has parked it: %q", parked[0].Event.Type, parked[0].Reason)

	// A new version of the notification service.
	if err := s.consumers["notification"].end(); err != nil {
		return err
	}
	inbox.On(s.notification.inbox, priceChanged, s.notification.onPriceChanged)
	if err := s.startConsumer(ctx, "notification", s.notification.consume); err != nil {
		return err
	}
	// The witness wants to see it, too.
	if err := s.consumers[witnessName].end(); err != nil {
		return err
	}
	s.witness.types = append(s.witness.types, priceChanged)
	if err := s.startConsumer(ctx, witnessName, s.witness.watch); err != nil {
		return err
	}

	retried, err := s.order.store.RetryParked(ctx, relay.ParkedFilter{Type: priceChanged})
	if err != nil {
		return err
	}
	err = s.await(ctx, func(ctx context.Context) (bool, error) {
		r := &reader{ctx: ctx}
		return r.count(s.notification.db, `SELECT count(*) FROM notifications WHERE event_type = '`+priceChanged+`'`) > 0, r.err
	})
	if err != nil {
		return err
	}
	s.Say("notification learns what to do about it, %d parked event is retried, and has arrived", retried)
	return s.settle(ctx, 0)
}

// placeOrders places orders as customers do, one after the other.
func (s *story) placeOrders(ctx context.Context, orders []Order) error {
	pause := min(5*time.Millisecond, 2*time.Second/time.Duration(len(s.orders))) // some time to watch
	for i, order := range orders {
		err := s.order.place(ctx, order)
		if err != nil && !errors.Is(err, errOverLimit) {
			return fmt.Errorf("place %s: %w", order.ID, err)
		}
		s.told[order.ID] = err == nil
		if i%10 == 0 {
			if _, err := s.look(ctx); err != nil {
				return err
			}
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) answers() (committed, refused int) {
	for _, placed := range s.told {
		if placed {
			committed++
		} else {
			refused++
		}
	}
	return committed, refused
}

// unpublished returns how many events of the order service nobody has seen yet.
func (s *story) unpublished(ctx context.Context) (int, error) {
	r := &reader{ctx: ctx}
	n := r.count(s.order.db, `SELECT count(*) FROM surepost_outbox`) -
		r.count(s.witness.db, `SELECT count(DISTINCT event_id) FROM sightings WHERE event_type = '`+orderCreated+`'`)
	return n, r.err
}

// standing is how far everything is, by the services' databases. It counts events, not rows, so that an effect that
// happened twice doesn't stand for one that is missing.
type standing struct {
	committed, reserved, paid, refused, returned, notified int

	messages, dropped int
	copies            int64
}

// look looks how far everything is, and shows it.
func (s *story) look(ctx context.Context) (standing, error) {
	r := &reader{ctx: ctx}
	now := standing{
		committed: r.count(s.order.db, `SELECT count(*) FROM orders`),
		reserved:  r.count(s.inventory.db, `SELECT count(DISTINCT event_id) FROM reservations`),
		paid:      r.count(s.payment.db, `SELECT count(DISTINCT event_id) FROM payments WHERE outcome = '`+paymentTaken+`'`),
		refused:   r.count(s.payment.db, `SELECT count(DISTINCT event_id) FROM payments WHERE outcome = '`+paymentRefused+`'`),
		returned:  r.count(s.inventory.db, `SELECT count(DISTINCT event_id) FROM returns`),
		notified:  r.count(s.notification.db, `SELECT count(DISTINCT event_id) FROM notifications WHERE event_type <> '`+priceChanged+`'`),
		messages:  r.count(s.witness.db, `SELECT count(*) FROM sightings`),
		copies:    s.witness.copies.Load(),
	}
	for _, service := range s.services() {
		now.dropped += r.count(service.db, `SELECT count(*) FROM dropped`)
	}
	s.Show("committed %d → reserved %d → paid %d, declined %d → notified %d; copies dropped %d",
		now.committed, now.reserved, now.paid, now.refused, now.notified, now.dropped)
	return now, r.err
}

// arrived reports whether all orders have come to their end, but for so many that are held up.
func (n standing) arrived(heldUp int) bool {
	return n.reserved == n.committed && n.paid+n.refused == n.committed-heldUp && n.notified == n.paid+n.refused && n.returned == n.refused
}

const (
	// quietFor is how long nothing may have moved before all is taken to be settled: the last copies may still come.
	quietFor = 300 * time.Millisecond
	// stallLimit is how long the program waits for what is missing while nothing moves.
	stallLimit = 20 * time.Second
)

// settle waits until all orders have come to their end, but for so many that are held up, or until nothing moves any
// more though something is missing: the books will tell.
func (s *story) settle(ctx context.Context, heldUp int) error {
	last, moved := standing{}, time.Now()
	for {
		now, err := s.look(ctx)
		if err != nil {
			return err
		}
		if now != last {
			last, moved = now, time.Now()
		}
		still := time.Since(moved)
		if now.arrived(heldUp) && still >= quietFor {
			return nil
		}
		if still >= stallLimit {
			s.Say("nothing has moved for %v, though something is missing", stallLimit)
			return nil
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// await waits until something is the case.
func (s *story) await(ctx context.Context, is func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, stallLimit, fmt.Errorf("what was to happen hasn't within %v", stallLimit))
	defer cancel()
	for {
		if done, err := is(ctx); done || err != nil {
			return err
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

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

// story is what is shown, chapter by chapter. Each one shows a promise.
type story struct {
	*shop
	*console.Console
	orders     []Order
	odd        int // the place of the order in Swiss francs, the first one of the fourth chapter
	stallLimit time.Duration
	looked     time.Time // when it was last looked how far everything is
}

func (s *story) tell(ctx context.Context) error {
	for i, chapter := range []struct {
		title string
		tell  func(context.Context) error
	}{
		{"An order and its event are committed together, or not at all", s.tellOfOrders},
		{"When the relay dies, nothing is lost, and nobody waits for it", s.tellOfTheRelay},
		{"What comes twice has its effect once", s.tellOfCopies},
		{"A poison message holds up nobody else, and isn't lost", s.tellOfPoison},
		{"An event that nobody wants yet is kept", s.tellOfParking},
	} {
		s.Print("\n%s", s.Bold(fmt.Sprintf("%d. %s", i+1, chapter.title)))
		if err := chapter.tell(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *story) tellOfOrders(ctx context.Context) error {
	if err := s.placeOrders(ctx, s.orders[:s.odd/2]); err != nil {
		return err
	}
	committed, refused := s.answers()
	s.Say("%d orders are committed. %d are refused after their event was written:\n"+
		"the rollback takes it along, and nobody will ever hear of it.", committed, refused)
	return nil
}

func (s *story) tellOfTheRelay(ctx context.Context) error {
	// It shall have something behind it when it is killed.
	err := s.await(ctx, func(context.Context) (bool, error) { return s.orderRelay.Done() > 0, nil })
	if err != nil {
		return err
	}
	pid, published := s.orderRelay.Kill()
	s.Say("The process that publishes the order service's events is killed\n"+
		"(%s, pid %d) after %d events.", killedBy(), pid, published)

	if err := s.placeOrders(ctx, s.orders[s.odd/2:s.odd]); err != nil {
		return err
	}
	waiting, err := s.unpublished(ctx)
	if err != nil {
		return err
	}
	committed, _ := s.answers()
	s.Say("The shop goes on: %d orders are committed, and %d events wait in the outbox.", committed, waiting)
	if err := s.startOrderRelay(ctx); err != nil {
		return err
	}
	s.Say("Another relay is started. It takes over when the dead one's lease ends (%v).", relayLease)
	if err := s.settle(ctx, 0); err != nil {
		return err
	}
	s.Say("Everything has arrived: each order is reserved, paid or declined, and its\ncustomer told.")
	return nil
}

// killedBy says what Kill does here.
func killedBy() string {
	if runtime.GOOS == "windows" {
		return "TerminateProcess; there is no SIGKILL on Windows"
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
	s.Say("%d copies were thrown in on the way. The second relay, which can't know what\n"+
		"the first one had sent last, has repeated %d events. The services' inboxes have\n"+
		"dropped all %d that came to them.", copies, max(0, messages-events-copies), dropped)
	return r.err
}

func (s *story) tellOfPoison(ctx context.Context) error {
	if err := s.placeOrders(ctx, s.orders[s.odd:]); err != nil {
		return err
	}
	if err := s.settle(ctx, 1); err != nil {
		return err
	}
	queue := amqp.DeadLettersConfig{Connection: s.payment.connection(), Queue: s.payment.queue()}
	var letters []amqp.DeadLetter
	err := s.await(ctx, func(ctx context.Context) (_ bool, err error) {
		letters, err = amqp.DeadLetters(ctx, queue)
		return len(letters) > 0, err
	})
	if err != nil {
		return err
	}
	s.Say("Payment can't handle an order in Swiss francs. Its %s is in the\n"+
		"dead-letter queue, and the %d orders after it went past. The reason:\n%s",
		letters[0].Type, len(s.orders)-s.odd-1, s.Faint(letters[0].Error))

	// Payment is repaired and started again.
	if err := s.consumers["payment"].end(); err != nil {
		return err
	}
	s.payment.rates["CHF"] = 1060
	if err := s.startConsumer(ctx, "payment", s.payment.consume); err != nil {
		return err
	}
	if _, err := amqp.Redrive(ctx, amqp.RedriveConfig{Connection: queue.Connection, Queue: queue.Queue}); err != nil {
		return err
	}
	if err := s.settle(ctx, 0); err != nil {
		return err
	}
	s.Say("Payment is given the rate, and the dead letter is redriven: the order is paid.")
	return nil
}

func (s *story) tellOfParking(ctx context.Context) error {
	if err := s.order.changePrice(ctx, PriceChange{Item: items[0], Cents: 5200}); err != nil {
		return err
	}
	var parked []relay.ParkedEvent
	err := s.await(ctx, func(ctx context.Context) (_ bool, err error) {
		parked, err = s.order.store.Parked(ctx, relay.ParkedFilter{}, 1)
		return len(parked) > 0, err
	})
	if err != nil {
		return err
	}
	s.Say("A %s leads to no queue. The relay has parked it:\n%s", parked[0].Event.Type, s.Faint(parked[0].Reason))

	// A new version of the notification service is started. The witness wants to see such events, too.
	for _, name := range []string{"notification", witnessName} {
		if err := s.consumers[name].end(); err != nil {
			return err
		}
	}
	inbox.On(s.notification.inbox, priceChanged, s.notification.onPriceChanged)
	s.witness.types = append(s.witness.types, priceChanged)
	if err := s.startConsumer(ctx, "notification", s.notification.consume); err != nil {
		return err
	}
	if err := s.startConsumer(ctx, witnessName, s.witness.watch); err != nil {
		return err
	}

	if _, err := s.order.store.RetryParked(ctx, relay.ParkedFilter{Type: priceChanged}, "operator"); err != nil {
		return err
	}
	err = s.await(ctx, func(ctx context.Context) (bool, error) {
		r := &reader{ctx: ctx}
		return r.count(s.notification.db, `SELECT count(*) FROM notifications WHERE event_type = '`+priceChanged+`'`) > 0, r.err
	})
	if err != nil {
		return err
	}
	s.Say("Notification learns what to do about it, the parked event is retried, and\nhas arrived.")
	return s.settle(ctx, 0)
}

// orderInterval leaves time to watch.
const orderInterval = 5 * time.Millisecond

// placeOrders places orders as customers do, one after the other.
func (s *story) placeOrders(ctx context.Context, orders []Order) error {
	for _, order := range orders {
		err := s.order.place(ctx, order)
		if err != nil && !errors.Is(err, errOverLimit) {
			return fmt.Errorf("place %s: %w", order.ID, err)
		}
		s.told[order.ID] = err == nil
		if time.Since(s.looked) > lookInterval {
			if _, err := s.look(ctx); err != nil {
				return err
			}
		}
		if err := sleep(ctx, orderInterval); err != nil {
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
	written := r.count(s.order.db, `SELECT count(*) FROM surepost_outbox`)
	seen := r.count(s.witness.db, `SELECT count(DISTINCT event_id) FROM sightings WHERE event_type = '`+orderCreated+`'`)
	return written - seen, r.err
}

// standing is how far everything is, by the services' databases. It counts events, not rows, so that an effect that
// happened twice doesn't stand for one that is missing.
type standing struct {
	committed, reserved, paid, refused, returned, notified int

	messages, dropped int
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
		notified: r.count(s.notification.db, `
			SELECT count(DISTINCT event_id) FROM notifications WHERE event_type <> '`+priceChanged+`'`),
		messages: r.count(s.witness.db, `SELECT count(*) FROM sightings`),
	}
	for _, service := range s.services() {
		now.dropped += r.count(service.db, `SELECT count(*) FROM dropped`)
	}
	s.Show("committed %d, reserved %d, paid %d, declined %d, notified %d",
		now.committed, now.reserved, now.paid, now.refused, now.notified)
	s.looked = time.Now()
	return now, r.err
}

// arrived reports whether all orders have come to their end, but for so many that are held up.
func (n standing) arrived(heldUp int) bool {
	return n.reserved == n.committed && n.paid+n.refused == n.committed-heldUp &&
		n.notified == n.paid+n.refused && n.returned == n.refused
}

const (
	// lookInterval is how often it is looked how far everything is: not so often that the databases feel it.
	lookInterval = 50 * time.Millisecond
	// quietFor is how long nothing may have moved before all is taken to be settled: the last copies may still come.
	quietFor = 300 * time.Millisecond
	// stallLimit is how long the story waits for what is missing while nothing moves.
	stallLimit = 20 * time.Second
)

// errStalled ends the story, but not the program: the books will tell what is missing.
var errStalled = errors.New("something is missing, and nothing moves any more")

// settle waits until all orders have come to their end, but for so many that are held up.
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
		switch still := time.Since(moved); {
		case now.arrived(heldUp) && still >= quietFor:
			return nil
		case still >= s.stallLimit:
			return errStalled
		}
		if err := sleep(ctx, lookInterval); err != nil {
			return err
		}
	}
}

// await waits until something is the case.
func (s *story) await(ctx context.Context, is func(context.Context) (bool, error)) error {
	for began := time.Now(); ; {
		if done, err := is(ctx); done || err != nil {
			return err
		}
		if time.Since(began) > s.stallLimit {
			return errStalled
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

package amqp

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost/amqp/amqptest"
)

func openCourier(t *testing.T, b *amqptest.Broker, c Connection) *courier {
	t.Helper()
	c.URLs = []string{b.URL()}
	l, err := dial(testContext(t), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.raw.Close() })
	courier, err := newCourier(testContext(t), l)
	if err != nil {
		t.Fatal(err)
	}
	return courier
}

// parcels are addressed to queues of these names.
func parcels(queues ...string) (all []parcel) {
	for _, q := range queues {
		all = append(all, parcel{key: q, publishing: amqp091.Publishing{Body: []byte("{}")}})
	}
	return all
}

// TestEachParcelHasItsOutcome: a return counts although the broker confirms it, and so do all others to that queue, since
// parcels without a message-id can't be told apart.
func TestEachParcelHasItsOutcome(t *testing.T) {
	b := startBroker(t, amqptest.Config{})
	administer(t, b, func(ch *amqp091.Channel) error {
		return errors.Join(second(ch.QueueDeclare("missing", true, false, false, false, nil)),
			second(ch.QueueDeclare("full", true, false, false, false, nil)))
	})
	b.Inject(amqptest.Fault{When: publishedTo("full"), Do: amqptest.Nack()})
	c := openCourier(t, b, Connection{})
	for range 2 { // the second time knows nothing of the first
		b.Inject(amqptest.Fault{When: publishedTo("missing"), Times: 1, Do: amqptest.Unroutable()})
		got, err := c.send(testContext(t), parcels("q", "missing", "full", "missing", "q"))
		if err != nil {
			t.Fatal(err)
		}
		want := []error{nil, errNotThere, errNack, errNotThere, nil}
		for i := range want {
			if !errors.Is(got[i], want[i]) || want[i] == nil && got[i] != nil {
				t.Errorf("parcel %d: %v, want %v", i, got[i], want[i])
			}
		}
	}
}

// TestAParcelWithoutItsConfirmIsUnknown, never moved: the channel or the connection ended, or time did.
func TestAParcelWithoutItsConfirmIsUnknown(t *testing.T) {
	for name, test := range map[string]struct {
		fault amqptest.Action
		words string
	}{
		"channel closed":   {amqptest.CloseChannel(404, "NOT_FOUND"), "channel was closed"},
		"connection cut":   {amqptest.Drop(), ""},
		"confirm too late": {amqptest.NeverConfirm(), "no confirm within RPCTimeout"},
	} {
		b := startBroker(t, amqptest.Config{})
		b.Inject(amqptest.Fault{When: publishedTo("q"), Do: test.fault})
		c := openCourier(t, b, Connection{RPCTimeout: 200 * time.Millisecond})
		got, err := c.send(testContext(t), parcels("q", "q"))
		if err == nil || got != nil || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
}

// TestACourierWaitsOutAnAlarm, beyond RPCTimeout, and ctx ends the wait.
func TestACourierWaitsOutAnAlarm(t *testing.T) {
	const limit = 100 * time.Millisecond
	b := startBroker(t, amqptest.Config{})
	c := openCourier(t, b, Connection{RPCTimeout: limit})
	b.Block("memory")
	lifted := time.AfterFunc(5*limit, b.Unblock)
	if got, err := c.send(testContext(t), parcels("q")); err != nil || got[0] != nil || lifted.Stop() {
		t.Fatalf("%v %v", got, err)
	}
	b.Block("memory")
	ctx, cancel := context.WithTimeout(t.Context(), 3*limit)
	defer cancel()
	if _, err := c.send(ctx, parcels("q")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("still blocked: %v", err)
	}
	b.Unblock()
	if got, err := c.send(testContext(t), parcels("q")); err != nil || got[0] != nil {
		t.Errorf("unblocked: %v %v", got, err)
	}
}

func second[T any](_ T, err error) error { return err }

// publishedTo chooses the messages for a queue.
func publishedTo(queue string) func(amqptest.Event) bool {
	return amqptest.Publish(func(m *amqptest.Message) bool { return m.RoutingKey == queue })
}

package amqp

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

func openCourier(t *testing.T, p *peer, c Connection) *courier {
	t.Helper()
	c.URLs = []string{p.url()}
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
	missing := 0
	p := newPeer(t, script{published: func(c *peerConn, m peerMessage) {
		switch {
		case m.key == "missing":
			if missing++; missing == 1 {
				c.giveBack(m)
			}
			c.ack(m)
		case m.key == "full":
			c.nack(m)
		default:
			c.ack(m)
		}
	}})
	c := openCourier(t, p, Connection{})
	for range 2 { // the second time knows nothing of the first
		missing = 0
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
		published func(*peerConn, peerMessage)
		words     string
	}{
		"channel closed":   {func(c *peerConn, m peerMessage) { c.closeChannel(m.channel, 404, "NOT_FOUND") }, "channel was closed"},
		"connection cut":   {func(c *peerConn, m peerMessage) { c.Close() }, ""},
		"confirm too late": {func(*peerConn, peerMessage) {}, "no confirm within RPCTimeout"},
	} {
		c := openCourier(t, newPeer(t, script{published: test.published}), Connection{RPCTimeout: 200 * time.Millisecond})
		got, err := c.send(testContext(t), parcels("q", "q"))
		if err == nil || got != nil || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
}

// TestACourierWaitsOutAnAlarm, beyond RPCTimeout, and ctx ends the wait.
func TestACourierWaitsOutAnAlarm(t *testing.T) {
	const limit = 100 * time.Millisecond
	held := make(chan peerMessage, 1)
	p := newPeer(t, script{published: func(c *peerConn, m peerMessage) { // it reads one message more, and confirms nothing
		c.blocked("memory")
		held <- m
	}})
	c := openCourier(t, p, Connection{RPCTimeout: limit})
	go func() {
		m := <-held
		time.Sleep(5 * limit)
		p.last().ack(m)
	}()
	if got, err := c.send(testContext(t), parcels("q")); err != nil || got[0] != nil {
		t.Fatalf("%v %v", got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*limit)
	defer cancel()
	if _, err := c.send(ctx, parcels("q")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("still blocked: %v", err)
	}
	p.last().unblocked()
	go func() { p.last().ack(<-held) }()
	if got, err := c.send(testContext(t), parcels("q")); err != nil || got[0] != nil {
		t.Errorf("unblocked: %v %v", got, err)
	}
}

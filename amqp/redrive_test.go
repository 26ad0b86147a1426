package amqp

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// TestBadRedrivesAreRefused before anything is connected to.
func TestBadRedrivesAreRefused(t *testing.T) {
	at := Connection{URLs: []string{"amqp://127.0.0.1:1"}}
	for name, test := range map[string]struct {
		config RedriveConfig
		words  string
	}{
		"no queue":    {RedriveConfig{Connection: at}, "Queue is empty"},
		"no URL":      {RedriveConfig{Queue: "q"}, "no URL"},
		"long":        {RedriveConfig{Connection: at, Queue: strings.Repeat("q", 252)}, "DeadLetterQueue is 256 bytes"},
		"into itself": {RedriveConfig{Connection: at, Queue: "q", To: "q.dlq"}, "To is the dead-letter queue itself"},
		"from itself": {RedriveConfig{Connection: at, Queue: "q", DeadLetterQueue: "q"}, "is the Queue itself"},
		"limit":       {RedriveConfig{Connection: at, Queue: "q", Limit: -1}, "Limit is -1"},
		"no time": {RedriveConfig{Connection: at, Queue: "q",
			Select: DeadLetterFilter{After: time.Unix(2, 0), Before: time.Unix(1, 0)}}, "exchange them"},
		"nobody there": {RedriveConfig{Connection: at, Queue: "q"}, "nothing listens there"},
	} {
		if _, err := Redrive(context.Background(), test.config); err == nil || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := DeadLetters(context.Background(), DeadLettersConfig{Connection: at, Queue: "q", Limit: -1}); err == nil ||
		!strings.Contains(err.Error(), "DeadLettersConfig.Limit is -1") {
		t.Errorf("a listing: %v", err)
	}
}

// fakeAcknowledger notes what is taken off the pile.
type fakeAcknowledger struct{ acked []uint64 }

func (f *fakeAcknowledger) Ack(tag uint64, _ bool) error { f.acked = append(f.acked, tag); return nil }
func (f *fakeAcknowledger) Nack(uint64, bool, bool) error {
	panic("a letter that stays isn't given back by itself")
}
func (f *fakeAcknowledger) Reject(uint64, bool) error {
	panic("a letter that stays isn't given back by itself")
}

// TestRefusedLettersHoldTheirKeys: a queue takes and refuses letters at random. What it has taken is of each key a
// beginning, in order, and just that is off the pile.
func TestRefusedLettersHoldTheirKeys(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 7))
		const letters, keys = 200, 12
		taken := map[string][]string{}
		pile := &pile{queue: "q.dlq", waiting: letters, deliveries: make(chan amqp091.Delivery)}
		acks := &fakeAcknowledger{}
		r := &redrive{config: RedriveConfig{Queue: "q"}, pile: pile, report: RedriveReport{Waiting: letters},
			staying: map[orderKey]bool{}, destinations: map[string]error{"q": nil}}
		r.send = func(_ context.Context, parcels []parcel) ([]error, error) {
			outcomes := make([]error, len(parcels))
			for i, p := range parcels {
				if random.IntN(20) == 0 {
					outcomes[i] = errNack
					continue
				}
				key, _, _ := strings.Cut(p.publishing.MessageId, "/")
				taken[key] = append(taken[key], p.publishing.MessageId)
			}
			return outcomes, nil
		}
		all := map[string][]string{}
		for n := range letters {
			key := fmt.Sprintf("k%d", random.IntN(keys))
			id := fmt.Sprintf("%s/%d", key, len(all[key])+1)
			all[key] = append(all[key], id)
			d := amqp091.Delivery{Acknowledger: acks, DeliveryTag: uint64(n + 1), MessageId: id,
				Headers: amqp091.Table{HeaderQueue: "q"}, Body: fmt.Appendf(nil, `{"eventId":%q,"eventType":"T","key":%q}`, id, key)}
			if err := r.decide(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			if random.IntN(30) == 0 { // nothing more has come for now
				r.flush(t.Context())
			}
		}
		if err := r.flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		moved := 0
		for key, got := range taken {
			moved += len(got)
			if !slices.Equal(got, all[key][:len(got)]) {
				t.Fatalf("seed %d: of %s were moved %v", seed, key, got)
			}
		}
		if r.report.Moved != moved || len(acks.acked) != moved || r.report.Failed+r.report.Held != letters-moved ||
			r.report.Failed > keys || pile.left != letters-moved {
			t.Fatalf("seed %d: moved %d, acknowledged %d, %d stay, %+v", seed, moved, len(acks.acked), pile.left, r.report)
		}
	}
}

// TestLettersOfOthersInASharedQueueAreNotMeant.
func TestLettersOfOthersInASharedQueueAreNotMeant(t *testing.T) {
	c := RedriveConfig{Queue: "billing"}
	for queue, want := range map[string]bool{"billing": true, "billing.3": true, "": true, "shipping": false, "billing.x": false,
		"billing.retry.5s": false, "billing2": false} {
		if got := c.concerns(DeadLetter{Queue: queue}); got != want {
			t.Errorf("%q: %v", queue, got)
		}
	}
}

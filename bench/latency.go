package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/relay"
)

var latency = benchmark{
	name: "latency",
	compares: "From the return of a producer's commit to the start of the consumer's handler, at a fixed rate of " +
		"transactions with " +
		"one event each, with the relay woken after each commit and with it polling, and once more to the start " +
		"of an inbox's " +
		"handler, which is inside the inbox's transaction; the reference is from a bare publish to a bare " +
		"consumer's receipt " +
		"with amqp091-go, same rate, same kind of queue.",
	defaults: options{rate: 1000, slice: 10 * time.Second, rounds: 3},
	smoke:    options{rate: 100, slice: 300 * time.Millisecond, rounds: 1},
	run:      runLatency,
}

const (
	latencyQueue   = "latency"
	latencyWarmUp  = time.Second // of each measurement: its events are sent and not counted
	latencyTimeout = 30 * time.Second
)

var clocks = map[string]string{
	"woken":   "from the commit's return in the producer to the first line of the consumer's Handler",
	"polling": "from the commit's return in the producer to the first line of the consumer's Handler",
	"woken-inbox": "from the commit's return in the producer to the first line of the inbox's handler, its record " +
		"already inserted",
}

var percentiles = []struct {
	name string
	p    float64
}{{"p50", 0.5}, {"p99", 0.99}, {"p999", 0.999}}

func runLatency(ctx context.Context, l *lab) ([]result, error) {
	// The queue is the consumer's default: a quorum queue with a single active consumer.
	measured, trips := map[string][]*trip{}, 0
	sides := []side{}
	for name, measure := range map[string]func(context.Context, *trip) error{
		"woken":       func(ctx context.Context, t *trip) error { return l.throughSurepost(ctx, t, true, t.handler()) },
		"polling":     func(ctx context.Context, t *trip) error { return l.throughSurepost(ctx, t, false, t.handler()) },
		"woken-inbox": l.throughInbox,
		"bare":        l.throughBroker,
	} {
		sides = append(sides, side{name + " p50 in ms", func(ctx context.Context) (float64, error) {
			if err := l.exec(ctx, "CHECKPOINT"); err != nil {
				return 0, err
			}
			trips++
			t := newTrip(trips, l.rate, l.slice)
			if err := measure(ctx, t); err != nil {
				return 0, err
			}
			measured[name] = append(measured[name], t)
			return t.percentile(0.5), nil
		}})
	}
	if _, err := alternate(ctx, l.rounds, sides...); err != nil {
		return nil, err
	}

	at := func(name string, p float64) (all []float64) {
		for _, t := range measured[name] {
			all = append(all, rounded(t.percentile(p)))
		}
		return all
	}
	aims := map[string]float64{"woken/p50": 3, "woken/p99": 25, "polling/p50": 15, "polling/p99": 25}
	var results []result
	for _, name := range []string{"woken", "polling", "woken-inbox"} {
		for _, p := range percentiles {
			figures, references := at(name, p.p), at("bare", p.p)
			settings := map[string]any{
				"rounds": l.rounds, "measured": map[string][]float64{name: figures, "bare": references},
			}
			if p.name == "p50" {
				maps.Copy(settings, map[string]any{
					"rate":  fmt.Sprintf("%d events/s, sent by the clock whether or not earlier ones are done", l.rate),
					"slice": l.slice.String() + " after a warm-up of " + latencyWarmUp.String(),
					"clock": clocks[name] + "; reference: from before the publish call to the receipt",
					"queue": "quorum, single active consumer; all clients in one process",
					"behind": fmt.Sprintf("the producer's commits returned %.1f ms after their scheduled time in "+
						"the median, %.1f ms at p99", median(behind(measured[name], 0.5)), median(behind(measured[name], 0.99))),
				})
			}
			r := newCost("latency/"+name+"-"+p.name, "ms", median(figures), median(references), settings)
			if most, ok := aims[name+"/"+p.name]; ok {
				r = r.atMost(most)
			}
			results = append(results, r)
		}
	}
	return results, nil
}

// trip is the way of many events: when each was due, left and arrived. Each goroutine writes its own event's places.
type trip struct {
	first         int // number of its first event: no other trip has events of these numbers
	interval      time.Duration
	warmUp        int // events at the beginning that don't count
	due           []time.Time
	left, arrived []time.Time
	missing       atomic.Int64
	strays        atomic.Int64 // events of others
	complete      chan struct{}
}

func newTrip(number, rate int, slice time.Duration) *trip {
	interval := time.Second / time.Duration(rate)
	warmUp := int(min(latencyWarmUp, slice) / interval)
	n := warmUp + int(slice/interval)
	t := &trip{
		first: number * 1_000_000, interval: interval, warmUp: warmUp, complete: make(chan struct{}),
		due: make([]time.Time, n), left: make([]time.Time, n), arrived: make([]time.Time, n),
	}
	t.missing.Store(int64(n))
	return t
}

// send calls each event's send at its time, in a goroutine of its own: a slow one delays no other, so that whatever
// makes the system stand still is seen by all events of that time. It waits for all of them to arrive.
func (t *trip) send(ctx context.Context, send func(i int) error) error {
	var sending sync.WaitGroup
	errs := make([]error, len(t.due))
	began := time.Now()
	for i := range t.due {
		t.due[i] = began.Add(time.Duration(i) * t.interval)
		time.Sleep(time.Until(t.due[i]))
		sending.Go(func() { errs[i] = send(i) })
	}
	sending.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	select {
	case <-t.complete:
		if n := t.strays.Load(); n > 0 {
			return fmt.Errorf("%d events of something else arrived: they were a load that nobody meant", n)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(latencyTimeout):
		return fmt.Errorf("%d of %d events haven't arrived", t.missing.Load(), len(t.due))
	}
}

// arrive notes that the event of an order arrived. A second arrival doesn't count; two at once there can't be, since
// a consumer handles a key's messages one after the other.
func (t *trip) arrive(o order, at time.Time) {
	i := o.ID - newOrder(t.first).ID
	if i < 0 || i >= len(t.due) {
		t.strays.Add(1)
		return
	}
	if !t.arrived[i].IsZero() {
		return
	}
	t.arrived[i] = at
	if t.missing.Add(-1) == 0 {
		close(t.complete)
	}
}

// percentile of the latencies, in milliseconds.
func (t *trip) percentile(p float64) float64 { return t.between(t.left, t.arrived, p) }

func (t *trip) between(from, to []time.Time, p float64) float64 {
	took := make([]time.Duration, 0, len(from))
	for i := t.warmUp; i < len(from); i++ {
		took = append(took, to[i].Sub(from[i]))
	}
	slices.Sort(took)
	return took[int(p*float64(len(took)-1))].Seconds() * 1000
}

// behind tells how late the producer's commits were, in milliseconds.
func behind(trips []*trip, p float64) (all []float64) {
	for _, t := range trips {
		all = append(all, t.between(t.due, t.left, p))
	}
	return all
}

// handlerFunc is a consumer's handler without a database.
type handlerFunc func(ctx context.Context, event surepost.Event) (inbox.Result, error)

func (f handlerFunc) Handle(ctx context.Context, event surepost.Event) (inbox.Result, error) {
	return f(ctx, event)
}

// handler notes when an event arrived.
func (t *trip) handler() handlerFunc {
	return func(_ context.Context, e surepost.Event) (inbox.Result, error) {
		at := time.Now()
		var o order
		if err := e.Decode(&o); err != nil {
			return 0, inbox.Permanent(err)
		}
		t.arrive(o, at)
		return inbox.Handled, nil
	}
}

// throughInbox is throughSurepost with an inbox on the same database.
func (l *lab) throughInbox(ctx context.Context, t *trip) error {
	in, err := inbox.New(l.store, inbox.Config{Consumer: "latency"})
	if err != nil {
		return err
	}
	handle := t.handler()
	in.On(eventType, func(ctx context.Context, _ pgx.Tx, e surepost.Event) error {
		_, err := handle(ctx, e)
		return err
	})
	return l.throughSurepost(ctx, t, true, in)
}

// throughSurepost sends events by transactions, the outbox, a relay, RabbitMQ and a consumer.
func (l *lab) throughSurepost(ctx context.Context, t *trip, wake bool, handler amqp.Handler) error {
	ready := make(chan struct{})
	consumer, err := amqp.NewConsumer(amqp.ConsumerConfig{
		Connection: amqp.Connection{URLs: []string{l.rabbitmq.URL()}}, Logger: silent,
		Queue: latencyQueue, Types: []string{eventType}, Handler: handler,
		Hooks: amqp.ConsumerHooks{OnConnect: sync.OnceFunc(func() { close(ready) })},
	})
	if err != nil {
		return err
	}
	publisher, err := amqp.NewPublisher(amqp.PublisherConfig{
		Connection: amqp.Connection{URLs: []string{l.rabbitmq.URL()}}, Logger: silent,
	})
	if err != nil {
		return err
	}
	r, err := relay.New(l.store, publisher, relay.Config{Logger: silent})
	if err != nil {
		return err
	}
	err = l.while(ctx, func(ctx context.Context) error {
		select {
		case <-ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		return t.send(ctx, func(i int) error {
			err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error { return l.box.Write(ctx, tx, newEvent(t.first+i)) })
			t.left[i] = time.Now()
			if wake {
				r.Wake()
			}
			return err
		})
	}, r.Run, consumer.Run)
	return errors.Join(err, l.discard(latencyQueue)) // or the queue would collect the messages of the bare client
}

// while runs services for as long as work takes. A service that fails ends the work.
func (l *lab) while(ctx context.Context, work func(context.Context) error, services ...func(context.Context) error) error {
	working, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	running, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, len(services))
	for _, serve := range services {
		go func() {
			err := serve(running)
			if err != nil {
				fail(err)
			}
			ended <- err
		}()
	}
	err := work(working)
	stop()
	for range services {
		err = errors.Join(err, <-ended)
	}
	return err
}

// throughBroker sends messages with the bare client library to a bare consumer.
func (l *lab) throughBroker(ctx context.Context, t *trip) error {
	const queue = latencyQueue + ".bare"
	if err := l.declare(queue, amqp091.Table{"x-queue-type": "quorum", "x-single-active-consumer": true}); err != nil {
		return err
	}
	defer l.discard(queue)
	messages, _, err := publishings(ctx, t.first, len(t.due))
	if err != nil {
		return err
	}
	in, err := amqp091.Dial(l.rabbitmq.URL())
	if err != nil {
		return err
	}
	defer in.Close()
	receiving, err := in.Channel()
	if err != nil {
		return err
	}
	if err := receiving.Qos(100, 0, false); err != nil { // the consumer's default
		return err
	}
	deliveries, err := receiving.ConsumeWithContext(ctx, queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	out, err := amqp091.Dial(l.rabbitmq.URL())
	if err != nil {
		return err
	}
	defer out.Close()
	sending, err := out.Channel()
	if err != nil {
		return err
	}
	if err := sending.Confirm(false); err != nil {
		return err
	}
	receive := func(ctx context.Context) error {
		for {
			select {
			case d := <-deliveries:
				at := time.Now()
				var body struct{ Data order }
				if err := json.Unmarshal(d.Body, &body); err != nil {
					return err
				}
				t.arrive(body.Data, at)
				if err := d.Ack(false); err != nil {
					return err
				}
			case <-ctx.Done():
				return nil
			}
		}
	}
	return l.while(ctx, func(ctx context.Context) error {
		return t.send(ctx, func(i int) error {
			t.left[i] = time.Now()
			_, err := sending.PublishWithDeferredConfirmWithContext(ctx, exchange, routingKey, true, false, messages[i])
			return err
		})
	}, receive)
}

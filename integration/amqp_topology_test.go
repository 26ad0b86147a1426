package integration

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/inbox"
)

// major returns RabbitMQ's first number: what is promised differs.
func (q *queueUnderTest) major() int {
	q.t.Helper()
	version, _ := q.conn.Properties["version"].(string)
	first, _, _ := strings.Cut(version, ".")
	n, err := strconv.Atoi(first)
	if err != nil {
		q.t.Fatalf("the broker's version is %q", version)
	}
	return n
}

// tally notes who handled what.
type tally struct {
	mu     sync.Mutex
	byKey  map[string]map[string]int // who, key → events
	events map[string]int            // who → events
}

func newTally() *tally { return &tally{byKey: map[string]map[string]int{}, events: map[string]int{}} }

func (y *tally) hook(who string) func(amqp.HandledMessage) {
	return func(h amqp.HandledMessage) {
		y.mu.Lock()
		defer y.mu.Unlock()
		if y.byKey[who] == nil {
			y.byKey[who] = map[string]int{}
		}
		y.byKey[who][h.Event.Key]++
		y.events[who]++
	}
}

func (y *tally) of(who string) int {
	y.mu.Lock()
	defer y.mu.Unlock()
	return y.events[who]
}

func (y *tally) reset() {
	y.mu.Lock()
	defer y.mu.Unlock()
	clear(y.byKey)
	clear(y.events)
}

// keysOfBoth returns how many keys both have handled.
func (y *tally) keysOfBoth(a, b string) (n int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for key := range y.byKey[a] {
		if y.byKey[b][key] > 0 {
			n++
		}
	}
	return n
}

// consumeConnected runs a consumer and returns when it consumes.
func (q *queueUnderTest) consumeConnected(config amqp.ConsumerConfig) (stop func()) {
	q.t.Helper()
	connected := make(chan struct{}, 100)
	config.Hooks.OnConnect = func() { connected <- struct{}{} }
	stop = q.consume(config)
	await(q.t, connected)
	return stop
}

// TestPartitionsSpreadOverProcesses, and move as they join, leave and die, with order per key all the while. RabbitMQ 3
// can't move them: the process that came first has all, and the others stand by.
func TestPartitionsSpreadOverProcesses(t *testing.T) {
	t.Parallel()
	const partitions, keys = 8, 100
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	spreads := mq.major() >= 4
	l := newOrderLedger(t, func(context.Context, surepost.Event) error {
		time.Sleep(time.Millisecond)
		return nil
	})
	y := newTally()
	consume := func(who string) (stop func()) {
		return mq.consumeConnected(amqp.ConsumerConfig{Handler: l, Partitions: partitions,
			Hooks: amqp.ConsumerHooks{OnHandled: y.hook(who)}})
	}
	stopA := consume("a")
	mq.send(1, keys, 10)
	l.await(keys * 10)

	direct := mq.url
	proxy := harness.NewProxy(t, mq.url)
	mq.url = proxy.URL()
	mq.send(11, keys, 10) // while the second one joins
	stopB := consume("b")
	mq.url = direct
	l.await(keys * 20)
	y.reset()
	mq.send(21, keys, 10)
	l.await(keys * 30)
	a, b := y.of("a"), y.of("b")
	switch {
	case spreads && (a == 0 || b == 0):
		t.Errorf("a handled %d, b %d: the partitions didn't spread", a, b)
	case !spreads && b > 0:
		t.Errorf("b handled %d, though RabbitMQ 3 doesn't move partitions: say so in the documents", b)
	}
	if n := y.keysOfBoth("a", "b"); n > 0 {
		t.Errorf("%d keys were handled by both", n)
	}

	mq.send(31, keys, 10)
	proxy.Cut() // b dies
	stopB()
	l.await(keys * 40)
	y.reset()
	mq.send(41, keys, 10)
	l.await(keys * 50)
	if n := y.of("a"); n != keys*10 {
		t.Errorf("a handled %d after b's death, want all", n)
	}
	stopC := consume("c")
	stopA() // in good order
	mq.send(51, keys, 10)
	l.await(keys * 60)
	stopC()
	for n := range partitions {
		mq.wantMessages(fmt.Sprintf("%s.%d", consumedQueue, n), 0)
	}
	mq.wantMessages(deadLetters, 0)
}

// TestPartitionsByHand: each process has its own, which is the way with RabbitMQ 3.
func TestPartitionsByHand(t *testing.T) {
	t.Parallel()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	l, y := newOrderLedger(t, nil), newTally()
	var stops []func()
	for who, only := range map[string][]int{"a": {0, 3}, "b": {1, 2}} {
		stops = append(stops, mq.consumeConnected(amqp.ConsumerConfig{Handler: l, Partitions: 4, OnlyPartitions: only,
			Hooks: amqp.ConsumerHooks{OnHandled: y.hook(who)}}))
	}
	mq.send(1, 100, 10)
	l.await(1000)
	for _, stop := range stops {
		stop()
	}
	if y.of("a") == 0 || y.of("b") == 0 || y.keysOfBoth("a", "b") > 0 {
		t.Errorf("a handled %d, b %d; %d keys both", y.of("a"), y.of("b"), y.keysOfBoth("a", "b"))
	}
	if l.duplicates() > 0 {
		t.Errorf("%d were handled twice", l.duplicates())
	}
}

// TestPartitionsByRoutingKey: for relays whose routing key is the event's key.
func TestPartitionsByRoutingKey(t *testing.T) {
	t.Parallel()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	l := newOrderLedger(t, nil)
	config := amqp.ConsumerConfig{Handler: l, Partitions: 4, PartitionBy: amqp.PartitionByRoutingKey, BindingKeys: []string{"#"}}
	config.Connection.URLs, config.Queue = []string{mq.url}, consumedQueue
	connected := make(chan struct{}, 10)
	config.Hooks.OnConnect = func() { connected <- struct{}{} }
	c, err := amqp.NewConsumer(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- c.Run(ctx) }()
	await(t, connected)
	for n := range 200 {
		key := fmt.Sprintf("key%d", n%20)
		body := fmt.Appendf(nil, `{"eventId":"%s/%d","eventType":"T%d","key":%q,"data":%d}`, key, n/20+1, n%3, key, n/20+1)
		mq.publishRaw("events", key, amqp091.Publishing{Body: body}).Wait()
	}
	l.await(200)
	cancel()
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// TestMessagesWithoutKeyHeaderShareAPartition: those of another publisher keep their order, though not their speed.
func TestMessagesWithoutKeyHeaderShareAPartition(t *testing.T) {
	t.Parallel()
	const partitions = 8
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	mq.consumeConnected(amqp.ConsumerConfig{Partitions: partitions})()
	for n := range 50 {
		mq.publishRaw("events", "shop.OrderCreated", amqp091.Publishing{MessageId: fmt.Sprint(n)}).Wait()
	}
	var used []int
	for n := range partitions {
		queue := fmt.Sprintf("%s.%d", consumedQueue, n)
		state, err := mq.channel.QueueDeclarePassive(queue, true, false, false, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		if state.Messages > 0 {
			used = append(used, n)
			mq.wantMessages(queue, 50)
		}
	}
	if len(used) != 1 {
		t.Errorf("partitions %v are in use, want one", used)
	}
}

// TestAnotherNumberOfPartitionsIsFound before it could do harm.
func TestAnotherNumberOfPartitionsIsFound(t *testing.T) {
	t.Parallel()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	mq.consumeConnected(amqp.ConsumerConfig{Partitions: 3})()
	types := []string{"OrderCreated"}
	wantWords(t, mq.runFails(amqp.ConsumerConfig{Types: types, Partitions: 2}), "billing.orders.2", "larger number",
		"set Partitions as it was", "without losing the order")
	wantWords(t, mq.runFails(amqp.ConsumerConfig{Types: types, Partitions: 4}), "billing.orders.3", "the number was smaller")
	mq.consumeConnected(amqp.ConsumerConfig{Partitions: 3})()

	other := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	other.consumeConnected(amqp.ConsumerConfig{})()
	wantWords(t, other.runFails(amqp.ConsumerConfig{Types: types, Partitions: 2}), "without partitions")
}

// TestADeletedPartitionComesBack: what checks the number at the start must not get in the way of healing later.
func TestADeletedPartitionComesBack(t *testing.T) {
	t.Parallel()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	connected, lost := make(chan struct{}, 10), make(chan error, 10)
	l := newOrderLedger(t, nil)
	stop := mq.consume(amqp.ConsumerConfig{Handler: l, Partitions: 3, Hooks: amqp.ConsumerHooks{
		OnConnect: func() { connected <- struct{}{} }, OnDisconnect: func(d amqp.Disconnect) { lost <- d.Err }}})
	await(t, connected)
	if _, err := mq.channel.QueueDelete(consumedQueue+".2", false, false, false); err != nil {
		t.Fatal(err)
	}
	wantWords(t, await(t, lost), "cancelled the consumer", `"billing.orders.2"`, "was deleted")
	await(t, connected)
	mq.send(1, 20, 5)
	l.await(100)
	stop()
}

// TestUnknownExchangeKindIsExplained, up to RabbitMQ 4.2 by the end of the connection, from 4.3 on by that of the channel.
func TestUnknownExchangeKindIsExplained(t *testing.T) {
	t.Parallel()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	for kind, words := range map[string][]string{
		"x-nonsense": {`no exchanges of the kind "x-nonsense"`, "use topic, direct, fanout or headers"},
		"x-random":   {`no exchanges of the kind "x-random"`, "rabbitmq-plugins enable rabbitmq_random_exchange"},
	} {
		p, err := amqp.NewPublisher(amqp.PublisherConfig{Connection: amqp.Connection{URLs: []string{mq.url}},
			Exchanges: []amqp.Exchange{{Name: "odd", Kind: kind}}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Open(t.Context())
		if refused := new(amqp.TopologyError); !errors.As(err, &refused) || refused.Name != "odd" {
			t.Fatalf("%v isn't a *TopologyError", err)
		}
		wantWords(t, err, words...)
	}
}

// TestOtherArgumentsAreExplained: which one, what was asked for, what is there, and what to do.
func TestOtherArgumentsAreExplained(t *testing.T) {
	t.Parallel()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	types := []string{"OrderCreated"}
	mq.consumeConnected(amqp.ConsumerConfig{RetryDelays: []time.Duration{time.Minute}})()
	wantWords(t, mq.runFails(amqp.ConsumerConfig{Types: types, Competing: true}),
		"x-single-active-consumer", "ConsumerConfig.Competing", "delete and create it anew")
	wantWords(t, mq.runFails(amqp.ConsumerConfig{Types: types, DeadLetterQueue: "elsewhere"}),
		"x-dead-letter-routing-key", "elsewhere", "billing.orders.dlq", "ConsumerConfig.DeadLetterQueue")
	err := mq.runFails(amqp.ConsumerConfig{Types: types, DeliveryLimit: 7})
	refused := new(amqp.TopologyError)
	if !errors.As(err, &refused) || refused.Argument != "x-delivery-limit" ||
		!strings.Contains(refused.Asked, "7") || !strings.Contains(refused.Current, "20") {
		t.Errorf("%+v", refused)
	}
}

// retryLedger fails one event until its given try and handles all others.
func retryLedger(t *testing.T, id string, tries int) (*orderLedger, chan time.Time) {
	var mu sync.Mutex
	calls := make(chan time.Time, 100)
	var n int
	return newOrderLedger(t, func(_ context.Context, e surepost.Event) error {
		if e.ID != id {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		n++
		calls <- time.Now()
		if n < tries {
			return fmt.Errorf("try %d", n)
		}
		return nil
	}), calls
}

// TestRetryQueuesDelayAndCount: rounds of attempts with pauses between, then the dead-letter queue with their sum.
func TestRetryQueuesDelayAndCount(t *testing.T) {
	t.Parallel()
	for name, partitions := range map[string]int{"one queue": 0, "partitions": 4} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
			l, calls := retryLedger(t, "key0/1", 1000)
			l.last = nil // it comes after later ones of its key
			delayed, dead := make(chan amqp.RetriedMessage, 100), make(chan amqp.DeadLetteredMessage, 10)
			stop := mq.consumeConnected(amqp.ConsumerConfig{Handler: lastless{l}, Partitions: partitions, MaxAttempts: 2,
				Backoff:     amqp.Backoff{Min: time.Millisecond, Max: 2 * time.Millisecond},
				RetryDelays: []time.Duration{300 * time.Millisecond, 900 * time.Millisecond},
				Hooks: amqp.ConsumerHooks{OnDeadLetter: func(d amqp.DeadLetteredMessage) { dead <- d },
					OnRetry: func(r amqp.RetriedMessage) {
						if r.Delayed {
							delayed <- r
						}
					}}})
			mq.send(1, 4, 3)
			l.await(11) // later events of its key don't wait
			var at []time.Time
			for range 6 {
				at = append(at, await(t, calls))
			}
			if first, second := at[2].Sub(at[1]), at[4].Sub(at[3]); first < 300*time.Millisecond || second < 900*time.Millisecond {
				t.Errorf("the pauses were %v and %v", first, second)
			}
			for n, want := range []time.Duration{300 * time.Millisecond, 900 * time.Millisecond} {
				if r := await(t, delayed); r.Pause != want || r.Attempt != 2*(n+1) || r.Event.ID != "key0/1" {
					t.Errorf("%+v", r)
				}
			}
			if d := await(t, dead); d.Attempts != 6 || d.Reason != amqp.AttemptsSpent {
				t.Errorf("%+v", d)
			}
			stop()
			letter := mq.takeAll(deadLetters, 1)["key0/1"]
			if letter.Headers[amqp.HeaderAttempts] != int64(6) || letter.Headers[amqp.HeaderRetries] != int64(2) ||
				letter.Headers[amqp.HeaderExchange] != "events" || letter.Headers[amqp.HeaderError] != "try 6" {
				t.Errorf("headers %v", letter.Headers)
			}
			if partitions == 0 {
				return
			}
			// Back to the partition that it left, and no other.
			from, _ := letter.Headers[amqp.HeaderQueue].(string)
			mq.publishRaw("", from, amqp091.Publishing{MessageId: "probe"}).Wait()
			if got := mq.partitionOf("key0"); got != from {
				t.Errorf("it came back to %s, its key belongs to %s", from, got)
			}
		})
	}
}

// partitionOf returns the partition that a key's events go to. Nobody consumes them.
func (q *queueUnderTest) partitionOf(key string) string {
	q.t.Helper()
	for n := range 4 {
		if _, err := q.channel.QueuePurge(fmt.Sprintf("%s.%d", consumedQueue, n), false); err != nil {
			q.t.Fatal(err)
		}
	}
	q.publishRaw("events", "shop.OrderCreated",
		amqp091.Publishing{Headers: amqp091.Table{amqp.HeaderPartitionKey: key}}).Wait()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		for n := range 4 {
			name := fmt.Sprintf("%s.%d", consumedQueue, n)
			if state, err := q.channel.QueueDeclarePassive(name, true, false, false, false, nil); err == nil && state.Messages > 0 {
				return name
			}
		}
	}
	q.t.Fatal("it came nowhere")
	return ""
}

// lastless is an orderLedger that allows a key's events to be handled in any order.
type lastless struct{ *orderLedger }

func (l lastless) Handle(ctx context.Context, e surepost.Event) (inbox.Result, error) {
	if err := l.work(ctx, e); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done[e.ID] = true
	return inbox.Handled, nil
}

// TestRetriedEventSucceedsLater, once the reason is gone, and starts its count anew after a redrive.
func TestRetriedEventSucceedsLater(t *testing.T) {
	t.Parallel()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	l, calls := retryLedger(t, "key0/1", 4)
	handled := make(chan amqp.HandledMessage, 10)
	stop := mq.consumeConnected(amqp.ConsumerConfig{Handler: lastless{l}, MaxAttempts: 2,
		Backoff: amqp.Backoff{Min: time.Millisecond, Max: 2 * time.Millisecond}, RetryDelays: []time.Duration{200 * time.Millisecond},
		Hooks: amqp.ConsumerHooks{OnHandled: func(h amqp.HandledMessage) { handled <- h }}})
	mq.send(1, 1, 1)
	for range 4 {
		await(t, calls)
	}
	if h := await(t, handled); len(h.Event.Headers) != 1 || h.Event.Headers["tenant"] != "acme" {
		t.Errorf("the event's headers are %v", h.Event.Headers)
	}
	stop()
	mq.wantMessages(consumedQueue, 0)
	mq.wantMessages(consumedQueue+".retry.200ms", 0)
	mq.wantMessages(deadLetters, 0)
}

// TestMessageHeldTooLongIsExplained: the broker takes it away while its handler works (consumer_timeout), by closing the
// channel up to RabbitMQ 4.2, by basic.cancel from 4.3 on. The error says what to change; what the handler then
// commits counts, and the key's later events come behind it.
func TestMessageHeldTooLongIsExplained(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.RabbitMQ(harness.Private(), harness.Setting("consumer_timeout", "2000"))).RabbitMQ
	server.Eval(t, "application:set_env(rabbit, channel_tick_interval, 500).") // how often a channel looks, up to 4.2
	mq := newQueueUnderTest(t, server)
	release := make(chan struct{})
	l := newOrderLedger(t, func(ctx context.Context, e surepost.Event) error {
		if e.ID != "key0/1" {
			return nil
		}
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	lost := make(chan error, 100)
	connected := make(chan struct{}, 100)
	stop := mq.consume(amqp.ConsumerConfig{Handler: l, DeliveryLimit: 1000, Hooks: amqp.ConsumerHooks{
		OnConnect: func() { connected <- struct{}{} }, OnDisconnect: func(d amqp.Disconnect) { lost <- d.Err }}})
	await(t, connected)
	mq.send(1, 3, 5)
	wantWords(t, await(t, lost), "consumer_timeout", "lower HandlerTimeout or MaxAttempts", "commits counts")
	await(t, connected)
	close(release)
	l.await(15)
	mq.wantMessages(consumedQueue, 0)
	stop()
	mq.wantMessages(consumedQueue, 0)
	mq.wantMessages(deadLetters, 0)
	if l.duplicates() == 0 {
		t.Error("the message wasn't delivered again: the test didn't test")
	}
}

package integration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"runtime"
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

const consumedQueue = "billing.orders"

// TestConsumerHandlesInOrderAndAcknowledges: consumer first, exchange and queue are declared by it.
func TestConsumerHandlesInOrderAndAcknowledges(t *testing.T) {
	t.Parallel()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	l := newOrderLedger(t, nil)
	stop := mq.consume(amqp.ConsumerConfig{Handler: l})
	mq.publish(20, 50)
	l.await(1000)
	stop()
	mq.wantMessages(consumedQueue, 0)
	mq.wantMessages(consumedQueue+".dlq", 0)
	if l.duplicates() > 0 {
		t.Errorf("%d events were handled twice", l.duplicates())
	}
}

// TestConsumerDeadLettersPoison: the letter says everything, and the others don't wait.
func TestConsumerDeadLettersPoison(t *testing.T) {
	t.Parallel()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	l := newOrderLedger(t, func(_ context.Context, e surepost.Event) error {
		switch e.ID {
		case "key1/1":
			return errors.New("no stock")
		case "key2/1":
			return inbox.Permanent(errors.New("no such product"))
		}
		return nil
	})
	stop := mq.consume(amqp.ConsumerConfig{
		Handler: l, MaxAttempts: 3, Backoff: amqp.Backoff{Max: 300 * time.Millisecond}})
	mq.publish(4, 10)
	mq.publishRaw("events", "shop.OrderCreated",
		amqp091.Publishing{MessageId: "raw1", Body: []byte("hello"), Expiration: "600000"})
	l.await(38)
	letters := mq.takeAll(consumedQueue+".dlq", 3)
	stop()
	mq.wantMessages(consumedQueue, 0)

	spent := letters["key1/1"]
	want := map[string]any{
		amqp.HeaderReason: string(amqp.AttemptsSpent), amqp.HeaderAttempts: int64(3), amqp.HeaderQueue: consumedQueue,
		amqp.HeaderExchange: "events", amqp.HeaderRoutingKey: "shop.OrderCreated", amqp.HeaderError: "no stock",
		"tenant": "acme",
	}
	for name, value := range want {
		if spent.Headers[name] != value {
			t.Errorf("header %s is %v, want %v", name, spent.Headers[name], value)
		}
	}
	at, err := time.Parse(time.RFC3339, fmt.Sprint(spent.Headers[amqp.HeaderDeadLetteredAt]))
	if err != nil || time.Since(at) > time.Minute {
		t.Errorf("dead-lettered at %v (%v)", spent.Headers[amqp.HeaderDeadLetteredAt], err)
	}
	if spent.Type != "OrderCreated" || spent.AppId != "shop" || spent.DeliveryMode != amqp091.Persistent ||
		spent.ContentType != surepost.ContentType || !strings.Contains(string(spent.Body), `"eventId":"key1/1"`) {
		t.Errorf("the letter changed: %+v", spent)
	}
	if got := letters["key2/1"].Headers[amqp.HeaderReason]; got != string(amqp.PermanentFailure) {
		t.Errorf("reason %v, want %v", got, amqp.PermanentFailure)
	}
	raw := letters["raw1"]
	if got := raw.Headers[amqp.HeaderReason]; got != string(amqp.NotAnEvent) || string(raw.Body) != "hello" {
		t.Errorf("reason %v, body %q", got, raw.Body)
	}
	if raw.Expiration != "" || raw.Headers[amqp.HeaderExpiration] != "600000" {
		t.Errorf("expiration %q, headers %v: a dead letter must not expire", raw.Expiration, raw.Headers)
	}
}

// TestConsumerSurvivesLostConnections: everything is handled, in order per key, though connections are lost all the
// time.
func TestConsumerSurvivesLostConnections(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.RabbitMQ()).RabbitMQ
	mq := newQueueUnderTest(t, server)
	l := newOrderLedger(t, func(context.Context, surepost.Event) error {
		time.Sleep(rand.N(10 * time.Millisecond))
		if rand.IntN(50) == 0 {
			return errors.New("now and then")
		}
		return nil
	})
	connected := make(chan struct{}, 100)
	stop := mq.consume(amqp.ConsumerConfig{Handler: l,
		DeliveryLimit: 1000, // each lost connection counts as a delivery
		Backoff:       amqp.Backoff{Min: time.Millisecond, Max: 10 * time.Millisecond},
		Hooks:         amqp.ConsumerHooks{OnConnect: func() { connected <- struct{}{} }}})
	mq.publish(25, 120)
	for range 4 {
		await(t, connected)
		time.Sleep(50 * time.Millisecond)
		server.CloseConnections(t)
	}
	l.await(3000)
	stop()
	mq.wantMessages(consumedQueue+".dlq", 0)
}

// TestConsumerWaitsForItsGhost: the consumer loses its connection and the broker doesn't notice. Until it does it
// holds the messages of the lost session and would hand the ones behind them to the next.
func TestConsumerWaitsForItsGhost(t *testing.T) {
	t.Parallel()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	l := newOrderLedger(t, func(context.Context, surepost.Event) error {
		time.Sleep(5 * time.Millisecond)
		return nil
	})
	proxy := harness.NewProxy(t, mq.url)
	direct := mq.url
	mq.url = proxy.URL()
	stop := mq.consume(amqp.ConsumerConfig{Handler: l})
	mq.url = direct
	mq.publish(20, 50)
	l.await(100)
	proxy.CutClients()
	time.Sleep(time.Second)
	before := l.committed()
	if before > 500 {
		t.Errorf("%d events were handled: the consumer didn't wait for its ghost", before)
	}
	proxy.CutServers()
	l.await(1000)
	stop()
	mq.wantMessages(consumedQueue, 0)
}

// TestConsumersOfOneQueueKeepTheOrder: consumers come and go on one queue, in good order or cut off; one is active at a
// time, and order per key holds across all of them.
func TestConsumersOfOneQueueKeepTheOrder(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.RabbitMQ()).RabbitMQ
	mq := newQueueUnderTest(t, server)
	l := newOrderLedger(t, func(context.Context, surepost.Event) error {
		time.Sleep(2 * time.Millisecond)
		return nil
	})
	stops := []func(){mq.consume(amqp.ConsumerConfig{Handler: l}), mq.consume(amqp.ConsumerConfig{Handler: l})}
	mq.awaitQueue(consumedQueue)
	mq.publish(20, 100)
	for n := range 6 {
		l.await(100 * (n + 1))
		if n%2 == 0 {
			server.CloseConnections(t)
			continue
		}
		stops = append(stops, mq.consume(amqp.ConsumerConfig{Handler: l}))
		stops[0]()
		stops = stops[1:]
	}
	mq.connect()
	l.await(2000)
	for _, stop := range stops {
		stop()
	}
	mq.wantMessages(consumedQueue, 0)
}

// TestConsumerSurvivesBrokerCrash: SIGKILL to the broker costs latency only.
func TestConsumerSurvivesBrokerCrash(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.RabbitMQ(harness.Private())).RabbitMQ
	mq := newQueueUnderTest(t, server)
	l := newOrderLedger(t, func(context.Context, surepost.Event) error {
		time.Sleep(5 * time.Millisecond)
		return nil
	})
	stop := mq.consume(amqp.ConsumerConfig{Handler: l})
	mq.awaitQueue(consumedQueue)
	// RabbitMQ, 3.10 and 4.3 alike, forgets a quorum queue that it loses within about half a second of its declaration,
	// with all that it has confirmed meanwhile: names.dets, Ra's table of names, is saved that late.
	time.Sleep(2 * time.Second)
	mq.publish(10, 100)
	l.await(100)
	server.Kill(t)
	server.Start(t)
	l.await(1000)
	stop()
	mq.connect()
	mq.wantMessages(consumedQueue, 0)
	mq.wantMessages(consumedQueue+".dlq", 0)
}

// TestConsumerShutdownLosesNothing: what was started is finished and acknowledged, the rest is back in the queue, and
// the next consumer handles it. Nothing is handled twice.
func TestConsumerShutdownLosesNothing(t *testing.T) {
	t.Parallel()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	l := newOrderLedger(t, func(context.Context, surepost.Event) error {
		time.Sleep(20 * time.Millisecond)
		return nil
	})
	stop := mq.consume(amqp.ConsumerConfig{Handler: l})
	mq.publish(20, 25)
	l.await(100)
	stop()
	handled := l.committed()
	mq.wantMessages(consumedQueue, 500-handled)
	if handled < 100 || handled > 400 {
		t.Errorf("%d were handled before the shutdown: the test didn't test", handled)
	}
	stop = mq.consume(amqp.ConsumerConfig{Handler: l})
	l.await(500)
	stop()
	mq.wantMessages(consumedQueue, 0)
	if l.duplicates() > 0 {
		t.Errorf("%d events were handled twice", l.duplicates())
	}
}

// TestConsumerSurvivesDeletedQueue: the broker cancels the consumer, which declares the queue again and goes on.
func TestConsumerSurvivesDeletedQueue(t *testing.T) {
	t.Parallel()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	l := newOrderLedger(t, nil)
	connected, lost := make(chan struct{}, 10), make(chan error, 10)
	stop := mq.consume(amqp.ConsumerConfig{Handler: l, Hooks: amqp.ConsumerHooks{
		OnConnect: func() { connected <- struct{}{} }, OnDisconnect: func(d amqp.Disconnect) { lost <- d.Err }}})
	await(t, connected)
	mq.publish(1, 10)
	l.await(10)
	if _, err := mq.channel.QueueDelete(consumedQueue, false, false, false); err != nil {
		t.Fatal(err)
	}
	if err := await(t, lost); !strings.Contains(err.Error(), "cancelled the consumer") {
		t.Errorf("disconnected by %v", err)
	}
	await(t, connected)
	l.forget()
	mq.publish(1, 10)
	l.await(10)
	stop()
	mq.wantMessages(consumedQueue, 0)
}

// TestConsumerSurvivesDeletedDeadLetterQueue: no message is acknowledged before its letter has a place again.
func TestConsumerSurvivesDeletedDeadLetterQueue(t *testing.T) {
	t.Parallel()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	connected := make(chan struct{}, 10)
	l := newOrderLedger(t, func(context.Context, surepost.Event) error { return inbox.Permanent(errors.New("never")) })
	stop := mq.consume(amqp.ConsumerConfig{Handler: l,
		Hooks: amqp.ConsumerHooks{OnConnect: func() { connected <- struct{}{} }}})
	await(t, connected)
	mq.publish(1, 1)
	mq.takeAll(consumedQueue+".dlq", 1)
	if _, err := mq.channel.QueueDelete(consumedQueue+".dlq", false, false, false); err != nil {
		t.Fatal(err)
	}
	mq.publish(3, 1)
	mq.takeAll(consumedQueue+".dlq", 3)
	stop()
	mq.wantMessages(consumedQueue, 0)
}

// TestConsumerExplainsMistakesAtOnce: Run ends with words that say what to change.
func TestConsumerExplainsMistakesAtOnce(t *testing.T) {
	t.Parallel()
	t.Run("another queue type", func(t *testing.T) {
		t.Parallel()
		mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
		args := amqp091.Table{"x-dead-letter-exchange": "", "x-dead-letter-routing-key": consumedQueue + ".dlq", "x-single-active-consumer": true}
		if _, err := mq.channel.QueueDeclare(consumedQueue, true, false, false, false, args); err != nil {
			t.Fatal(err)
		}
		err := mq.runFails(amqp.ConsumerConfig{Types: []string{"#"}})
		wantWords(t, err, "queue", consumedQueue, "x-queue-type", "quorum", "delete and create it anew")
	})
	t.Run("another delivery limit", func(t *testing.T) {
		t.Parallel()
		mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
		stop := mq.consume(amqp.ConsumerConfig{Handler: newOrderLedger(t, nil)})
		mq.awaitQueue(consumedQueue)
		stop()
		err := mq.runFails(amqp.ConsumerConfig{Types: []string{"#"}, DeliveryLimit: 7})
		wantWords(t, err, "x-delivery-limit", "7", "20")
	})
	t.Run("missing queue in Verify mode", func(t *testing.T) {
		t.Parallel()
		mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
		wantWords(t, mq.runFails(amqp.ConsumerConfig{Mode: amqp.Verify}), "isn't there", "Mode Declare")
	})
	t.Run("missing queue in None mode", func(t *testing.T) {
		t.Parallel()
		mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
		wantWords(t, mq.runFails(amqp.ConsumerConfig{Mode: amqp.None}), "isn't there", consumedQueue)
	})
	t.Run("wrong password", func(t *testing.T) {
		t.Parallel()
		mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
		u, err := url.Parse(mq.url)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword(u.User.Username(), "wrong")
		mq.url = u.String()
		err = mq.runFails(amqp.ConsumerConfig{Types: []string{"#"}})
		wantWords(t, err, "refused the login", "correct user and password")
	})
}

// TestConsumerLeavesCrashersToTheBroker: a message that is never acknowledged, because its process dies each time,
// ends in the dead-letter queue by the broker's own count. The crash is played by a consumer that requeues.
func TestConsumerLeavesCrashersToTheBroker(t *testing.T) {
	t.Parallel()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	const limit = 3
	config := amqp.ConsumerConfig{Handler: newOrderLedger(t, nil), DeliveryLimit: limit,
		Competing: true} // basic.get isn't served where a single consumer is active
	stop := mq.consume(config)
	mq.awaitQueue(consumedQueue)
	stop()
	mq.publish(1, 1)
	for range limit + 1 {
		mq.awaitMessage(consumedQueue).Reject(true)
	}
	letter := mq.takeAll(consumedQueue+".dlq", 1)["key0/1"]
	if deaths, _ := letter.Headers["x-death"].([]any); len(deaths) != 1 {
		t.Errorf("x-death: %v", letter.Headers["x-death"])
	}
	mq.wantMessages(consumedQueue, 0)
}

// TestConsumerCountsDeliveries: what the broker counted reaches the hooks, even across consumers.
func TestConsumerCountsDeliveries(t *testing.T) {
	t.Parallel()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	l := newOrderLedger(t, nil)
	seen := make(chan int64, 1)
	config := amqp.ConsumerConfig{Handler: l, Competing: true,
		Hooks: amqp.ConsumerHooks{OnHandled: func(h amqp.HandledMessage) { seen <- h.Deliveries }}}
	stop := mq.consume(config)
	mq.awaitQueue(consumedQueue)
	stop()
	mq.publish(1, 1)
	mq.awaitMessage(consumedQueue).Reject(true)
	stop = mq.consume(config)
	if n := await(t, seen); n != 1 {
		t.Errorf("deliveries %d, want 1", n)
	}
	stop()
}

// TestConsumerAcknowledgesDuringAnAlarm: the broker stops reading from who publishes, which must not stop
// acknowledgements. The letter arrives once the alarm is over, and once only.
func TestConsumerAcknowledgesDuringAnAlarm(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.RabbitMQ(harness.Private())).RabbitMQ
	mq := newQueueUnderTest(t, server)
	l := newOrderLedger(t, func(_ context.Context, e surepost.Event) error {
		if e.ID == "key0/1" {
			return inbox.Permanent(errors.New("never"))
		}
		return nil
	})
	config := amqp.ConsumerConfig{Handler: l}
	config.Connection.RPCTimeout = time.Second // so that the alarm outlasts a confirm's limit
	stop := mq.consume(config)
	mq.awaitQueue(consumedQueue)
	stop()
	mq.publish(10, 1)
	server.Block(t)
	stop = mq.consume(config)
	l.await(9)
	time.Sleep(3 * time.Second)
	server.Unblock(t)
	mq.takeAll(consumedQueue+".dlq", 1)
	stop()
	mq.wantMessages(consumedQueue, 0)
	mq.wantMessages(consumedQueue+".dlq", 0)
}

// queueUnderTest is a virtual host with a connection of the test's own.
type queueUnderTest struct {
	t       *testing.T
	url     string
	conn    *amqp091.Connection
	channel *amqp091.Channel
}

func newQueueUnderTest(t *testing.T, server *harness.RabbitMQServer) *queueUnderTest {
	t.Helper()
	q := &queueUnderTest{t: t, url: server.URL()}
	q.connect()
	t.Cleanup(func() { q.conn.Close() })
	return q
}

func (q *queueUnderTest) connect() {
	q.t.Helper()
	var err error
	if q.conn, err = amqp091.Dial(q.url); err != nil {
		q.t.Fatal(err)
	}
	q.openChannel()
}

func (q *queueUnderTest) openChannel() {
	q.t.Helper()
	if q.conn.IsClosed() { // the test may have closed all connections
		q.connect()
		return
	}
	var err error
	if q.channel, err = q.conn.Channel(); err != nil {
		q.t.Fatal(err)
	}
	if err = q.channel.Confirm(false); err != nil {
		q.t.Fatal(err)
	}
}

// consume runs a consumer until stop is called, which also checks that nothing of it is left.
func (q *queueUnderTest) consume(config amqp.ConsumerConfig) (stop func()) {
	q.t.Helper()
	config.Types = []string{"OrderCreated"}
	c := q.newConsumer(config)
	ctx, cancel := context.WithCancel(q.t.Context())
	result := make(chan error, 1)
	go func() { result <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		q.t.Helper()
		began := time.Now()
		cancel()
		if err := <-result; err != nil {
			q.t.Errorf("Run: %v", err)
		}
		if took := time.Since(began); took > 15*time.Second {
			q.t.Errorf("the shutdown took %v", took)
		}
	})
	q.t.Cleanup(stop)
	return stop
}

func (q *queueUnderTest) newConsumer(config amqp.ConsumerConfig) *amqp.Consumer {
	q.t.Helper()
	config.Connection.URLs = []string{q.url}
	config.Queue = consumedQueue
	if config.Handler == nil {
		config.Handler = newOrderLedger(q.t, nil)
	}
	config.Logger = slog.New(slog.NewTextHandler(q.t.Output(), nil))
	c, err := amqp.NewConsumer(config)
	if err != nil {
		q.t.Fatal(err)
	}
	return c
}

// runFails expects Run to end by itself.
func (q *queueUnderTest) runFails(config amqp.ConsumerConfig) error {
	q.t.Helper()
	ctx, cancel := context.WithTimeout(q.t.Context(), 20*time.Second)
	defer cancel()
	err := q.newConsumer(config).Run(ctx)
	if err == nil || ctx.Err() != nil {
		q.t.Fatalf("Run returned %v, want an error at once", err)
	}
	return err
}

// publish publishes events key0/1, key1/1 … key0/2 … and waits for their confirms.
func (q *queueUnderTest) publish(keys, each int) {
	q.t.Helper()
	q.awaitQueue(consumedQueue)
	q.send(1, keys, each)
}

// send publishes events number first and on of each key.
func (q *queueUnderTest) send(first, keys, each int) {
	q.t.Helper()
	var confirms []*amqp091.DeferredConfirmation
	for n := range each {
		for k := range keys {
			key := fmt.Sprintf("key%d", k)
			e, err := surepost.Event{
				ID: fmt.Sprintf("%s/%d", key, n+first), Type: "OrderCreated", Source: "shop", Key: key, Data: n + first,
				Headers: map[string]string{"tenant": "acme"},
			}.Complete(q.t.Context(), surepost.Defaults{})
			if err != nil {
				q.t.Fatal(err)
			}
			p, err := amqp.PublishingFromEvent(e)
			if err != nil {
				q.t.Fatal(err)
			}
			confirms = append(confirms, q.publishRaw("events", "shop.OrderCreated", p))
		}
	}
	for _, c := range confirms {
		if ok, err := c.WaitContext(q.t.Context()); err != nil || !ok {
			q.t.Fatalf("publish: %v %v", ok, err)
		}
	}
}

func (q *queueUnderTest) publishRaw(exchange, key string, p amqp091.Publishing) *amqp091.DeferredConfirmation {
	q.t.Helper()
	c, err := q.channel.PublishWithDeferredConfirm(exchange, key, true, false, p)
	if err != nil {
		q.t.Fatal(err)
	}
	return c
}

// awaitQueue waits until the queue is there and bound.
func (q *queueUnderTest) awaitQueue(name string) {
	q.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := q.channel.QueueDeclarePassive(name, true, false, false, false, nil); err == nil {
			time.Sleep(100 * time.Millisecond) // for its binding
			return
		} else if time.Now().After(deadline) {
			q.t.Fatalf("queue %s didn't appear: %v", name, err)
		}
		q.openChannel()
	}
}

// wantMessages waits until the queue has as many messages that are ready. Counts of quorum queues lag.
func (q *queueUnderTest) wantMessages(name string, want int) {
	q.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if q.conn.IsClosed() {
			q.connect()
		}
		queue, err := q.channel.QueueDeclarePassive(name, true, false, false, false, nil)
		if err != nil {
			q.t.Fatal(err)
		}
		if queue.Messages == want {
			return
		}
		if time.Now().After(deadline) {
			q.t.Errorf("queue %s has %d messages, want %d", name, queue.Messages, want)
			return
		}
	}
}

func (q *queueUnderTest) awaitMessage(name string) amqp091.Delivery {
	q.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		d, ok, err := q.channel.Get(name, false)
		if err != nil { // the queue isn't there (yet)
			q.openChannel()
		} else if ok {
			return d
		}
	}
	q.t.Fatalf("no message came into %s", name)
	return amqp091.Delivery{}
}

// takeAll takes so many messages off the queue and returns them by message id.
func (q *queueUnderTest) takeAll(name string, count int) map[string]amqp091.Delivery {
	q.t.Helper()
	byID := map[string]amqp091.Delivery{}
	for range count {
		d := q.awaitMessage(name)
		d.Ack(false)
		byID[d.MessageId] = d
	}
	if len(byID) != count {
		q.t.Errorf("%d different messages in %s, want %d", len(byID), name, count)
	}
	return byID
}

// orderLedger is a handler with an inbox's memory, which checks order per key while it works.
type orderLedger struct {
	t    *testing.T
	work func(context.Context, surepost.Event) error

	mu    sync.Mutex
	busy  map[string]bool
	done  map[string]bool
	last  map[string]int
	again int
}

func newOrderLedger(t *testing.T, work func(context.Context, surepost.Event) error) *orderLedger {
	return &orderLedger{t: t, work: work, busy: map[string]bool{}, done: map[string]bool{}, last: map[string]int{}}
}

func (l *orderLedger) Handle(ctx context.Context, e surepost.Event) (inbox.Result, error) {
	var number int
	if err := e.Decode(&number); err != nil {
		return 0, inbox.Permanent(err)
	}
	l.mu.Lock()
	if l.busy[e.Key] {
		l.t.Errorf("%s was started while another event of its key was handled", e.ID)
	}
	if l.done[e.ID] {
		l.again++
		l.mu.Unlock()
		return inbox.Duplicate, nil
	}
	l.busy[e.Key] = true
	l.mu.Unlock()
	var err error
	if l.work != nil {
		err = l.work(ctx, e)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy[e.Key] = false
	if err != nil {
		return 0, err
	}
	if number < l.last[e.Key] {
		l.t.Errorf("%s was handled after number %d of its key", e.ID, l.last[e.Key])
	}
	l.last[e.Key], l.done[e.ID] = number, true
	return inbox.Handled, nil
}

func (l *orderLedger) await(count int) {
	l.t.Helper()
	for deadline := time.Now().Add(60 * time.Second); l.committed() < count; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			l.t.Fatalf("%d of %d events were handled in a minute", l.committed(), count)
		}
	}
}

func (l *orderLedger) committed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.done)
}

func (l *orderLedger) duplicates() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.again
}

func (l *orderLedger) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.done)
	clear(l.last)
}

func await[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(30 * time.Second):
		t.Fatal("nothing happened for 30 s")
		panic("not reached")
	}
}

func wantWords(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error doesn't say %q: %v", w, err)
		}
	}
}

// TestConsumerLeavesNoGoroutine runs alone, because goroutines of parallel tests can't be told from its own.
func TestConsumerLeavesNoGoroutine(t *testing.T) {
	server := harness.Start(t, harness.RabbitMQ()).RabbitMQ
	mq := newQueueUnderTest(t, server)
	l := newOrderLedger(t, func(_ context.Context, e surepost.Event) error {
		if e.ID == "key0/1" {
			return inbox.Permanent(errors.New("never"))
		}
		return nil
	})
	stop := mq.consume(amqp.ConsumerConfig{Handler: l})
	mq.publish(5, 20)
	l.await(99)
	mq.takeAll(consumedQueue+".dlq", 1)
	server.CloseConnections(t)
	mq.connect()
	stop()
	mq.conn.Close()
	var left string
	for range 50 {
		buf := make([]byte, 1<<20)
		left = string(buf[:runtime.Stack(buf, true)])
		if !strings.Contains(left, "amqp091") && !strings.Contains(left, "surepost/amqp.") {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("goroutines are left:\n%s", left)
}

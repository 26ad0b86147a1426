package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/relay"
)

func amqpContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// amqpChannel opens a plain channel of the client library, to look at the broker with.
func amqpChannel(t testing.TB, url string) *amqp091.Channel {
	t.Helper()
	conn, err := amqp091.Dial(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// bindQueue declares the exchange "events" and a queue that gets everything of it.
func bindQueue(t testing.TB, ch *amqp091.Channel, queue string, args amqp091.Table) {
	t.Helper()
	if err := ch.ExchangeDeclare("events", "topic", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare(queue, true, false, false, false, args); err != nil {
		t.Fatal(err)
	}
	if err := ch.QueueBind(queue, "#", "events", false, nil); err != nil {
		t.Fatal(err)
	}
}

func openPublisher(t testing.TB, cfg amqp.PublisherConfig) relay.Session {
	t.Helper()
	p, err := amqp.NewPublisher(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Open(amqpContext(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.Close(ctx)
	})
	return s
}

func publisherConfig(url string) amqp.PublisherConfig {
	return amqp.PublisherConfig{Connection: amqp.Connection{URLs: []string{url}, ConnectTimeout: 5 * time.Second}}
}

func publishedEvent(n int) surepost.Event {
	return surepost.Event{
		ID: fmt.Sprintf("evt_%d", n), Type: "OrderCreated", Source: "order-service", Version: "1.0", CorrelationID: "c",
		Key: fmt.Sprint("order-", n%100), Time: time.Now().UTC(), Data: []byte(`{"text":"` + strings.Repeat("x", 300) + `"}`),
	}
}

// publish sends events first..first+n-1 as the relay does, at most 1024 without an outcome, and returns the outcomes it got
// until all are there or the session ended.
func publish(t testing.TB, s relay.Session, first, n int, event func(int) surepost.Event) []relay.Outcome {
	t.Helper()
	var got []relay.Outcome
	ctx := amqpContext(t)
	for sent := 0; len(got) < n; {
		for sent < n && sent-len(got) < 1024 {
			e := event(first + sent)
			if err := s.Send(ctx, uint64(first+sent), &relay.Entry{Event: e}); err != nil {
				break
			}
			sent++
		}
		select {
		case batch, ok := <-s.Outcomes():
			if !ok {
				return got
			}
			got = append(got, batch...)
		case <-ctx.Done():
			t.Fatalf("%d of %d outcomes in time", len(got), n)
		}
	}
	return got
}

// wantOutcomes checks that the outcomes are those of the tags from first on, all with one status.
func wantOutcomes(t testing.TB, got []relay.Outcome, first, n int, status relay.Status) {
	t.Helper()
	if len(got) != n {
		t.Fatalf("%d outcomes, want %d", len(got), n)
	}
	for i, o := range got {
		if o.Tag != uint64(first+i) || o.Status != status {
			t.Fatalf("outcome %d is %+v (%s), want tag %d %s", i, o, o.Status, first+i, status)
		}
	}
}

func TestAMQPEveryConfirmedEventIsInTheQueue(t *testing.T) {
	const n = 20_000
	url := harness.Start(t, harness.RabbitMQ()).RabbitMQ.URL()
	ch := amqpChannel(t, url)
	bindQueue(t, ch, "q", nil)
	s := openPublisher(t, publisherConfig(url))
	wantOutcomes(t, publish(t, s, 0, n, publishedEvent), 0, n, relay.Confirmed)
	if err := s.Close(amqpContext(t)); err != nil {
		t.Error(err)
	}
	q, err := ch.QueueDeclarePassive("q", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if q.Messages != n {
		t.Errorf("%d events were confirmed, %d are in the queue", n, q.Messages)
	}
	first, ok, err := ch.Get("q", true)
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	e, err := amqp.EventFromDelivery(first)
	if err != nil || e.ID != "evt_0" || e.Key != "order-0" || first.RoutingKey != "order-service.OrderCreated" || first.DeliveryMode != 2 {
		t.Errorf("the first message is %+v, routing key %q (%v)", e, first.RoutingKey, err)
	}
}

func TestAMQPUnroutableAndRejectedAreTold(t *testing.T) {
	url := harness.Start(t, harness.RabbitMQ()).RabbitMQ.URL()
	s := openPublisher(t, publisherConfig(url))
	got := publish(t, s, 0, 2000, publishedEvent)
	wantOutcomes(t, got, 0, 2000, relay.Unroutable)
	if !strings.Contains(got[0].Reason, `routing key "order-service.OrderCreated"`) {
		t.Errorf("the reason is %q", got[0].Reason)
	}
	bindQueue(t, amqpChannel(t, url), "full", amqp091.Table{"x-max-length": int64(1), "x-overflow": "reject-publish"})
	publish(t, s, 2000, 1, publishedEvent)
	wantOutcomes(t, publish(t, s, 2001, 100, publishedEvent), 2001, 100, relay.Rejected)
	if s.Err() != nil {
		t.Errorf("the session ended: %v", s.Err())
	}
}

func TestAMQPRefusedEventsHarmNobody(t *testing.T) {
	url := harness.Start(t, harness.RabbitMQ()).RabbitMQ.URL()
	bindQueue(t, amqpChannel(t, url), "q", nil)
	cfg := publisherConfig(url)
	cfg.Routing.Key = "{type}.{key}"
	cfg.MaxMessageBytes = 100_000
	s := openPublisher(t, cfg)
	for i, spoil := range []func(*surepost.Event){
		func(e *surepost.Event) { e.Key = strings.Repeat("k", 250) },
		func(e *surepost.Event) { e.ID = strings.Repeat("i", 256) },
		func(e *surepost.Event) { e.Data = []byte(`"` + strings.Repeat("x", 100_000) + `"`) },
		func(e *surepost.Event) { e.Headers = map[string]string{"h": strings.Repeat("x", 140_000)} },
		func(e *surepost.Event) { e.Headers = map[string]string{"CC": "x"} },
	} {
		e := publishedEvent(i)
		spoil(&e)
		wantOutcomes(t, publish(t, s, 10*i, 1, func(int) surepost.Event { return e }), 10*i, 1, relay.Refused)
		wantOutcomes(t, publish(t, s, 10*i+1, 9, publishedEvent), 10*i+1, 9, relay.Confirmed)
	}
}

// The largest headers that our own check lets through must be taken by the broker.
func TestAMQPTheLargestHeaderFrameIsTaken(t *testing.T) {
	url := harness.Start(t, harness.RabbitMQ()).RabbitMQ.URL()
	bindQueue(t, amqpChannel(t, url), "q", nil)
	s := openPublisher(t, publisherConfig(url))
	tag, confirmed, refused := 0, 0, 0
	for size := 131072 - 220; size < 131072; size++ {
		e := publishedEvent(0)
		e.Headers = map[string]string{"h": strings.Repeat("x", size)}
		got := publish(t, s, tag, 1, func(int) surepost.Event { return e })
		if len(got) != 1 {
			t.Fatalf("headers of %d bytes ended the session: %v", size, s.Err())
		}
		switch got[0].Status {
		case relay.Confirmed:
			confirmed++
		case relay.Refused:
			refused++
		}
		tag++
	}
	if confirmed == 0 || refused == 0 {
		t.Errorf("%d confirmed, %d refused: the limit wasn't reached", confirmed, refused)
	}
}

func TestAMQPAnExchangeThatIsDeletedEndsTheSessionAsRefused(t *testing.T) {
	url := harness.Start(t, harness.RabbitMQ()).RabbitMQ.URL()
	ch := amqpChannel(t, url)
	bindQueue(t, ch, "q", nil)
	s := openPublisher(t, publisherConfig(url))
	wantOutcomes(t, publish(t, s, 0, 10, publishedEvent), 0, 10, relay.Confirmed)
	if err := ch.ExchangeDelete("events", false, false); err != nil {
		t.Fatal(err)
	}
	if got := publish(t, s, 10, 10, publishedEvent); len(got) != 0 {
		t.Errorf("outcomes of a missing exchange: %+v", got)
	}
	if err := s.Err(); !errors.Is(err, relay.ErrRefused) || !strings.Contains(err.Error(), "exchange") {
		t.Errorf("the session ended with %v", err)
	}
}

func TestAMQPVerifyNamesAMissingExchange(t *testing.T) {
	cfg := publisherConfig(harness.Start(t, harness.RabbitMQ()).RabbitMQ.URL())
	cfg.Mode = amqp.Verify
	wantOpenError(t, cfg, `exchange "events"`, "it isn't there", "Mode Declare")
}

func TestAMQPAnotherKindIsPutInWords(t *testing.T) {
	url := harness.Start(t, harness.RabbitMQ()).RabbitMQ.URL()
	bindQueue(t, amqpChannel(t, url), "q", nil)
	cfg := publisherConfig(url)
	cfg.Exchanges = []amqp.Exchange{{Name: "events", Kind: "fanout"}}
	var te *amqp.TopologyError
	if err := wantOpenError(t, cfg, "another type: asked for fanout, there is topic"); !errors.As(err, &te) || te.Argument != "type" {
		t.Errorf("%v isn't a TopologyError about the type", err)
	}
	cfg.Exchanges = []amqp.Exchange{{Name: "events", Args: map[string]any{"alternate-exchange": "ae"}}}
	wantOpenError(t, cfg, "another alternate-exchange", "there is none")
}

func TestAMQPConnectErrorsNameTheRemedy(t *testing.T) {
	good, err := url.Parse(harness.Start(t, harness.RabbitMQ()).RabbitMQ.URL())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	change := func(f func(*url.URL)) amqp.PublisherConfig {
		u := *good
		f(&u)
		return publisherConfig(u.String())
	}
	user := good.User.Username()
	err = wantOpenError(t, change(func(u *url.URL) { u.User = url.UserPassword(user, "hunter2") }), user, "correct user and password")
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error shows the password: %v", err)
	}
	wantOpenError(t, change(func(u *url.URL) { u.Path = "/nowhere" }), `vhost "nowhere"`, "add_vhost")
	wantOpenError(t, change(func(u *url.URL) { u.Host = l.Addr().String() }), "nothing listens there", "start RabbitMQ")
	wantOpenError(t, change(func(u *url.URL) { u.Scheme = "amqps" }), "doesn't speak TLS", "5671")
}

func wantOpenError(t *testing.T, cfg amqp.PublisherConfig, parts ...string) error {
	t.Helper()
	p, err := amqp.NewPublisher(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Open(amqpContext(t))
	if err == nil {
		s.Close(amqpContext(t))
		t.Fatalf("Open succeeds, want an error with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q doesn't say %q", err, part)
		}
	}
	return err
}

func TestAMQPAKilledConnectionLosesNothingThatWasConfirmed(t *testing.T) {
	server := harness.Start(t, harness.RabbitMQ()).RabbitMQ
	ch := amqpChannel(t, server.URL())
	bindQueue(t, ch, "q", nil)
	s := openPublisher(t, publisherConfig(server.URL()))
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		for s.Err() == nil { // the broker lists a new connection only after a while
			time.Sleep(200 * time.Millisecond)
			server.CloseConnections(t)
		}
	}()
	got := publish(t, s, 0, 1_000_000, publishedEvent)
	<-killed
	wantOutcomes(t, got, 0, len(got), relay.Confirmed)
	if err := s.Err(); err == nil || errors.Is(err, relay.ErrRefused) || !strings.Contains(err.Error(), "320") {
		t.Errorf("the session ended with %v, want 320 CONNECTION_FORCED", err)
	}
	q, err := amqpChannel(t, server.URL()).QueueDeclarePassive("q", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if q.Messages < len(got) {
		t.Errorf("%d were confirmed, %d are in the queue", len(got), q.Messages)
	}
	t.Logf("%d confirmed, %d stored when the connection was killed", len(got), q.Messages)
}

func TestAMQPBlockedAndUnblockedAreTold(t *testing.T) {
	server := harness.Start(t, harness.RabbitMQ(harness.Private())).RabbitMQ
	bindQueue(t, amqpChannel(t, server.URL()), "q", nil)
	cfg := publisherConfig(server.URL())
	cfg.ConfirmTimeout = 2 * time.Second
	cfg.Connection.Heartbeat = time.Second
	cfg.Connection.WriteTimeout = time.Second
	s := openPublisher(t, cfg)
	_, _, changed := s.Blocked()
	server.Block(t)
	for i := range 500 { // the broker blocks who publishes
		e := publishedEvent(i)
		e.Data = []byte(`"` + strings.Repeat("x", 50_000) + `"`)
		if err := s.Send(amqpContext(t), uint64(i), &relay.Entry{Event: e}); err != nil {
			t.Fatal(err)
		}
	}
	<-changed
	blocked, reason, changed := s.Blocked()
	t.Logf("blocked %v: %s", blocked, reason)
	time.Sleep(5 * time.Second) // longer than every limit
	if err := s.Err(); err != nil {
		t.Fatalf("the session ended while the broker was blocked: %v", err)
	}
	server.Unblock(t)
	<-changed
	wantOutcomes(t, publish(t, s, 500, 0, nil), 0, 0, relay.Confirmed)
	got := 0
	for got < 500 {
		batch, ok := <-s.Outcomes()
		if !ok {
			t.Fatal(s.Err())
		}
		got += len(batch)
	}
}

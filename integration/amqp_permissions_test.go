package integration

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
)

// permitted makes a user of each rabbitmqctl set_permissions in docs/operations.md, with those permissions, and returns their
// URLs.
func permitted(t *testing.T, mq *harness.RabbitMQServer) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	put := func(method, path string, body any) {
		t.Helper()
		encoded, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method, mq.ManagementURL()+path, strings.NewReader(string(encoded)))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode >= 300 {
			t.Fatalf("%s %s: %s", method, path, resp.Status)
		}
	}
	urls := map[string]string{}
	for _, block := range blocksOf(string(text), "sh") {
		for line := range strings.Lines(block) {
			words, _ := shellWords(strings.TrimSpace(line))
			if len(words) != 8 || words[1] != "set_permissions" {
				continue
			}
			u, err := url.Parse(mq.URL())
			if err != nil {
				t.Fatal(err)
			}
			name := mq.VHost() + "-" + words[4] // users are the server's
			u.User = url.UserPassword(name, "p")
			urls[words[4]] = u.String()
			put(http.MethodPut, "/api/users/"+name, map[string]string{"password": "p", "tags": ""})
			t.Cleanup(func() { put(http.MethodDelete, "/api/users/"+name, nil) })
			put(http.MethodPut, "/api/permissions/"+mq.VHost()+"/"+name, map[string]string{"configure": words[5], "write": words[6], "read": words[7]})
		}
	}
	if len(urls) != 3 {
		t.Fatalf("docs/operations.md has the permissions of %d users, want 3", len(urls))
	}
	return urls
}

// failing is a handler that fails until it is told to stop.
type failing struct {
	healed  atomic.Bool
	handled chan string
}

func (f *failing) Handle(_ context.Context, e surepost.Event) (inbox.Result, error) {
	if !f.healed.Load() {
		return 0, errors.New("no luck")
	}
	f.handled <- e.ID
	return inbox.Handled, nil
}

// Each of them does its work as the user of the documents, from declaring to redriving; and nobody can do another's.
func TestRabbitMQsPermissionsAreEnoughAndNoMore(t *testing.T) {
	t.Parallel()
	mq := harness.Start(t, harness.RabbitMQ()).RabbitMQ
	urls := permitted(t, mq)
	at := func(user string) amqp.Connection { return amqp.Connection{URLs: []string{urls[user]}} }
	const queue = "billing.orders"

	store := memstore.New()
	r, err := relay.New(store, newPublisher(t, urls["relay"]), relay.Config{Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	handler := &failing{handled: make(chan string, 10)}
	consumer, err := amqp.NewConsumer(amqp.ConsumerConfig{Connection: at("billing"), Queue: queue, Types: []string{"T"}, Handler: handler,
		MaxAttempts: 1, RetryDelays: []time.Duration{100 * time.Millisecond}, Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	background(t, r.Run)
	background(t, consumer.Run)
	box, err := outbox.New(store, outbox.Config{Source: "s"})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Do(t.Context(), func(tx *memstore.Tx) error {
		return box.Write(t.Context(), tx, surepost.Event{ID: "one", Type: "T", Key: "k"})
	}); err != nil {
		t.Fatal(err)
	}
	// Only the consumer declares the queue: until it has, the relay tries.
	awaitFor(t, "the event is retried and dead-lettered", func() bool {
		letters, err := amqp.DeadLetters(t.Context(), amqp.DeadLettersConfig{Connection: at("operator"), Queue: queue})
		var refused *amqp091.Error
		if errors.As(err, &refused) && refused.Code == amqp091.AccessRefused {
			t.Fatal(err)
		}
		return err == nil && len(letters) == 1 && letters[0].ID == "one" && letters[0].Attempts == 2
	})
	handler.healed.Store(true)
	report, err := amqp.Redrive(t.Context(), amqp.RedriveConfig{Connection: at("operator"), Queue: queue})
	if err != nil || report.Moved != 1 {
		t.Fatalf("redrive: %+v, %v", report, err)
	}
	select {
	case id := <-handler.handled:
		if id != "one" {
			t.Errorf("handled %q", id)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the redriven letter isn't handled within 30s")
	}

	for _, c := range []struct {
		user, what string
		do         func(ch *amqp091.Channel) error
	}{
		{"relay", "consume the queue", func(ch *amqp091.Channel) error { _, _, err := ch.Get(queue, true); return err }},
		{"relay", "declare a queue", func(ch *amqp091.Channel) error {
			_, err := ch.QueueDeclare("mine", true, false, false, false, nil)
			return err
		}},
		{"relay", "delete the queue", func(ch *amqp091.Channel) error { _, err := ch.QueueDelete(queue, false, false, false); return err }},
		{"relay", "publish past the exchange", func(ch *amqp091.Channel) error { return publishedOn(t, ch, "", queue) }},
		{"billing", "publish events", func(ch *amqp091.Channel) error { return publishedOn(t, ch, "events", "s.T") }},
		{"billing", "consume another's queue", func(ch *amqp091.Channel) error { _, _, err := ch.Get("shipping.orders", true); return err }},
		{"billing", "declare another's queue", func(ch *amqp091.Channel) error {
			_, err := ch.QueueDeclare("billing.orderspy", true, false, false, false, nil)
			return err
		}},
		{"operator", "consume the queue itself", func(ch *amqp091.Channel) error { _, _, err := ch.Get(queue, true); return err }},
		{"operator", "delete the queue", func(ch *amqp091.Channel) error { _, err := ch.QueueDelete(queue, false, false, false); return err }},
		{"operator", "bind the queue", func(ch *amqp091.Channel) error { return ch.QueueBind(queue, "#", "events", false, nil) }},
		{"operator", "purge the queue", func(ch *amqp091.Channel) error { _, err := ch.QueuePurge(queue, false); return err }},
		{"operator", "delete the exchange", func(ch *amqp091.Channel) error { return ch.ExchangeDelete("events", false, false) }},
		{"operator", "declare a queue", func(ch *amqp091.Channel) error {
			_, err := ch.QueueDeclare("mine", true, false, false, false, nil)
			return err
		}},
	} {
		connection, err := amqp091.Dial(urls[c.user])
		if err != nil {
			t.Fatal(err)
		}
		ch, err := connection.Channel()
		if err != nil {
			t.Fatal(err)
		}
		var refused *amqp091.Error
		if err := c.do(ch); !errors.As(err, &refused) || refused.Code != amqp091.AccessRefused {
			t.Errorf("%s may %s: %v", c.user, c.what, err)
		}
		connection.Close()
	}
}

// publishedOn publishes, and returns why the broker closed the channel, or nil once it has confirmed the message.
func publishedOn(t *testing.T, ch *amqp091.Channel, exchange, key string) error {
	t.Helper()
	closed := ch.NotifyClose(make(chan *amqp091.Error, 1))
	if err := ch.Confirm(false); err != nil {
		return err
	}
	confirmed := ch.NotifyPublish(make(chan amqp091.Confirmation, 1))
	if err := ch.PublishWithContext(t.Context(), exchange, key, false, false, amqp091.Publishing{Body: []byte("x")}); err != nil {
		return err
	}
	select {
	case err := <-closed:
		return err
	case <-confirmed:
		return nil
	}
}

package amqp

import (
	"strings"
	"testing"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

func TestAConsumerSeesThatAnEventIsReplayed(t *testing.T) {
	e := relay.Replayed(surepost.Event{ID: "1", Type: "T", Source: "s", Version: "1.0", Headers: map[string]string{"tenant": "a"}}, "nach Köln")
	p, err := PublishingFromEvent(e)
	if err != nil {
		t.Fatal(err)
	}
	got, err := EventFromDelivery(amqp091.Delivery{Headers: p.Headers, MessageId: p.MessageId, Body: p.Body})
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != "1" || got.Headers[relay.HeaderReplay] != "nach Köln" || got.Headers["tenant"] != "a" || len(got.Headers) != 2 {
		t.Errorf("got %+v", got)
	}
}

func TestARoutingToAQueueLeavesExchangesAlone(t *testing.T) {
	p, err := NewPublisher(PublisherConfig{Connection: Connection{URLs: []string{"amqp://localhost"}}, Routing: Routing{Queue: "or{ders}"}})
	if err != nil {
		t.Fatal(err)
	}
	if exchange, key := p.router.route(&surepost.Event{Type: "T"}); exchange != "" || key != "or{ders}" || len(p.exchanges) != 0 {
		t.Errorf("events go to exchange %q under %q, and %d exchanges are declared", exchange, key, len(p.exchanges))
	}
	for _, c := range []struct {
		routing Routing
		words   string
	}{
		{Routing{Queue: "q", Exchange: "e"}, "leave out Queue"},
		{Routing{Queue: "q", Key: "k"}, "leave out Queue"},
		{Routing{Queue: "q", Rules: []Rule{{Type: "T", Key: "k"}}}, "leave out Queue"},
		{Routing{Queue: strings.Repeat("q", 256)}, "256 bytes"},
	} {
		_, err := NewPublisher(PublisherConfig{Connection: Connection{URLs: []string{"amqp://localhost"}}, Routing: c.routing})
		if err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%+v: %v", c.routing, err)
		}
	}
}

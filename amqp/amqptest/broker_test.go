package amqptest_test

import (
	"context"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost/amqp/amqptest"
)

func start(tb testing.TB, cfg amqptest.Config) *amqptest.Broker {
	tb.Helper()
	b, err := amqptest.Start(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(b.Close)
	return b
}

func TestSmoke(t *testing.T) {
	b := start(t, amqptest.Config{})
	conn, err := amqp091.Dial(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("q", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	d, err := ch.Consume("q", "", false, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	const n = 20000
	go func() {
		for range n {
			if err := ch.Publish("", "q", true, false, amqp091.Publishing{MessageId: "m", Body: []byte("x")}); err != nil {
				t.Error(err)
			}
		}
	}()
	for range n {
		m := <-d
		if err := m.Ack(false); err != nil {
			t.Fatal(err)
		}
	}
	t.Log(time.Since(begin))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := b.AwaitQueue(ctx, "q", func(q amqptest.QueueState) bool { return q.Ready+q.Unacked == 0 }); err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
}

package amqptest_test

import (
	"context"
	"runtime"
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

// TestCloseLeavesNothing: whatever goes on, Close ends all goroutines.
func TestCloseLeavesNothing(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 50 {
		b, err := amqptest.Start(amqptest.Config{PipeOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		gate := amqptest.NewGate()
		b.Inject(amqptest.Fault{When: byID("stall"), Do: amqptest.Together(
			amqptest.StallReads(gate), amqptest.StallWrites(gate), amqptest.ConfirmAfter(time.Hour))})
		conn, err := amqp091.DialConfig(b.URL(), amqp091.Config{Dial: b.Dial})
		if err != nil {
			t.Fatal(err)
		}
		ch := must(conn.Channel())(t)
		must(ch.QueueDeclare("q", true, false, false, false, amqp091.Table{"x-message-ttl": int64(3600_000)}))(t)
		must(ch.Consume("q", "", false, false, false, false, nil))(t)
		for _, id := range []string{"1", "stall"} {
			if err := ch.Publish("", "q", false, false, amqp091.Publishing{MessageId: id}); err != nil {
				t.Fatal(err)
			}
		}
		ended := conn.NotifyClose(make(chan *amqp091.Error, 1))
		b.Close()
		b.Close()
		await(t, "end", ended)
		if _, err := b.Dial("", ""); err == nil {
			t.Fatal("connected to a closed broker")
		}
	}
	// The client's own goroutines end a moment later.
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<16)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}

// BenchmarkStartClose is what a property test pays for a broker of its own: a listener, or a pipe and a login.
func BenchmarkStartClose(b *testing.B) {
	b.Run("listen", func(b *testing.B) {
		for b.Loop() {
			broker, err := amqptest.Start(amqptest.Config{})
			if err != nil {
				b.Fatal(err)
			}
			broker.Close()
		}
	})
	b.Run("pipe and login", func(b *testing.B) {
		for b.Loop() {
			broker, err := amqptest.Start(amqptest.Config{PipeOnly: true})
			if err != nil {
				b.Fatal(err)
			}
			conn, err := amqp091.DialConfig(broker.URL(), amqp091.Config{Dial: broker.Dial})
			if err != nil {
				b.Fatal(err)
			}
			if _, err := conn.Channel(); err != nil {
				b.Fatal(err)
			}
			broker.Close()
		}
	})
}

// BenchmarkPublish is pipelined publishing with confirms of 500 bytes, as a relay does it.
func BenchmarkPublish(b *testing.B) {
	broker := start(b, amqptest.Config{})
	c := connect(b, broker)
	body := make([]byte, 500)
	window := make(chan *amqp091.DeferredConfirmation, 256)
	go func() {
		defer close(window)
		for range b.N {
			d, err := c.ch.PublishWithDeferredConfirm("", "q", true, false,
				amqp091.Publishing{MessageId: "m", DeliveryMode: amqp091.Persistent, Body: body})
			if err != nil {
				b.Error(err)
				return
			}
			window <- d
		}
	}()
	for d := range window {
		<-d.Done()
	}
}

func TestManyMessagesGoThrough(t *testing.T) {
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

package harness

import (
	"fmt"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost/harness/internal/server"
)

func TestParallelTestsDoNotSeeEachOthersQueues(t *testing.T) {
	t.Parallel()
	for _, arg := range []int32{1, 2, 3} {
		t.Run("same", func(t *testing.T) {
			t.Parallel()
			_, ch := dial(t, rabbitMQ(t).URL())
			// The same name with other arguments would be refused within one virtual host.
			must[amqp.Queue](t, "declare")(ch.QueueDeclare("q", true, false, false, false, amqp.Table{"x-max-length": arg}))
		})
	}
}

func TestVHostGoesWithItsTest(t *testing.T) {
	t.Parallel()
	var url string
	t.Run("uses", func(t *testing.T) { url = rabbitMQ(t).URL() })
	if conn, err := amqp.Dial(url); err == nil {
		_ = conn.Close()
		t.Error("the virtual host still exists")
	}
}

func TestHashExchangesAreThere(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"x-consistent-hash", "x-modulus-hash"} {
		_, ch := dial(t, rabbitMQ(t).URL())
		if err := ch.ExchangeDeclare("hash", kind, true, false, false, false, nil); err != nil {
			t.Error(err)
		}
	}
}

func TestCloseConnectionsSparesOtherTests(t *testing.T) {
	t.Parallel()
	mq, other := rabbitMQ(t), rabbitMQ(t)
	bystander, _ := dial(t, other.URL())
	var closed []chan *amqp.Error
	for range 3 { // just opened: the broker's statistics don't know them yet
		conn, _ := dial(t, mq.URL())
		closed = append(closed, conn.NotifyClose(make(chan *amqp.Error, 1)))
	}
	mq.CloseConnections(t)
	for _, c := range closed {
		select {
		case err := <-c:
			if err == nil || err.Code != amqp.ConnectionForced {
				t.Errorf("closed with %v, want 320", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("a connection is still open")
		}
	}
	if bystander.IsClosed() {
		t.Error("another test's connection was closed")
	}
}

func TestPrivateBrokerKeepsPortAndMessagesOverACrash(t *testing.T) {
	t.Parallel()
	mq := rabbitMQ(t, Private())
	queues := []string{"classic", "quorum"}
	for i, interrupt := range []func(testing.TB){mq.Restart, func(tb testing.TB) { mq.Kill(tb); mq.Start(tb) }} {
		conn, ch := dial(t, mq.URL())
		if err := ch.Confirm(false); err != nil {
			t.Fatal(err)
		}
		for _, q := range queues {
			must[amqp.Queue](t, "declare")(ch.QueueDeclare(q, true, false, false, false, amqp.Table{"x-queue-type": q}))
			confirm := must[*amqp.DeferredConfirmation](t, "publish")(ch.PublishWithDeferredConfirm("", q, true, false,
				amqp.Publishing{DeliveryMode: amqp.Persistent, Body: []byte("kept")}))
			if !confirm.Wait() {
				t.Fatal("nack")
			}
		}
		interrupt(t)
		within(t, 5*time.Second, "the connection ends", conn.IsClosed)
		_, ch = dial(t, mq.URL())
		for _, name := range queues {
			within(t, 10*time.Second, fmt.Sprintf("%s has %d messages", name, i+1), func() bool {
				q := must[amqp.Queue](t, "declare passively")(ch.QueueDeclarePassive(name, true, false, false, false, nil))
				return q.Messages == i+1 // a quorum queue counts late after a start
			})
		}
	}
}

func TestBlockedBrokerTellsPublishers(t *testing.T) {
	t.Parallel()
	mq := rabbitMQ(t, Private())
	conn, ch := dial(t, mq.URL())
	blocked := conn.NotifyBlocked(make(chan amqp.Blocking, 2))
	want := func(active bool) {
		t.Helper()
		if err := ch.Publish("", "nowhere", false, false, amqp.Publishing{}); err != nil {
			t.Fatal(err)
		}
		select {
		case b := <-blocked:
			if b.Active != active {
				t.Errorf("blocked = %v, want %v", b.Active, active)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no connection.blocked/unblocked, want %v", active)
		}
	}
	mq.Block(t)
	want(true)
	mq.Unblock(t)
	want(false)
}

func TestBrokerOfTheEnvironmentIsUsedAndLeftRunning(t *testing.T) {
	given, err := sharedServer(server.RabbitMQ, server.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(server.RabbitMQ.URLVar, given.URL)
	env := must[*Env](t, "start")(StartEnv(t.Context(), RabbitMQ()))
	mq := env.RabbitMQ
	if mq.ManagementURL() != given.ManagementURL {
		t.Errorf("the management API is at %s, want %s", mq.ManagementURL(), given.ManagementURL)
	}
	dial(t, mq.URL())
	if err := env.Close(); err != nil {
		t.Error(err)
	}
	dial(t, given.URL)
	said := new(fakeTB).run(func(tb testing.TB) { mq.Kill(tb) })
	wantContains(t, said, "cannot kill RabbitMQ (SUREPOST_AMQP_URL)")
}

func TestMissingManagementAPISaysWhatToDo(t *testing.T) {
	given, err := sharedServer(server.RabbitMQ, server.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(server.RabbitMQ.URLVar, given.URL)
	t.Setenv(server.ManagementVar, "http://127.0.0.1:1")
	_, err = StartEnv(t.Context(), RabbitMQ())
	if err == nil {
		t.Fatal("no error")
	}
	wantContains(t, err.Error(), "rabbitmq-plugins enable rabbitmq_management", "set SUREPOST_RABBITMQ_MANAGEMENT_URL")
}

func TestVHostDeletedByItsTestIsNotAnError(t *testing.T) {
	t.Parallel()
	mq := rabbitMQ(t)
	if err := mq.api.call(t.Context(), "DELETE", "/api/vhosts/"+mq.vhost, "", nil); err != nil {
		t.Fatal(err)
	}
}

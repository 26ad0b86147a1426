package amqp

import (
	"strings"
	"testing"
	"time"
)

func TestRequiredFieldsSuffice(t *testing.T) {
	c, err := NewConsumer(ConsumerConfig{
		Connection: Connection{URLs: []string{"amqp://localhost"}}, Queue: "billing", Handler: handlerFunc(nil),
		Types: []string{"OrderCreated"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.config.Prefetch != 100 || c.config.Workers != 8 || c.config.DeliveryLimit != 20 || c.config.QueueType != QuorumQueue {
		t.Errorf("defaults: %+v", c.config)
	}
	if _, err := NewConsumer(ConsumerConfig{
		Connection: Connection{URLs: []string{"amqp://localhost"}}, Queue: "billing", Handler: handlerFunc(nil),
		Mode: Verify, Prefetch: 1,
	}); err != nil {
		t.Errorf("Prefetch 1 in Verify mode, without types: %v", err)
	}
}

// TestConfigReportsEverythingAtOnce, each with a remedy behind a colon.
func TestConfigReportsEverythingAtOnce(t *testing.T) {
	_, err := NewConsumer(ConsumerConfig{
		Queue:           strings.Repeat("q", 252),
		Exchange:        strings.Repeat("e", 256),
		Types:           []string{"", "Order*", strings.Repeat("t", 254)},
		BindingKeys:     []string{strings.Repeat("k", 256)},
		Mode:            7,
		QueueType:       "stream",
		Prefetch:        2001,
		Workers:         3000,
		BatchSize:       2002,
		BatchLinger:     -1,
		MaxUnfinished:   -1,
		MaxAttempts:     -1,
		Backoff:         Backoff{Min: time.Minute, Max: time.Second},
		HandlerTimeout:  30 * time.Minute,
		ShutdownTimeout: -1,
		Unhandled:       9,
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"URL", "Handler", "Queue is 252", "Exchange", "Types[0]", "Types[1]", "Types[2]",
		"BindingKeys[0]", "Mode", "QueueType", "Prefetch", "Workers", "BatchSize", "BatchLinger", "MaxAttempts", "MaxUnfinished", "Backoff", "HandlerTimeout",
		"ShutdownTimeout", "Unhandled"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error doesn't speak of %s", want)
		}
	}
	for line := range strings.Lines(err.Error()) {
		if !strings.HasPrefix(line, "amqp: ") || strings.Count(line, ": ") < 2 {
			t.Errorf("a line without a remedy: %s", line)
		}
	}
}

func TestAttemptsMustFitIntoTheBrokersTimeout(t *testing.T) {
	config := ConsumerConfig{Connection: Connection{URLs: []string{"amqp://localhost"}}, Queue: "q", Types: []string{"#"},
		Handler: handlerFunc(nil), HandlerTimeout: 10 * time.Minute}
	if _, err := NewConsumer(config); err == nil || !strings.Contains(err.Error(), "consumer_timeout") {
		t.Errorf("5 attempts of 10 min: %v", err)
	}
	config.MaxAttempts = 2
	if _, err := NewConsumer(config); err != nil {
		t.Errorf("2 attempts of 10 min: %v", err)
	}
}

// TestBatchesNeedAHandlerOfBatches, and time for one try more.
func TestBatchesNeedAHandlerOfBatches(t *testing.T) {
	config := ConsumerConfig{Connection: Connection{URLs: []string{"amqp://localhost"}}, Queue: "q", Types: []string{"#"},
		Handler: handlerFunc(nil), BatchSize: 10}
	if _, err := NewConsumer(config); err == nil || !strings.Contains(err.Error(), "no method HandleBatch: use an *inbox.Inbox") {
		t.Errorf("a Handler without HandleBatch: %v", err)
	}
	config.Handler = newBatchLedger(t, nil)
	if _, err := NewConsumer(config); err != nil {
		t.Errorf("with HandleBatch: %v", err)
	}
	config.HandlerTimeout = 5 * time.Minute
	if _, err := NewConsumer(config); err == nil || !strings.Contains(err.Error(), "and a batch") {
		t.Errorf("a batch and 5 attempts of 5 min: %v", err)
	}
}

func TestBindingKeysMatchAnySource(t *testing.T) {
	c := ConsumerConfig{Types: []string{"OrderCreated", "#"}, BindingKeys: []string{"shop.*"}}
	if got := strings.Join(c.bindingKeys(), " "); got != "#.OrderCreated # shop.*" {
		t.Error(got)
	}
}

// TestBrokersDeadLettersGoWhereOursGo: without these arguments RabbitMQ 4 would drop a message after 20 deliveries.
func TestBrokersDeadLettersGoWhereOursGo(t *testing.T) {
	args := ConsumerConfig{Queue: "q"}.withDefaults().queueArgs()
	for name, want := range map[string]any{"x-queue-type": "quorum", "x-delivery-limit": int64(20),
		"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q.dlq"} {
		if args[name] != want {
			t.Errorf("%s is %v, want %v", name, args[name], want)
		}
	}
	args = ConsumerConfig{Queue: "q", QueueType: ClassicQueue}.withDefaults().queueArgs()
	if _, there := args["x-delivery-limit"]; there {
		t.Error("a classic queue has no delivery limit; RabbitMQ would refuse it")
	}
}

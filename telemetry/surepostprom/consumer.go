package surepostprom

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/inbox"
)

var (
	consumerEvents = metric(Counter, "surepost_consumer_events_total",
		"Events that were done with, by result: handled, duplicate (dropped, since it was handled before), skipped (no handler).",
		"queue", "type", "result")
	consumerHandler = histogram("surepost_consumer_handler_duration_seconds",
		"Time of one call of the handler, of a single event or of a batch in one transaction (type batch), by outcome (ok, error).",
		handlerSeconds, "queue", "type", "outcome")
	consumerBatch = histogram("surepost_consumer_batch_events",
		"Events of one call of the handler.", batchEvents, "queue")
	consumerBatchesFailed = metric(Counter, "surepost_consumer_batches_failed_total",
		"Batches that were rolled back, and whose events were then handled one by one.", "queue")
	consumerAge = histogram("surepost_consumer_event_age_seconds",
		"Time from an event's own time to the end of its handler: how late its effects are.", ageSeconds, "queue")
	consumerRetries = metric(Counter, "surepost_consumer_retries_total",
		"Events that will be tried again, by kind: in-place, delayed (in a retry queue), outage (spends no attempt).",
		"queue", "kind")
	consumerDeadLettered = metric(Counter, "surepost_consumer_dead_lettered_total",
		"Messages that were moved to the dead-letter queue, by reason.", "queue", "reason")
	consumerConnected = metric(Gauge, "surepost_consumer_connected",
		"How many of the process's consumers of the queue are connected.", "queue")
	consumerConnects = metric(Counter, "surepost_consumer_connects_total",
		"Times that consuming began: the first, and one for each reconnect.", "queue")
	consumerDisconnects = metric(Counter, "surepost_consumer_disconnects_total",
		"Connections that were lost, and attempts to connect that failed.", "queue")
)

// OtherType is the label of event types that weren't named beforehand.
const OtherType = "other"

// batchType is the label of a call that handled several events.
const batchType = "batch"

// Consumer registers the consumer's metrics and returns the hooks that move them, for the amqp.ConsumerConfig of the
// queue. It is called once for each consumer; all of a process may share a registry, and nil is
// prometheus.DefaultRegisterer. Only the event types that are named, such as those of Inbox.Types, have a label of their own:
// others count as "other", so that a producer can't make metrics without end. It panics if the registry has a metric of
// somebody else under one of the names.
func Consumer(to prometheus.Registerer, queue string, types ...string) amqp.ConsumerHooks {
	built(to)
	c := &consumerMetrics{
		queue: queue, types: map[string]bool{},
		events: consumerEvents.counter(to), handler: consumerHandler.histogram(to),
		batch: consumerBatch.histogram(to).WithLabelValues(queue), age: consumerAge.histogram(to).WithLabelValues(queue),
		batchesFailed: consumerBatchesFailed.counter(to).WithLabelValues(queue), retries: consumerRetries.counter(to),
		deadLettered: consumerDeadLettered.counter(to), connected: consumerConnected.gauge(to).WithLabelValues(queue),
		connects: consumerConnects.counter(to).WithLabelValues(queue), disconnects: consumerDisconnects.counter(to).WithLabelValues(queue),
	}
	for _, t := range types {
		c.types[t] = true
		for _, r := range []inbox.Result{inbox.Handled, inbox.Duplicate} {
			c.events.WithLabelValues(queue, t, r.String()) // a rate sees their first increase if they are there before
		}
	}
	for _, kind := range []string{retryInPlace, retryDelayed, retryOutage} {
		c.retries.WithLabelValues(queue, kind)
	}
	for _, reason := range []amqp.DeadLetterReason{amqp.AttemptsSpent, amqp.PermanentFailure, amqp.NotAnEvent, amqp.NoHandler, amqp.KillsProcess} {
		c.deadLettered.WithLabelValues(queue, string(reason))
	}
	return amqp.ConsumerHooks{
		OnHandled:     c.onHandled,
		OnCall:        c.onCall,
		OnRetry:       c.onRetry,
		OnBatchFailed: func(amqp.FailedBatch) { c.batchesFailed.Inc() },
		OnDeadLetter: func(m amqp.DeadLetteredMessage) {
			c.deadLettered.WithLabelValues(queue, string(m.Reason)).Inc()
		},
		OnConnect:    func() { c.connects.Inc(); c.setConnected(true) },
		OnDisconnect: func(amqp.Disconnect) { c.disconnects.Inc(); c.setConnected(false) },
	}
}

type consumerMetrics struct {
	queue string
	types map[string]bool

	events, retries, deadLettered        *prometheus.CounterVec
	handler                              *prometheus.HistogramVec
	batch, age                           prometheus.Observer
	batchesFailed, connects, disconnects prometheus.Counter

	mu        sync.Mutex
	connected prometheus.Gauge
	is        bool // this consumer is counted in connected
}

func (c *consumerMetrics) label(eventType string) string {
	if c.types[eventType] {
		return eventType
	}
	return OtherType
}

func (c *consumerMetrics) onHandled(m amqp.HandledMessage) {
	c.events.WithLabelValues(c.queue, c.label(m.Event.Type), m.Result.String()).Inc()
	if m.Result == inbox.Handled && !m.Event.Time.IsZero() {
		c.age.Observe(max(0, time.Since(m.Event.Time).Seconds())) // another machine's clock
	}
}

func (c *consumerMetrics) onCall(call amqp.HandlerCall) {
	label, outcome := c.label(call.Event.Type), "ok"
	if call.BatchSize > 1 {
		label = batchType
	}
	if call.Err != nil {
		outcome = "error"
	}
	c.handler.WithLabelValues(c.queue, label, outcome).Observe(call.Duration.Seconds())
	c.batch.Observe(float64(call.BatchSize))
}

// The kinds of retries.
const (
	retryInPlace = "in-place"
	retryDelayed = "delayed"
	retryOutage  = "outage"
)

func (c *consumerMetrics) onRetry(m amqp.RetriedMessage) {
	kind := retryInPlace
	switch {
	case m.Outage:
		kind = retryOutage
	case m.Delayed:
		kind = retryDelayed
	}
	c.retries.WithLabelValues(c.queue, kind).Inc()
}

func (c *consumerMetrics) setConnected(is bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case is && !c.is:
		c.connected.Inc()
	case !is && c.is:
		c.connected.Dec()
	}
	c.is = is
}

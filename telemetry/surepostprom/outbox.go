package surepostprom

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/surepost/surepost/relay"
)

var (
	outboxUp = metric(Gauge, "surepost_outbox_up",
		"1 if the store told its status within the limit, else 0: then no other metric of the outbox is there.")
	outboxOldest = metric(Gauge, "surepost_outbox_oldest_unpublished_age_seconds",
		"Age of the oldest event that the lane hasn't passed; 0 if there is none.", "destination", "lane")
	outboxBacklog = metric(Gauge, "surepost_outbox_backlog_events",
		"Events that the lane hasn't passed, exact up to 10,000 and estimated beyond.", "destination", "lane")
	outboxLanes = metric(Gauge, "surepost_outbox_lanes",
		"Lanes of the destination.", "destination")
	outboxLanesUnowned = metric(Gauge, "surepost_outbox_lanes_unowned",
		"Lanes of the destination that no relay leads: they have no lease, or one that ran out.", "destination")
	outboxRelays = metric(Gauge, "surepost_outbox_relays",
		"Relays of the destination that are alive, in all processes.", "destination")
	outboxParked = metric(Gauge, "surepost_outbox_parked_events",
		"Parked events.", "destination")
	outboxParkedKeys = metric(Gauge, "surepost_outbox_parked_keys",
		"Keys with parked events, which wait for an operator.", "destination")
	outboxParkedAge = metric(Gauge, "surepost_outbox_parked_oldest_age_seconds",
		"Time since the first of the parked events was parked; 0 if none is.", "destination")
	outboxScheduled = metric(Gauge, "surepost_outbox_scheduled_events",
		"Events that aren't due yet.")
	outboxOverdue = metric(Gauge, "surepost_outbox_scheduled_overdue_seconds",
		"Time since the first scheduled event was due; 0 if none is.")
	outboxLogBytes = metric(Gauge, "surepost_outbox_log_bytes",
		"Size of the outbox's tables with their indexes.")
	outboxOldestKept = metric(Gauge, "surepost_outbox_oldest_event_age_seconds",
		"Age of the oldest event that the log still has; 0 if it is empty. Retention keeps it near the retention time.")
	outboxRetention = metric(Gauge, "surepost_outbox_retention_seconds",
		"How long published events are kept at least, as configured; +Inf for ever. In bulk, so that the oldest is up to half as much older.")
	inboxBytes = metric(Gauge, "surepost_inbox_bytes",
		"Size of the inbox's tables with their indexes.")
)

// StatusSource tells how an outbox stands. The stores of sqlstore and pgxstore are such.
type StatusSource interface {
	Status(ctx context.Context) (relay.OutboxStatus, error)
}

// OutboxConfig configures [Outbox]. Its zero value works.
type OutboxConfig struct {
	// Interval is how often the store is asked at most; what it told serves all scrapes until then. Default 5 s: less than
	// any usual scrape interval, and several Prometheus servers cost the database no more than one.
	Interval time.Duration

	// Timeout is how long a scrape waits for the store. Default 3 s: Prometheus gives up a scrape after 10 s, and with it all
	// metrics of the process.
	Timeout time.Duration

	// Retention is how long the relays keep events, which is told as a metric beside the oldest event's age: set it as
	// relay.Config.Retention. Default relay.DefaultRetention, 7 days. Negative: for ever.
	Retention time.Duration

	// Logger is told when the store can't be asked, and when it can again. Default slog.Default().
	Logger *slog.Logger
}

func (c OutboxConfig) withDefaults() OutboxConfig {
	if c.Interval == 0 {
		c.Interval = 5 * time.Second
	}
	if c.Timeout == 0 {
		c.Timeout = 3 * time.Second
	}
	if c.Retention == 0 {
		c.Retention = relay.DefaultRetention
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// kept returns the retention in seconds.
func (c OutboxConfig) kept() float64 {
	if c.Retention < 0 {
		return math.Inf(1)
	}
	return c.Retention.Seconds()
}

// Outbox registers metrics of how the outbox stands, which the store is asked for when they are scraped. One process per
// database is enough, though more do no harm. Nil is prometheus.DefaultRegisterer. It panics if the registry has an outbox
// already, or if the config has a negative time.
func Outbox(to prometheus.Registerer, source StatusSource, config OutboxConfig) {
	config = config.withDefaults()
	if config.Interval < 0 || config.Timeout < 0 {
		panic(fmt.Sprintf("surepostprom: OutboxConfig.Interval is %v and Timeout is %v: use positive times, or 0 for the defaults",
			config.Interval, config.Timeout))
	}
	built(to)
	if to == nil {
		to = prometheus.DefaultRegisterer
	}
	to.MustRegister(&outboxCollector{source: source, config: config})
}

// outboxCollector asks for the status when it is collected.
type outboxCollector struct {
	source StatusSource
	config OutboxConfig

	mu      sync.Mutex // held while the store is asked: others wait for the same answer
	asking  chan answer
	told    answer
	toldAt  time.Time
	failing bool
}

type answer struct {
	status relay.OutboxStatus
	err    error
}

// Describe implements prometheus.Collector.
func (c *outboxCollector) Describe(to chan<- *prometheus.Desc) {
	for _, m := range []Metric{outboxUp, outboxOldest, outboxBacklog, outboxLanes, outboxLanesUnowned, outboxRelays, outboxParked,
		outboxParkedKeys, outboxParkedAge, outboxScheduled, outboxOverdue, outboxLogBytes, outboxOldestKept, outboxRetention, inboxBytes} {
		to <- m.desc()
	}
}

// Collect implements prometheus.Collector.
func (c *outboxCollector) Collect(to chan<- prometheus.Metric) {
	send := func(m Metric, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(m.desc(), prometheus.GaugeValue, value, labels...)
	}
	told := c.ask()
	if told.err != nil {
		send(outboxUp, 0)
		return
	}
	send(outboxUp, 1)
	now, s := time.Now(), told.status
	for _, d := range s.Destinations {
		if d.Replay == nil || d.Replay.DoneAt.IsZero() { // else nobody serves it any more, and nothing waits there
			sendDestination(send, d, now)
		}
	}
	send(outboxScheduled, float64(s.Scheduled))
	send(outboxOverdue, age(s.ScheduledDue, now))
	send(outboxLogBytes, float64(s.LogBytes))
	send(outboxOldestKept, age(s.OldestEvent, now))
	send(outboxRetention, c.config.kept())
	send(inboxBytes, float64(s.InboxBytes))
}

func sendDestination(send func(Metric, float64, ...string), d relay.DestinationStatus, now time.Time) {
	owned := 0
	for _, l := range d.LanesStatus {
		if l.Owner != "" && l.Expires > 0 {
			owned++
		}
		send(outboxOldest, age(l.OldestUnpublished, now), d.Name, index(l.Lane))
		send(outboxBacklog, float64(l.Backlog), d.Name, index(l.Lane))
	}
	send(outboxLanes, float64(d.Lanes), d.Name)
	send(outboxLanesUnowned, float64(max(0, d.Lanes-owned)), d.Name)
	send(outboxRelays, float64(len(d.Relays)), d.Name)
	send(outboxParked, float64(d.Parked), d.Name)
	send(outboxParkedKeys, float64(d.ParkedKeys), d.Name)
	send(outboxParkedAge, age(d.ParkedAt, now), d.Name)
}

// age returns the seconds since t; 0 if t is none or lies ahead.
func age(t, now time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return max(0, now.Sub(t).Seconds())
}

// ask returns the store's status, which is at most Interval old. It waits no longer than Timeout, whatever the store
// does, and asks nothing while an earlier call hasn't returned: some drivers don't notice that a context has ended.
func (c *outboxCollector) ask() answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.toldAt.IsZero() && time.Since(c.toldAt) < c.config.Interval {
		return c.told
	}
	select {
	case <-c.asking:
		c.asking = nil // it came after its scrape had gone, and tells of the past
	default:
	}
	if c.asking == nil {
		c.asking = make(chan answer, 1)
		go c.status(c.asking)
	}
	limit := time.NewTimer(c.config.Timeout)
	defer limit.Stop()
	select {
	case c.told = <-c.asking:
		c.asking = nil
	case <-limit.C:
		c.told = answer{err: fmt.Errorf("no answer within %v (OutboxConfig.Timeout)", c.config.Timeout)}
	}
	c.toldAt = time.Now()
	c.note(c.told.err)
	return c.told
}

func (c *outboxCollector) status(to chan<- answer) {
	ctx, cancel := context.WithTimeout(context.Background(), c.config.Timeout)
	defer cancel()
	status, err := c.source.Status(ctx)
	to <- answer{status, err}
}

// note logs the first failure and the first success after it.
func (c *outboxCollector) note(err error) {
	switch {
	case err != nil && !c.failing:
		c.config.Logger.Warn("the outbox's metrics can't be read", "err", err)
	case err == nil && c.failing:
		c.config.Logger.Info("the outbox's metrics can be read again")
	}
	c.failing = err != nil
}

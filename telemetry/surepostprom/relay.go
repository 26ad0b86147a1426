package surepostprom

import (
	"errors"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/surepost/surepost/relay"
)

var (
	relayLaneOwned = metric(Gauge, "surepost_relay_lane_owned",
		"1 while this process leads the lane, else 0.", "destination", "lane")
	relayPublished = metric(Counter, "surepost_relay_published_total",
		"Events that the broker has confirmed, repetitions included.", "destination", "lane")
	relayConfirm = histogram("surepost_relay_confirm_duration_seconds",
		"Time from handing an event to the publisher to its confirm.", confirmSeconds, "destination")
	relayConfirmBatch = histogram("surepost_relay_confirm_batch_events",
		"Events whose outcomes the relay took in at once.", batchEvents, "destination")
	relayReadBatch = histogram("surepost_relay_read_batch_events",
		"Events that one read of the log returned; reads that returned none don't count.", batchEvents, "destination")
	relayStragglers = metric(Counter, "surepost_relay_stragglers_total",
		"Events that committed after ones with higher numbers had been read.", "destination", "lane")
	relayRetries = metric(Counter, "surepost_relay_retries_total",
		"Events that the broker didn't take and that are sent again, by its answer (rejected, unroutable).",
		"destination", "lane", "outcome")
	relayParked = metric(Counter, "surepost_relay_parked_total",
		"Events that were taken out of the stream, by cause: refused themselves, or behind one of their key.",
		"destination", "lane", "cause")
	relayBlocked = metric(Gauge, "surepost_relay_blocked",
		"1 while the broker asks to send nothing, else 0.", "destination", "lane")
	relayBlockedSeconds = metric(Counter, "surepost_relay_blocked_seconds_total",
		"Time in which the broker asked to send nothing.", "destination", "lane")
	relaySessions = metric(Counter, "surepost_relay_sessions_opened_total",
		"Sessions with the broker that were opened: the first, and one for each reconnect.", "destination", "lane")
	relayRenewals = metric(Counter, "surepost_relay_lease_renewals_total",
		"Attempts to renew a lease, successful or not.", "destination", "lane")
	relayRenewalFailures = metric(Counter, "surepost_relay_lease_renewal_failures_total",
		"Attempts to renew a lease that failed.", "destination", "lane")
	relayLeasesLost = metric(Counter, "surepost_relay_leases_lost_total",
		"Leases that another relay took while this one thought it had them.", "destination", "lane")
	relayErrors = metric(Counter, "surepost_relay_errors_total",
		"Failures of the store or the broker after which the relay began again.", "destination", "lane")
)

// Relay registers the relay's metrics and returns the hooks that move them, for relay.Config. Several relays of a process may
// share a registry; nil is prometheus.DefaultRegisterer. It panics if the registry has a metric of somebody else under one of
// the names.
func Relay(to prometheus.Registerer) relay.Hooks {
	built(to)
	m := &relayMetrics{
		laneOwned: relayLaneOwned.gauge(to), published: relayPublished.counter(to), confirm: relayConfirm.histogram(to),
		confirmBatch: relayConfirmBatch.histogram(to), readBatch: relayReadBatch.histogram(to),
		stragglers: relayStragglers.counter(to), retries: relayRetries.counter(to), parked: relayParked.counter(to),
		blocked: register(to, newStopwatch(relayBlocked, relayBlockedSeconds)), sessions: relaySessions.counter(to),
		renewals: relayRenewals.counter(to), renewalFailures: relayRenewalFailures.counter(to),
		leasesLost: relayLeasesLost.counter(to), errors: relayErrors.counter(to),
		states: map[relay.Lane]relay.State{},
	}
	return relay.Hooks{
		OnState:     m.onState,
		OnPublished: func(lane relay.Lane, events int) { m.of(lane).published.Add(float64(events)) },
		OnSettled:   m.onSettled,
		OnRead:      m.onRead,
		OnParked:    m.onParked,
		OnRetry: func(lane relay.Lane, _ relay.Entry, outcome relay.Outcome) {
			m.retries.WithLabelValues(lane.Destination, index(lane), outcome.Status.String()).Inc()
		},
		OnBlocked: func(lane relay.Lane, blocked bool, _ string) { m.blocked.set(m.of(lane).labels, blocked) },
		OnSession: func(lane relay.Lane) { m.of(lane).sessions.Inc() },
		OnRenew:   m.onRenew,
		OnError:   func(lane relay.Lane, _ error) { m.errors.WithLabelValues(lane.Destination, index(lane)).Inc() },
	}
}

type relayMetrics struct {
	laneOwned                                                *prometheus.GaugeVec
	published, stragglers, retries, parked, sessions, errors *prometheus.CounterVec
	renewals, renewalFailures, leasesLost                    *prometheus.CounterVec
	confirm, confirmBatch, readBatch                         *prometheus.HistogramVec
	blocked                                                  *stopwatch

	lanes sync.Map // *laneMetrics by relay.Lane: looking up labels costs more than counting

	mu     sync.Mutex
	states map[relay.Lane]relay.State
}

// laneMetrics are the metrics of one lane.
type laneMetrics struct {
	labels                                                           laneLabels
	owned                                                            prometheus.Gauge
	published, stragglers, sessions, renewals, renewalFailures, lost prometheus.Counter
	errors                                                           prometheus.Counter
	confirm, confirmBatch, readBatch                                 prometheus.Observer
}

type laneLabels struct{ destination, lane string }

// index returns the label of a lane; "" where the relay as a whole is meant.
func index(lane relay.Lane) string {
	if lane.Of == 0 {
		return ""
	}
	return strconv.Itoa(lane.Index)
}

// of returns the metrics of a lane. All of them are there from then on, at zero, so that a rate sees their first
// increase.
func (m *relayMetrics) of(lane relay.Lane) *laneMetrics {
	if l, ok := m.lanes.Load(lane); ok {
		return l.(*laneMetrics)
	}
	labels := laneLabels{lane.Destination, index(lane)}
	counter := func(c *prometheus.CounterVec) prometheus.Counter {
		return c.WithLabelValues(labels.destination, labels.lane)
	}
	l := &laneMetrics{
		labels: labels, owned: m.laneOwned.WithLabelValues(labels.destination, labels.lane),
		published: counter(m.published), stragglers: counter(m.stragglers), sessions: counter(m.sessions),
		renewals: counter(m.renewals), renewalFailures: counter(m.renewalFailures), lost: counter(m.leasesLost),
		errors:  counter(m.errors),
		confirm: m.confirm.WithLabelValues(labels.destination), confirmBatch: m.confirmBatch.WithLabelValues(labels.destination),
		readBatch: m.readBatch.WithLabelValues(labels.destination),
	}
	for _, outcome := range []relay.Status{relay.Rejected, relay.Unroutable} {
		m.retries.WithLabelValues(labels.destination, labels.lane, outcome.String())
	}
	for _, cause := range []string{causeRefused, causeBehind} {
		m.parked.WithLabelValues(labels.destination, labels.lane, cause)
	}
	m.blocked.know(labels)
	there, _ := m.lanes.LoadOrStore(lane, l)
	return there.(*laneMetrics)
}

// onState keeps the lanes that are led. When the number of lanes changes, two lanes of one index overlap for a moment.
func (m *relayMetrics) onState(lane relay.Lane, state relay.State) {
	of := m.of(lane)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.states[lane] = state
	owned := 0.0
	for other, s := range m.states {
		if other.Destination == lane.Destination && other.Index == lane.Index && s == relay.Leading {
			owned = 1
		}
	}
	of.owned.Set(owned)
	if state != relay.Leading {
		delete(m.states, lane)
	}
}

func (m *relayMetrics) onSettled(lane relay.Lane, settled []relay.Settled) {
	of := m.of(lane)
	of.confirmBatch.Observe(float64(len(settled)))
	for i := range settled {
		if settled[i].Outcome.Status == relay.Confirmed {
			of.confirm.Observe(settled[i].At.Sub(settled[i].SentAt).Seconds())
		}
	}
}

func (m *relayMetrics) onRead(lane relay.Lane, events, stragglers int) {
	of := m.of(lane)
	of.readBatch.Observe(float64(events))
	of.stragglers.Add(float64(stragglers))
}

// The causes of parking.
const (
	causeRefused = "refused"
	causeBehind  = "behind"
)

func (m *relayMetrics) onParked(lane relay.Lane, parked relay.Parked) {
	cause := causeRefused
	if parked.Behind {
		cause = causeBehind
	}
	m.parked.WithLabelValues(lane.Destination, index(lane), cause).Inc()
}

func (m *relayMetrics) onRenew(lane relay.Lane, err error) {
	of := m.of(lane)
	of.renewals.Inc()
	switch {
	case errors.Is(err, relay.ErrLeaseLost):
		of.lost.Inc()
		of.renewalFailures.Inc()
	case err != nil:
		of.renewalFailures.Inc()
	}
}

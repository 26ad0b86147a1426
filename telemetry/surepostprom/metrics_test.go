package surepostprom

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/relay"
)

// everything returns a registry in which every metric has a sample.
func everything(t *testing.T) *prometheus.Registry {
	t.Helper()
	all := prometheus.NewPedanticRegistry()
	lane := relay.Lane{Destination: "default", Of: 1}
	r := Relay(all)
	r.OnState(lane, relay.Leading)
	r.OnPublished(lane, 1)
	r.OnSettled(lane, []relay.Settled{{Outcome: relay.Outcome{Status: relay.Confirmed}}})
	r.OnRead(lane, 1, 0)
	c := Consumer(all, "queue", "T")
	c.OnHandled(amqp.HandledMessage{Event: surepost.Event{Type: "T", Time: time.Now()}, Result: inbox.Handled})
	c.OnCall(amqp.HandlerCall{BatchSize: 1})
	Outbox(all, &source{answer: func(context.Context) (relay.OutboxStatus, error) {
		return relay.OutboxStatus{Destinations: []relay.DestinationStatus{{
			Destination: relay.Destination{Name: "default", Lanes: 1}, LanesStatus: []relay.LaneStatus{{Lane: lane}},
		}}}, nil
	}}, OutboxConfig{})
	return all
}

func TestTheCatalogueIsWhatIsScraped(t *testing.T) {
	families, err := everything(t).Gather()
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]Metric{}
	for _, m := range Metrics() {
		if _, twice := listed[m.Name]; twice {
			t.Errorf("%s is listed twice", m.Name)
		}
		listed[m.Name] = m
	}
	for _, family := range families {
		m, ok := listed[family.GetName()]
		if !ok {
			t.Errorf("%s is scraped, but not listed", family.GetName())
			continue
		}
		delete(listed, m.Name)
		if kind := strings.ToLower(family.GetType().String()); kind != string(m.Kind) || family.GetHelp() != m.Help {
			t.Errorf("%s is a %s (%s), listed as a %s (%s)", m.Name, kind, family.GetHelp(), m.Kind, m.Help)
		}
		want := slices.Sorted(slices.Values(m.Labels))
		for _, sample := range family.Metric {
			var labels []string
			for _, l := range sample.Label {
				labels = append(labels, l.GetName())
			}
			if slices.Sort(labels); !slices.Equal(labels, want) {
				t.Errorf("%s has the labels %q, listed are %q", m.Name, labels, want)
			}
		}
	}
	for name := range listed {
		t.Errorf("%s is listed, but not scraped", name)
	}
}

// What promtool check metrics asks for: base units, suffixes, help.
func TestNamesFollowPrometheusConventions(t *testing.T) {
	problems, err := testutil.GatherAndLint(everything(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// Whatever an event is, no label grows with the number of events.
func TestNoLabelIsAnEventsOwn(t *testing.T) {
	bounded := []string{"destination", "lane", "queue", "type", "result", "outcome", "cause", "kind", "reason", "version", "goversion"}
	for _, m := range Metrics() {
		for _, l := range m.Labels {
			if !slices.Contains(bounded, l) {
				t.Errorf("%s has the label %s: show that it has few values", m.Name, l)
			}
		}
	}
}

func TestBadConfigIsExplained(t *testing.T) {
	defer func() {
		problem, _ := recover().(string)
		for _, want := range []string{"Interval is -1ns", "Timeout is -2ns"} {
			if !strings.Contains(problem, want) {
				t.Errorf("%q isn't in %q", want, problem)
			}
		}
	}()
	Outbox(prometheus.NewRegistry(), &source{}, OutboxConfig{Interval: -1, Timeout: -2})
}

// Counting is for every event, in the goroutine that publishes.
func BenchmarkRelayHooks(b *testing.B) {
	hooks := Relay(prometheus.NewRegistry())
	lane := relay.Lane{Destination: "default", Of: 1}
	now := time.Now()
	settled := make([]relay.Settled, 100)
	for i := range settled {
		settled[i] = relay.Settled{Outcome: relay.Outcome{Status: relay.Confirmed}, SentAt: now, At: now.Add(3 * time.Millisecond)}
	}
	b.ReportAllocs()
	for b.Loop() {
		hooks.OnSettled(lane, settled)
		hooks.OnPublished(lane, len(settled))
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(settled)), "ns/event")
}

var errAny = errors.New("any")

func TestAWholeRelaysErrorHasNoLane(t *testing.T) {
	all := prometheus.NewRegistry()
	Relay(all).OnError(relay.Lane{Destination: "default"}, errAny)
	gather(t, all).wants(t, "an error of no lane", samples{`surepost_relay_errors_total{destination="default",lane=""}`: 1})
}

package surepostprom

import (
	"errors"
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
)

// Metric describes one of the package's metrics.
type Metric struct {
	Name   string
	Kind   Kind
	Help   string
	Labels []string

	buckets []float64
}

// Kind is the kind of a metric, in Prometheus' words.
type Kind string

// The kinds of metrics.
const (
	Counter   Kind = "counter"
	Gauge     Kind = "gauge"
	Histogram Kind = "histogram"
)

// Metrics returns all metrics of the package: what dashboards and alerts may be made of.
func Metrics() []Metric { return slices.Clone(catalogue) }

// catalogue is filled by the declarations of the metrics, which are the only way to make one.
var catalogue []Metric

func metric(kind Kind, name, help string, labels ...string) Metric {
	m := Metric{Name: name, Kind: kind, Help: help, Labels: labels}
	catalogue = append(catalogue, m)
	return m
}

func histogram(name, help string, buckets []float64, labels ...string) Metric {
	m := Metric{Name: name, Kind: Histogram, Help: help, Labels: labels, buckets: buckets}
	catalogue = append(catalogue, m)
	return m
}

func (m Metric) desc() *prometheus.Desc { return prometheus.NewDesc(m.Name, m.Help, m.Labels, nil) }

func (m Metric) counter(to prometheus.Registerer) *prometheus.CounterVec {
	return register(to, prometheus.NewCounterVec(prometheus.CounterOpts{Name: m.Name, Help: m.Help}, m.Labels))
}

func (m Metric) gauge(to prometheus.Registerer) *prometheus.GaugeVec {
	return register(to, prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: m.Name, Help: m.Help}, m.Labels))
}

func (m Metric) histogram(to prometheus.Registerer) *prometheus.HistogramVec {
	return register(to, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: m.Name, Help: m.Help, Buckets: m.buckets}, m.Labels))
}

// register registers a collector, or returns the one that an earlier call has registered: several relays and consumers
// of a process share their metrics. Nil is prometheus.DefaultRegisterer.
func register[C prometheus.Collector](to prometheus.Registerer, c C) C {
	if to == nil {
		to = prometheus.DefaultRegisterer
	}
	err := to.Register(c)
	var there prometheus.AlreadyRegisteredError
	if errors.As(err, &there) {
		if same, ok := there.ExistingCollector.(C); ok {
			return same
		}
	}
	if err != nil {
		panic("surepostprom: " + err.Error() + ": somebody else has a metric of this name: use another registry")
	}
	return c
}

// Buckets of seconds. A broker on the same network confirms within some milliseconds; a handler may take minutes; an
// event may wait for a day.
var (
	confirmSeconds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	handlerSeconds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}
	ageSeconds     = []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600, 21600, 86400}
	batchEvents    = []float64{1, 2, 5, 10, 25, 50, 100, 250, 500, 1000}
)

var buildInfo = metric(Gauge, "surepost_build_info", "Always 1; the labels say what runs.", "version", "goversion")

// built registers which version of Surepost runs.
func built(to prometheus.Registerer) {
	buildInfo.gauge(to).WithLabelValues(version(), runtime.Version()).Set(1)
}

const module = "github.com/surepost/surepost"

// version returns the version of the root module that the program was built with; "(devel)" in a workspace.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if info.Main.Path == module {
		return info.Main.Version
	}
	for _, dep := range info.Deps {
		if dep.Path == module {
			return dep.Version
		}
	}
	return "(devel)"
}

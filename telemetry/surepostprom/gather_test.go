package surepostprom

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

var silent = slog.New(slog.NewTextHandler(io.Discard, nil))

// samples are what a scrape returns: values by name{label="value",…}; of histograms name_count and name_sum.
type samples map[string]float64

func gather(t testing.TB, from prometheus.Gatherer) samples {
	t.Helper()
	families, err := from.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := samples{}
	for _, family := range families {
		for _, m := range family.Metric {
			all.add(family, m)
		}
	}
	return all
}

func (s samples) add(family *dto.MetricFamily, m *dto.Metric) {
	labels := make([]string, len(m.Label))
	for i, l := range m.Label {
		labels[i] = fmt.Sprintf("%s=%q", l.GetName(), l.GetValue())
	}
	slices.Sort(labels)
	suffix := "{" + strings.Join(labels, ",") + "}"
	switch family.GetType() {
	case dto.MetricType_HISTOGRAM:
		s[family.GetName()+"_count"+suffix] = float64(m.Histogram.GetSampleCount())
		s[family.GetName()+"_sum"+suffix] = m.Histogram.GetSampleSum()
	case dto.MetricType_COUNTER:
		s[family.GetName()+suffix] = m.Counter.GetValue()
	default:
		s[family.GetName()+suffix] = m.Gauge.GetValue()
	}
}

// wants checks that the samples are there with these values, to a millisecond.
func (s samples) wants(t testing.TB, when string, want samples) {
	t.Helper()
	for name, value := range want {
		got, there := s[name]
		if !there || math.Abs(got-value) > 0.001 {
			t.Errorf("%s: %s is %v (there: %v), want %v", when, name, got, there, value)
		}
	}
}

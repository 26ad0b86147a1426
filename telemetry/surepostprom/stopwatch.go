package surepostprom

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// stopwatch tells for each lane whether something lasts, and for how long it has lasted in all, up to the moment of the
// scrape: a counter that moved only at the end would hide what lasts for hours.
type stopwatch struct {
	now, total *prometheus.Desc

	mu    sync.Mutex
	lanes map[laneLabels]*lasting
}

type lasting struct {
	since time.Time // zero: it doesn't last now
	past  time.Duration
}

func newStopwatch(now, total Metric) *stopwatch {
	return &stopwatch{now: now.desc(), total: total.desc(), lanes: map[laneLabels]*lasting{}}
}

// know lets the lane be told of from now on.
func (s *stopwatch) know(lane laneLabels) *lasting {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lanes[lane] == nil {
		s.lanes[lane] = &lasting{}
	}
	return s.lanes[lane]
}

func (s *stopwatch) set(lane laneLabels, on bool) {
	l := s.know(lane)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case on && l.since.IsZero():
		l.since = time.Now()
	case !on && !l.since.IsZero():
		l.past += time.Since(l.since)
		l.since = time.Time{}
	}
}

// Describe implements prometheus.Collector.
func (s *stopwatch) Describe(to chan<- *prometheus.Desc) { to <- s.now; to <- s.total }

// Collect implements prometheus.Collector.
func (s *stopwatch) Collect(to chan<- prometheus.Metric) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for lane, l := range s.lanes {
		now, total := 0.0, l.past
		if !l.since.IsZero() {
			now, total = 1, total+time.Since(l.since)
		}
		to <- prometheus.MustNewConstMetric(s.now, prometheus.GaugeValue, now, lane.destination, lane.lane)
		to <- prometheus.MustNewConstMetric(s.total, prometheus.CounterValue, total.Seconds(), lane.destination, lane.lane)
	}
}

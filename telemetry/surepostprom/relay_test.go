package surepostprom

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/relay/relaytest"
)

// keeping is a store whose renewals can fail.
type keeping struct {
	*memstore.Store
	renewals, failed atomic.Int64
	fail             atomic.Pointer[error]
}

func (s *keeping) Renew(ctx context.Context, lease relay.Lease, ttl time.Duration) error {
	s.renewals.Add(1)
	if err := s.fail.Load(); err != nil {
		s.failed.Add(1)
		return *err
	}
	return s.Store.Renew(ctx, lease, ttl)
}

func (s *keeping) failWith(err error) {
	if err == nil {
		s.fail.Store(nil)
		return
	}
	s.fail.Store(&err)
}

// station is a relay with metrics.
type station struct {
	t      *testing.T
	store  *keeping
	broker *relaytest.Publisher
	box    *outbox.Outbox[*memstore.Tx]
	all    *prometheus.Registry
	errors atomic.Int64 // of which a hook of the test's own was told
	stop   func()
}

func newStation(t *testing.T, lanes int) *station {
	s := &station{t: t, store: &keeping{Store: memstore.New()}, broker: relaytest.NewPublisher(), all: prometheus.NewRegistry()}
	var err error
	if s.box, err = outbox.New(s.store.Store, outbox.Config{Source: "test"}); err != nil {
		t.Fatal(err)
	}
	own := relay.Hooks{OnError: func(relay.Lane, error) { s.errors.Add(1) }}
	r, err := relay.New(s.store, s.broker, relay.Config{
		LeaseTTL: 3 * time.Second, UnroutableTries: 2, Logger: silent, Lanes: lanes, Hooks: relay.JoinHooks(Relay(s.all), own),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	returned := make(chan error, 1)
	go func() { returned <- r.Run(ctx) }()
	s.stop = func() {
		cancel()
		if err := <-returned; err != nil {
			t.Error(err)
		}
	}
	return s
}

// write commits an event for each of the keys.
func (s *station) write(keys ...string) {
	s.t.Helper()
	err := s.store.Do(s.t.Context(), func(tx *memstore.Tx) error { return s.writeIn(tx, keys...) })
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *station) writeIn(tx *memstore.Tx, keys ...string) error {
	for _, key := range keys {
		if err := s.box.Write(s.t.Context(), tx, surepost.Event{Type: "Written", Key: key}); err != nil {
			return err
		}
	}
	return nil
}

func (s *station) wants(when string, want samples) {
	s.t.Helper()
	synctest.Wait()
	gather(s.t, s.all).wants(s.t, when, want)
}

func TestTheRelaysMetricsMoveByWhatHappens(t *testing.T) {
	const lane = `{destination="default",lane="0"}`
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, 1)
		s.write("a", "b", "c")
		time.Sleep(time.Second)
		s.wants("three events", samples{
			"surepost_relay_lane_owned" + lane:                                                1,
			"surepost_relay_published_total" + lane:                                           3,
			`surepost_relay_confirm_duration_seconds_count{destination="default"}`:            3,
			`surepost_relay_confirm_duration_seconds_sum{destination="default"}`:              0,
			`surepost_relay_confirm_batch_events_sum{destination="default"}`:                  3,
			`surepost_relay_read_batch_events_sum{destination="default"}`:                     3,
			`surepost_relay_read_batch_events_count{destination="default"}`:                   1,
			"surepost_relay_sessions_opened_total" + lane:                                     1,
			"surepost_relay_errors_total" + lane:                                              0,
			"surepost_relay_blocked" + lane:                                                   0,
			"surepost_relay_stragglers_total" + lane:                                          0,
			`surepost_relay_retries_total{destination="default",lane="0",outcome="rejected"}`: 0,
			`surepost_relay_parked_total{cause="refused",destination="default",lane="0"}`:     0,
		})

		s.broker.Next(relaytest.Reject)
		s.write("a")
		time.Sleep(time.Second)
		s.broker.Next(relaytest.Return, relaytest.Return)
		s.write("gone", "gone")
		time.Sleep(time.Second)
		s.wants("a rejected one, and two that nobody wants", samples{
			"surepost_relay_published_total" + lane:                                             4,
			`surepost_relay_retries_total{destination="default",lane="0",outcome="rejected"}`:   1,
			`surepost_relay_retries_total{destination="default",lane="0",outcome="unroutable"}`: 1,
			`surepost_relay_parked_total{cause="refused",destination="default",lane="0"}`:       1,
			`surepost_relay_parked_total{cause="behind",destination="default",lane="0"}`:        1,
			`surepost_relay_confirm_duration_seconds_count{destination="default"}`:              4,
			`surepost_relay_confirm_batch_events_sum{destination="default"}`:                    7, // outcomes of any kind
		})

		s.broker.Hang()
		s.write("slow")
		time.Sleep(2 * time.Second)
		s.broker.Resume()
		time.Sleep(time.Second)
		slow := gather(t, s.all)[`surepost_relay_confirm_duration_seconds_sum{destination="default"}`]
		if slow < 1.7 || slow > 2 {
			t.Errorf("a confirm that took 2 s, less a poll, counts as %v s", slow)
		}

		s.broker.Block("low on memory")
		time.Sleep(5 * time.Second)
		s.wants("blocked", samples{"surepost_relay_blocked" + lane: 1, "surepost_relay_blocked_seconds_total" + lane: 5})
		time.Sleep(5 * time.Second)
		s.broker.Stop(errors.New("no route to host")) // a session that is lost while blocked
		time.Sleep(time.Second)
		s.wants("away", samples{"surepost_relay_blocked" + lane: 0, "surepost_relay_blocked_seconds_total" + lane: 10})
		s.broker.Unblock()
		s.broker.Start()
		time.Sleep(10 * time.Second)
		s.broker.Drop()
		time.Sleep(10 * time.Second)
		s.wants("lost", samples{
			"surepost_relay_blocked" + lane: 0, "surepost_relay_blocked_seconds_total" + lane: 10,
			"surepost_relay_sessions_opened_total" + lane: 3, "surepost_relay_errors_total" + lane: float64(s.errors.Load()),
		})
		if s.errors.Load() < 3 {
			t.Errorf("%d errors: the outage, its end's tries and a lost session should be more", s.errors.Load())
		}

		late, err := s.store.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.writeIn(late, "late"); err != nil {
			t.Fatal(err)
		}
		s.write("early")
		time.Sleep(time.Second)
		if err := late.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		s.wants("a straggler", samples{"surepost_relay_stragglers_total" + lane: 1, "surepost_relay_published_total" + lane: 7})

		s.store.failWith(errors.New("connection refused"))
		time.Sleep(1500 * time.Millisecond)
		s.store.failWith(nil)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if s.store.failed.Load() == 0 || s.store.renewals.Load() < 20 {
			t.Fatalf("%d of %d renewals failed, so that this test shows nothing", s.store.failed.Load(), s.store.renewals.Load())
		}
		s.wants("renewals", samples{
			"surepost_relay_lease_renewals_total" + lane:         float64(s.store.renewals.Load()),
			"surepost_relay_lease_renewal_failures_total" + lane: float64(s.store.failed.Load()),
			"surepost_relay_leases_lost_total" + lane:            0,
			"surepost_relay_lane_owned" + lane:                   1,
		})
		s.store.failWith(relay.ErrLeaseLost)
		time.Sleep(time.Second + 10*time.Millisecond)
		s.store.failWith(nil)
		s.wants("a lost lease", samples{"surepost_relay_leases_lost_total" + lane: 1})
		time.Sleep(5 * time.Second)
		s.wants("leading again", samples{"surepost_relay_lane_owned" + lane: 1})
		s.stop()
		s.wants("stopped", samples{"surepost_relay_lane_owned" + lane: 0})
	})
}

func TestOwnedLanesFollowTheirNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, 4)
		time.Sleep(10 * time.Second)
		owned := func() (n float64) {
			for name, value := range gather(t, s.all) {
				if len(name) > 25 && name[:25] == "surepost_relay_lane_owned" {
					n += value
				}
			}
			return n
		}
		if n := owned(); n != 4 {
			t.Errorf("%v lanes owned, want 4", n)
		}
		for _, lanes := range []int{2, 6} {
			if err := s.store.SetLanes(t.Context(), relay.DefaultDestination, lanes); err != nil {
				t.Fatal(err)
			}
			time.Sleep(30 * time.Second)
			if n := owned(); n != float64(lanes) {
				t.Errorf("%v lanes owned, want %d", n, lanes)
			}
		}
		s.stop()
		if n := owned(); n != 0 {
			t.Errorf("%v lanes owned after the end", n)
		}
	})
}

func TestSeveralRelaysShareARegistry(t *testing.T) {
	all := prometheus.NewRegistry()
	first, second := Relay(all), Relay(all)
	lane := relay.Lane{Destination: "d", Of: 1}
	first.OnPublished(lane, 2)
	second.OnPublished(lane, 3)
	gather(t, all).wants(t, "two relays", samples{`surepost_relay_published_total{destination="d",lane="0"}`: 5})
}

func TestSomebodyElsesMetricIsAnError(t *testing.T) {
	all := prometheus.NewRegistry()
	all.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: relayPublished.Name, Help: "mine"}))
	defer func() {
		if recover() == nil {
			t.Error("two metrics of one name")
		}
	}()
	Relay(all)
}

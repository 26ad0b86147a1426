package surepostprom

import (
	"context"
	"errors"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/relay/relaytest"
	"github.com/surepost/surepost/sqlstore"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

var (
	_ StatusSource = (*memstore.Store)(nil)
	_ StatusSource = (*sqlstore.Store)(nil)
	_ StatusSource = (*pgxstore.Store)(nil)
)

// source tells what the test says.
type source struct {
	asked  atomic.Int64
	answer func(ctx context.Context) (relay.OutboxStatus, error)
}

func (s *source) Status(ctx context.Context) (relay.OutboxStatus, error) {
	s.asked.Add(1)
	return s.answer(ctx)
}

func scraped(t *testing.T, s StatusSource) *prometheus.Registry {
	t.Helper()
	all := prometheus.NewPedanticRegistry()
	Outbox(all, s, OutboxConfig{Logger: silent})
	return all
}

func TestTheOutboxsStatusIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		lane := func(index int) relay.Lane { return relay.Lane{Destination: "default", Index: index, Of: 3} }
		status := relay.OutboxStatus{
			Destinations: []relay.DestinationStatus{{
				Destination: relay.Destination{Name: "default", Lanes: 3},
				LanesStatus: []relay.LaneStatus{
					{Lane: lane(0), Owner: "a", Expires: time.Second, OldestUnpublished: now.Add(-time.Minute), Backlog: 7},
					{Lane: lane(1), Owner: "b", Expires: -time.Second, Backlog: 0},
					{Lane: lane(2), OldestUnpublished: now.Add(time.Minute), Backlog: 2},
				},
				Relays: []relay.RelayStatus{{Owner: "a"}},
				Parked: 5, ParkedKeys: 2, ParkedAt: now.Add(-time.Hour),
			}, {
				Destination: relay.Destination{Name: "done", Lanes: 1, Replay: &relay.Replay{DoneAt: now}},
				LanesStatus: []relay.LaneStatus{{Lane: relay.Lane{Destination: "done", Of: 1}, Backlog: 9}},
			}},
			Scheduled: 4, ScheduledDue: now.Add(-2 * time.Second), LogBytes: 1 << 20, OldestEvent: now.Add(-24 * time.Hour), InboxBytes: 1 << 10,
		}
		got := gather(t, scraped(t, &source{answer: func(context.Context) (relay.OutboxStatus, error) { return status, nil }}))
		got.wants(t, "told", samples{
			"surepost_outbox_up{}": 1,
			`surepost_outbox_oldest_unpublished_age_seconds{destination="default",lane="0"}`: 60,
			`surepost_outbox_oldest_unpublished_age_seconds{destination="default",lane="1"}`: 0,
			`surepost_outbox_oldest_unpublished_age_seconds{destination="default",lane="2"}`: 0, // another machine's clock
			`surepost_outbox_backlog_events{destination="default",lane="0"}`:                 7,
			`surepost_outbox_backlog_events{destination="default",lane="2"}`:                 2,
			`surepost_outbox_lanes{destination="default"}`:                                   3,
			`surepost_outbox_lanes_unowned{destination="default"}`:                           2,
			`surepost_outbox_relays{destination="default"}`:                                  1,
			`surepost_outbox_parked_events{destination="default"}`:                           5,
			`surepost_outbox_parked_keys{destination="default"}`:                             2,
			`surepost_outbox_parked_oldest_age_seconds{destination="default"}`:               3600,
			"surepost_outbox_scheduled_events{}":                                             4,
			"surepost_outbox_scheduled_overdue_seconds{}":                                    2,
			"surepost_outbox_log_bytes{}":                                                    1 << 20,
			"surepost_outbox_oldest_event_age_seconds{}":                                     86400,
			"surepost_outbox_retention_seconds{}":                                            7 * 86400,
			"surepost_inbox_bytes{}":                                                         1 << 10,
		})
		for name := range got {
			if strings.Contains(name, `"done"`) {
				t.Errorf("%s tells of a replay that is done", name)
			}
		}
	})
}

func TestTheRetentionIsToldAsItIsConfigured(t *testing.T) {
	for configured, want := range map[time.Duration]float64{0: 7 * 86400, 72 * time.Hour: 3 * 86400, -1: math.Inf(1)} {
		if got := (OutboxConfig{Retention: configured}).withDefaults().kept(); got != want {
			t.Errorf("%v is told as %v, want %v", configured, got, want)
		}
	}
}

func TestAStoresOwnStatusIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, 1)
		all := scraped(t, s.store)
		s.broker.Decide(func(e relay.Entry) relaytest.Fate {
			if e.Event.Key == "gone" {
				return relaytest.Return
			}
			return relaytest.Confirm
		})
		s.write("gone", "gone", "here")
		time.Sleep(10 * time.Second)
		s.broker.Block("low on memory")
		s.write("waits", "waits")
		time.Sleep(time.Minute)
		got := gather(t, all)
		got.wants(t, "blocked for a minute", samples{
			`surepost_outbox_oldest_unpublished_age_seconds{destination="default",lane="0"}`: 60,
			`surepost_outbox_backlog_events{destination="default",lane="0"}`:                 2,
			`surepost_outbox_lanes_unowned{destination="default"}`:                           0,
			`surepost_outbox_parked_events{destination="default"}`:                           2,
			`surepost_outbox_parked_keys{destination="default"}`:                             1,
		})
		s.broker.Unblock()
		s.stop()
		time.Sleep(5 * time.Second)
		gather(t, all).wants(t, "stopped", samples{
			`surepost_outbox_oldest_unpublished_age_seconds{destination="default",lane="0"}`: 0,
			`surepost_outbox_backlog_events{destination="default",lane="0"}`:                 0,
			`surepost_outbox_lanes_unowned{destination="default"}`:                           1,
		})
	})
}

func TestScrapesDoNotAskTheDatabaseEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{answer: func(context.Context) (relay.OutboxStatus, error) { return relay.OutboxStatus{}, nil }}
		all := scraped(t, s)
		for range 100 { // 10 s
			gather(t, all)
			time.Sleep(100 * time.Millisecond)
		}
		if n := s.asked.Load(); n != 2 {
			t.Errorf("the store was asked %d times in 10 s, want 2", n)
		}
	})
}

func TestAScrapeDoesNotWaitForAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wake := make(chan struct{})
		s := &source{answer: func(context.Context) (relay.OutboxStatus, error) {
			<-wake // whatever its context says
			return relay.OutboxStatus{LogBytes: 1}, nil
		}}
		all := scraped(t, s)
		for range 3 {
			began := time.Now()
			got := gather(t, all)
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("a scrape took %v", took)
			}
			got.wants(t, "silent", samples{"surepost_outbox_up{}": 0})
			if _, told := got["surepost_outbox_log_bytes{}"]; told {
				t.Error("a scrape tells what nobody knows")
			}
			time.Sleep(time.Minute)
		}
		if n := s.asked.Load(); n != 1 {
			t.Errorf("the store was asked %d times while it hung", n)
		}
		close(wake)
		synctest.Wait()
		s.answer = func(context.Context) (relay.OutboxStatus, error) { return relay.OutboxStatus{LogBytes: 2}, nil }
		gather(t, all).wants(t, "back", samples{"surepost_outbox_up{}": 1, "surepost_outbox_log_bytes{}": 2})
	})
}

func TestAStoreThatFailsIsDown(t *testing.T) {
	got := gather(t, scraped(t, &source{answer: func(context.Context) (relay.OutboxStatus, error) {
		return relay.OutboxStatus{LogBytes: 1}, errors.New("connection refused")
	}}))
	got.wants(t, "failing", samples{"surepost_outbox_up{}": 0})
	if len(got) != 2 { // build_info besides
		t.Errorf("told although the store failed: %v", got)
	}
}

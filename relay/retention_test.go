package relay

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// retaining is a store that is asked for nothing but retention.
type retaining struct {
	Store
	calls  []Retention
	report RetentionReport
}

func (s *retaining) Retain(_ context.Context, r Retention) (RetentionReport, error) {
	s.calls = append(s.calls, r)
	return s.report, nil
}

func TestOldEventsAreLookedForEveryMinute(t *testing.T) {
	for _, c := range []struct {
		retention, keep, every time.Duration
	}{{0, DefaultRetention, time.Minute}, {10 * time.Minute, 10 * time.Minute, 6 * time.Second}, {-1, 0, 0}} {
		synctest.Test(t, func(t *testing.T) {
			var logged bytes.Buffer
			store := &retaining{report: RetentionReport{Held: []Holdup{{Reason: "a backup"}}}}
			hooked := 0
			r := &Relay{store: oneLane{Store: store}, config: Config{
				Retention: c.retention, Logger: slog.New(slog.NewTextHandler(&logged, nil)),
				Hooks: Hooks{OnRetention: func(RetentionReport, error) { hooked++ }},
			}.withDefaults()}
			const rounds = patience + 1
			ctx, cancel := context.WithTimeout(t.Context(), rounds*max(c.every, time.Minute)+time.Second)
			defer cancel()
			r.retain(ctx)
			want := 0
			if c.every > 0 {
				want = int((rounds*time.Minute + time.Second) / c.every)
			}
			if len(store.calls) != want || hooked != want {
				t.Errorf("%v: %d calls and %d hooks, want %d", c.retention, len(store.calls), hooked, want)
			}
			if want > 0 && store.calls[0].Keep != c.keep {
				t.Errorf("%v: it keeps %v", c.retention, store.calls[0].Keep)
			}
			if n := strings.Count(logged.String(), "a backup"); n != want/patience {
				t.Errorf("%v: what is in the way was logged %d times in %d rounds, want %d", c.retention, n, want, want/patience)
			}
		})
	}
}

// What was asked for and can't be had is told at once; what nobody asked for is noted.
func TestAStoreWithoutRetentionIsToldOfAtTheStart(t *testing.T) {
	type storeOnly struct{ Store }
	for retention, refused := range map[time.Duration]bool{0: false, time.Hour: true, -1: true} {
		_, err := New(storeOnly{}, &retainedPublisher{}, Config{Retention: retention})
		if refused != (err != nil) || refused && !strings.Contains(err.Error(), "Config.Retention is "+retention.String()) {
			t.Errorf("a retention of %v: %v", retention, err)
		}
		if _, err := New(&retaining{}, &retainedPublisher{}, Config{Retention: retention}); err != nil {
			t.Errorf("a retention of %v, with a store that can: %v", retention, err)
		}
	}
	var logged bytes.Buffer
	r := &Relay{store: oneLane{Store: storeOnly{}}, config: Config{Logger: slog.New(slog.NewTextHandler(&logged, nil))}.withDefaults()}
	r.retain(t.Context())
	if s := logged.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, "removes no events") || !strings.Contains(s, "relay.storeOnly") {
		t.Errorf("logged was %q", s)
	}
}

type retainedPublisher struct{ Publisher }

// What the relays of a database keep for ever doesn't go because an operator, whose configuration says nothing of it, replays
// something; nor needs a replay the rights for it.
func TestAReplayDoesNoOtherService(t *testing.T) {
	for _, replay := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			store, _ := quiet()
			old, schedule := &retaining{}, &fakeSchedule{fakeStore: store}
			config := Config{Replay: replay, Destination: "again"}.withDefaults()
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			(&Relay{store: oneLane{Store: old}, config: config}).retain(ctx)
			again, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			(&Relay{store: oneLane{Store: schedule}, config: config}).moveDue(again)
			if asked := len(old.calls) > 0 || schedule.asked > 0; asked == replay {
				t.Errorf("replay %v: retention was asked for %d times, what is due %d times", replay, len(old.calls), schedule.asked)
			}
		})
	}
}

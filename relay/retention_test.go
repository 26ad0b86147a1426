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

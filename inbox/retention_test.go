package inbox

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestAWindowShorterThanTheRedeliveryIsRefused(t *testing.T) {
	if err := (Retention{}).Validate(); err != nil {
		t.Errorf("the default is refused: %v", err)
	}
	// Any of the times that it must outlast makes the window too short, and is named.
	for name, r := range map[string]Retention{
		"Window": {Window: 25 * day}, "Redelivery": {Redelivery: 4 * day}, "Queued": {Queued: 6 * day}, "Redrive": {Redrive: 12 * day}, "Replay": {Replay: 16 * day},
	} {
		err := r.Validate()
		for _, part := range []string{"Window", "Redelivery", "Queued", "Redrive", "Replay"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v, want an error that names %s", name, err, part)
			}
		}
		if !errors.Is(Prune(t.Context(), nil, r), err) && Prune(t.Context(), nil, r) == nil {
			t.Errorf("%s: Prune takes it", name)
		}
	}
	exact := Retention{Window: 10 * day, Redelivery: day, Queued: day, Redrive: 2 * day, Replay: 4 * day}
	if err := exact.Validate(); err != nil || exact.Horizon() != 10*day {
		t.Errorf("%v for a window of exactly the horizon, %v", err, exact.Horizon())
	}
	err := (Retention{Window: -1, Every: -1}).Validate()
	if err == nil || !strings.Contains(err.Error(), "Window is -1ns") || !strings.Contains(err.Error(), "Every is -1ns") {
		t.Errorf("%v, want both negative times", err)
	}
}

type pruner func(window time.Duration) (PruneReport, error)

func (p pruner) PruneInbox(_ context.Context, window time.Duration) (PruneReport, error) {
	return p(window)
}

func TestOldRecordsAreRemovedEveryHourWhateverFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Hour+time.Minute)
		defer cancel()
		calls := 0
		err := Prune(ctx, pruner(func(window time.Duration) (PruneReport, error) {
			if calls++; window != 30*day {
				t.Errorf("the window is %v", window)
			}
			return PruneReport{}, errors.New("away")
		}), Retention{Logger: slog.New(slog.DiscardHandler)})
		if err != nil || calls != 6 {
			t.Errorf("%v after %d calls, want none after 6", err, calls)
		}
	})
}

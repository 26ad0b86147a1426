package outbox

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/surepost/surepost"
)

// A store without a schedule must not publish a delayed event at once, or never.
func TestAStoreWithoutAScheduleRefusesDelayedEvents(t *testing.T) {
	box, err := New(list{}, Config{Source: "s", MaxEvents: 2})
	if err != nil {
		t.Fatal(err)
	}
	var tx []surepost.Event
	err = box.Write(t.Context(), &tx, surepost.Event{Type: "T"}, surepost.Event{Type: "T", NotBefore: time.Now().Add(time.Hour)})
	if !errors.Is(err, ErrNoSchedule) || len(tx) != 0 || !strings.Contains(err.Error(), "outbox.Scheduler") {
		t.Errorf("%v, and %d events were written", err, len(tx))
	}
	if _, err := box.Cancel(t.Context(), &tx, "id"); !errors.Is(err, ErrNoSchedule) {
		t.Errorf("cancelling: %v", err)
	}
	if n, err := box.Cancel(t.Context(), &tx); n != 0 || err != nil {
		t.Errorf("cancelling nothing: %d, %v", n, err)
	}
	if _, err := box.Cancel(t.Context(), &tx, "1", "2", "3"); err == nil || !strings.Contains(err.Error(), "MaxEvents") {
		t.Errorf("cancelling three: %v", err)
	}
}

func TestNotBeforeIsCheckedAndNeverRoundedDown(t *testing.T) {
	box, err := New(list{}, Config{Source: "s"})
	if err != nil {
		t.Fatal(err)
	}
	for _, year := range []int{0, -1, 9999, 20_000} {
		_, err := box.Prepare(t.Context(), surepost.Event{Type: "T", Time: time.Now(), NotBefore: time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)})
		if !errors.Is(err, surepost.ErrInvalidEvent) || !strings.Contains(err.Error(), "NotBefore") {
			t.Errorf("year %d: %v", year, err)
		}
	}
	at := time.Date(2998, 1, 2, 3, 4, 5, 6001, time.FixedZone("", 3600))
	own := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	events, err := box.Prepare(t.Context(), surepost.Event{Type: "T", NotBefore: at}, surepost.Event{Type: "T", NotBefore: at, Time: own},
		surepost.Event{Type: "T", NotBefore: own}, surepost.Event{Type: "T"})
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Date(2998, 1, 2, 2, 4, 5, 7000, time.UTC); events[0].NotBefore != want {
		t.Errorf("%v became %v, want %v", at, events[0].NotBefore, want)
	}
	if !events[0].Time.Equal(at.Truncate(time.Microsecond)) || !events[1].Time.Equal(own) || events[2].Time.Year() < 2024 || !events[3].NotBefore.IsZero() {
		t.Errorf("got %+v", events)
	}
}

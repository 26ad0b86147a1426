package relay

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeSchedule is a store whose delayed events are times.
type fakeSchedule struct {
	*fakeStore
	mu    sync.Mutex
	due   []time.Time
	down  bool
	hangs bool
	asked int
	most  int
}

func (s *fakeSchedule) MoveDue(ctx context.Context, limit int) (moved int, next time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	switch {
	case s.hangs:
		s.mu.Unlock()
		<-ctx.Done()
		s.mu.Lock()
		return 0, 0, ctx.Err()
	case s.down:
		return 0, 0, errors.New("the database is away")
	}
	next = NeverDue
	var left []time.Time
	for _, at := range s.due {
		switch wait := time.Until(at); {
		case wait > 0:
			left, next = append(left, at), min(next, wait)
		case moved == limit:
			left, next = append(left, at), 0
		default:
			moved++
			s.commit("")
		}
	}
	s.due, s.most = left, max(s.most, moved)
	return moved, next, nil
}

func (s *fakeSchedule) add(in ...time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range in {
		s.due = append(s.due, time.Now().Add(d))
	}
}

func TestWhatIsDueIsPublishedSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		schedule := &fakeSchedule{fakeStore: store}
		published := make(chan time.Time, 100)
		config := testConfig("a")
		config.Hooks.OnPublished = func(_ Lane, n int) {
			for range n {
				published <- time.Now()
			}
		}
		_, stop := start(t, schedule, broker, config)
		defer stop()
		next := func() time.Time {
			select {
			case at := <-published:
				return at
			case <-time.After(time.Minute):
				t.Fatal("what was due a minute ago isn't published")
				panic("unreachable")
			}
		}
		time.Sleep(10 * time.Second)

		// Known in time, and so published within some milliseconds.
		schedule.add(time.Hour, 3*time.Second, 5*time.Second)
		begun := time.Now()
		for _, want := range []time.Duration{3 * time.Second, 5 * time.Second} {
			if late := next().Sub(begun) - want; late < 0 || late > 50*time.Millisecond {
				t.Errorf("published %v after it was due", late)
			}
		}
		// Written with less notice than the schedule is looked at.
		time.Sleep(time.Second + time.Millisecond)
		schedule.add(time.Millisecond)
		begun = time.Now()
		if late := next().Sub(begun); late > time.Second {
			t.Errorf("published %v after it was due", late)
		}
		// The database is away, or hangs, and comes back.
		for _, outage := range []*bool{&schedule.down, &schedule.hangs} {
			schedule.mu.Lock()
			*outage = true
			schedule.mu.Unlock()
			schedule.add(time.Second)
			time.Sleep(time.Minute)
			schedule.mu.Lock()
			*outage = false
			schedule.mu.Unlock()
			begun = time.Now()
			if late := next().Sub(begun); late > config.LeaseTTL+time.Second {
				t.Errorf("published %v after the database was back", late)
			}
		}
		stop()
		if len(published) != 0 {
			t.Errorf("%d more were published", len(published))
		}
	})
}

func TestTheScheduleIsLookedAtSeldomAndMovedInBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		schedule := &fakeSchedule{fakeStore: store}
		_, stop := start(t, schedule, broker, testConfig("a"))
		time.Sleep(time.Minute)
		schedule.mu.Lock()
		idle := schedule.asked
		schedule.mu.Unlock()
		if idle < 110 || idle > 130 {
			t.Errorf("an empty schedule was looked at %d times in a minute, want twice a second", idle)
		}
		many := make([]time.Duration, 3500)
		for i := range many {
			many[i] = 2 * time.Second
		}
		schedule.add(many...)
		time.Sleep(3 * time.Second)
		stop()
		schedule.mu.Lock()
		defer schedule.mu.Unlock()
		if schedule.most != moveAtOnce || len(schedule.due) != 0 {
			t.Errorf("at most %d events were moved at once, want %d; %d are left", schedule.most, moveAtOnce, len(schedule.due))
		}
		if more := schedule.asked - idle; more > 20 {
			t.Errorf("the schedule was looked at %d times for 3,500 events in 3 s", more)
		}
	})
}

package relay

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Whatever the rate, it is reached and not exceeded: in all of a minute, and in each second of it but for the tenth that a
// bucket holds.
func TestARelayKeepsToItsRate(t *testing.T) {
	for _, rate := range []int{1, 3, 10, 99, 1000, 5000} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPace(rate)
				began := time.Now()
				var times []time.Duration
				asked := 0 // in vain
				for time.Since(began) < time.Minute {
					ok, again := p.take(time.Now())
					if ok {
						times = append(times, time.Since(began))
						continue
					}
					asked++
					time.Sleep(max(time.Until(again), time.Nanosecond))
				}
				if n, want := len(times), 60*rate; n < want*98/100 || n > want+max(1, rate/10) {
					t.Errorf("%d in a minute, want about %d", n, want)
				}
				if asked > 60*min(rate, 100)+2 {
					t.Errorf("asked %d times in vain, which is more often than once an event or a hundred times a second", asked)
				}
				for first, last := 0, 0; last < len(times); last++ {
					for times[last]-times[first] >= time.Second {
						first++
					}
					if n := last - first + 1; n > rate+max(1, rate/10)+1 {
						t.Fatalf("%d within the second before %v", n, times[last])
					}
				}
			})
		})
	}
}

func TestAPauseIsNotMadeUpFor(t *testing.T) {
	p := newPace(100)
	now := time.Now()
	take := func(at time.Time) (n int) {
		for {
			if ok, _ := p.take(at); !ok {
				return n
			}
			n++
		}
	}
	if n := take(now); n != 10 {
		t.Errorf("%d at once at the start, want 10", n)
	}
	if n := take(now.Add(time.Hour)); n != 10 {
		t.Errorf("%d at once after an hour, want 10", n)
	}
	if n := take(now.Add(time.Minute)); n != 0 { // of a lane that is behind with its time
		t.Errorf("%d from the past", n)
	}
	p.giveBack()
	if n := take(now.Add(time.Hour)); n != 1 {
		t.Errorf("%d after one was given back", n)
	}
}

func TestTheLanesOfARelayShareItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(200)
		var mu sync.Mutex
		var lanes sync.WaitGroup
		counts := make([]int, 4)
		end := time.Now().Add(10 * time.Second)
		for i := range counts {
			lanes.Go(func() {
				for time.Now().Before(end) {
					ok, again := p.take(time.Now())
					if !ok {
						time.Sleep(time.Until(again))
						continue
					}
					mu.Lock()
					counts[i]++
					mu.Unlock()
					time.Sleep(time.Millisecond)
				}
			})
		}
		lanes.Wait()
		all := 0
		for _, n := range counts {
			all += n
		}
		if all < 1950 || all > 2021 {
			t.Errorf("%v, want 2000 in all", counts)
		}
	})
}

// Looking for something to send in vain costs nothing of the rate.
func TestAfterAPauseAnEventGoesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		config := testConfig("a")
		config.MaxEventsPerSecond = 1
		r, stop := start(t, store, broker, config)
		defer stop()
		for n := range 10 {
			time.Sleep(10*time.Second + time.Duration(n)*100*time.Millisecond)
			store.commit("")
			time.Sleep(300 * time.Millisecond) // to be found by a poll
			if got := r.Report().Published; got != int64(n+1) {
				t.Fatalf("%d events were published, want %d", got, n+1)
			}
		}
	})
}

// The relay's rate is that of the events it sends, over a whole run, and be it that each waits for the one before.
func TestEventsAreSentAtTheRate(t *testing.T) {
	for _, rate := range []int{7, 100, 2000} {
		synctest.Test(t, func(t *testing.T) {
			store, broker := quiet()
			store.replays = func(*Entry) bool { return true }
			total := rate * 20
			for range total {
				store.commit(map[bool]string{true: "one key's"}[rate == 100])
			}
			config := testConfig("a")
			config.MaxEventsPerSecond = rate
			config.PageEvents, config.WindowEvents = 0, 0 // the defaults
			began := time.Now()
			runToEnd(t, store, broker, config)
			took := time.Since(began)
			if len(broker.taken) != total || took < 19*time.Second || took > 21*time.Second {
				t.Errorf("%d of %d events at %d a second took %v, want 20 s", len(broker.taken), total, rate, took)
			}
		})
	}
	if err := (Config{MaxEventsPerSecond: -1}).withDefaults().validate(); err == nil || !strings.Contains(err.Error(), "MaxEventsPerSecond") {
		t.Errorf("a negative rate: %v", err)
	}
}

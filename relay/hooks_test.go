package relay

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// What metrics and traces are made of is told as it happened.
func TestHooksAreToldOfEachOutcomeBeforeItsEventIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		tries := map[int64]int{}
		broker.decide(func(e *Entry) Status {
			tries[e.Seq]++
			switch {
			case e.Event.Key == "rejected" && tries[e.Seq] < 3:
				return Rejected
			case e.Event.Key == "refused":
				return Refused
			}
			return Confirmed
		})
		store.commit("", "rejected", "refused")
		for i := range store.entries {
			store.entries[i].Event.Headers = map[string]string{"traceparent": "kept"}
		}
		type outcome struct {
			key    string
			status Status
			try    int
		}
		var outcomes []outcome
		reads, sessions := 0, 0
		config := testConfig("a")
		config.Hooks = Hooks{
			OnSettled: func(_ Lane, settled []Settled) {
				for _, s := range settled {
					outcomes = append(outcomes, outcome{s.Entry.Event.Key, s.Outcome.Status, s.Try})
					if s.Entry.Event.Headers["traceparent"] != "kept" {
						t.Errorf("%s has lost its headers", s.Entry.Event.ID)
					}
					if took := s.At.Sub(s.SentAt); took < 0 || took > time.Second {
						t.Errorf("%s took %v", s.Entry.Event.ID, took)
					}
				}
			},
			OnRead:    func(_ Lane, events, _ int) { reads += events },
			OnSession: func(Lane) { sessions++ },
		}
		_, stop := start(t, store, broker, config)
		time.Sleep(time.Minute)
		stop()
		slices.SortStableFunc(outcomes, func(a, b outcome) int {
			return slices.Index([]string{"", "rejected", "refused"}, a.key) - slices.Index([]string{"", "rejected", "refused"}, b.key)
		})
		want := []outcome{{"", Confirmed, 1}, {"rejected", Rejected, 1}, {"rejected", Rejected, 2}, {"rejected", Confirmed, 3}, {"refused", Refused, 1}}
		if !slices.Equal(outcomes, want) {
			t.Errorf("told of %v, want %v", outcomes, want)
		}
		if reads != 3 || sessions != 1 {
			t.Errorf("told of %d read events and %d sessions, want 3 and 1", reads, sessions)
		}
	})
}

func TestARelayTellsHowItsRenewalsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		var renewals []error
		config := testConfig("a")
		config.Hooks.OnRenew = func(_ Lane, err error) { renewals = append(renewals, err) }
		_, stop := start(t, store, broker, config)
		defer stop()
		time.Sleep(2500 * time.Millisecond)
		synctest.Wait()
		if len(renewals) != 2 || errors.Join(renewals...) != nil {
			t.Fatalf("two renewals are told as %v", renewals)
		}
		store.mu.Lock()
		store.epoch++ // another one has it now
		store.owner, store.expires = "new", time.Now().Add(time.Hour)
		store.mu.Unlock()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(renewals) > 3 || len(renewals) == 3 && !errors.Is(renewals[2], ErrLeaseLost) {
			t.Errorf("a lost lease is told as %v", renewals)
		}
	})
}

func TestVitalsTellHowTheServersStand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		r, stop := start(t, store, broker, testConfig("a"))
		time.Sleep(time.Minute)
		v := r.Report().Vitals
		if !v.Running || v.Stopping || v.Err != nil || v.Sessions != 1 || v.Store.Err != nil || v.Broker.Err != nil ||
			time.Since(v.Store.At) > time.Second || time.Since(v.DecidedAt) > time.Second {
			t.Errorf("leading: %+v", v)
		}
		broker.set(true, false)
		store.commit("a")
		time.Sleep(time.Minute)
		if v = r.Report().Vitals; v.Broker.Err == nil || v.Store.Err != nil || v.Sessions != 0 {
			t.Errorf("without a broker: %+v", v)
		}
		store.faults.set(1)
		time.Sleep(time.Minute)
		if v = r.Report().Vitals; v.Store.Err == nil || v.DecidedAt.IsZero() {
			t.Errorf("without a store: %+v", v)
		}
		store.faults.set(0)
		stop()
		if v = r.Report().Vitals; v.Running || v.Stopping || v.Err != nil || v.StartedAt.IsZero() || !v.DecidedAt.IsZero() {
			t.Errorf("stopped: %+v", v)
		}
	})
}

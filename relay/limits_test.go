package relay

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// hanging is a store some of whose calls never return, whatever their context says, as with drivers that don't
// interrupt a read from a dead connection.
type hanging struct {
	*fakeStore
	renew, read, open atomic.Bool
	free              chan struct{}
}

func (h *hanging) Renew(ctx context.Context, lease Lease, ttl time.Duration) error {
	if h.renew.Load() {
		<-h.free
	}
	return h.fakeStore.Renew(ctx, lease, ttl)
}

func (h *hanging) Open(ctx context.Context, lease Lease) (Log, error) {
	if h.open.Load() {
		<-h.free
	}
	l, err := h.fakeStore.Open(ctx, lease)
	if err != nil {
		return nil, err
	}
	return hangingLog{l, h}, nil
}

type hangingLog struct {
	Log
	h *hanging
}

func (l hangingLog) Read(ctx context.Context, limit int) (Page, error) {
	if l.h.read.Load() {
		<-l.h.free
	}
	return l.Log.Read(ctx, limit)
}

func newHanging(t *testing.T) (*hanging, *fakeBroker) {
	store, broker := quiet()
	h := &hanging{fakeStore: store, free: make(chan struct{})}
	return h, broker
}

// release ends what hangs, so that the test's goroutines can end.
func (h *hanging) release() {
	h.renew.Store(false)
	h.read.Store(false)
	h.open.Store(false)
	close(h.free)
	time.Sleep(time.Minute)
}

// While the lease can't be renewed, the relay must stop sending when it runs out, even if the call never returns; and
// Run must end soon when it is told to.
func TestALeaseThatCannotBeRenewedEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, broker := newHanging(t)
		r, stop := start(t, h, broker, testConfig("a"))
		time.Sleep(500 * time.Millisecond)
		h.renew.Store(true)
		time.Sleep(4 * time.Second) // past the TTL of 3 s
		h.commit("k")
		time.Sleep(time.Second)
		if rp := r.Report(); !errors.Is(rp.LastError, ErrLeaseLost) || rp.State == Leading && rp.Epoch != 2 {
			t.Errorf("past its lease: %+v, want that it was lost, and taken anew if at all", rp)
		}
		began := time.Now()
		stop()
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("Run ended after %v", took)
		}
		h.release()
	})
}

// A log that hangs while the lease is renewed on another connection must not keep the lane for ever.
func TestALogThatHangsIsGivenUp(t *testing.T) {
	for name, hang := range map[string]func(*hanging){
		"read": func(h *hanging) { h.read.Store(true) },
		"open": func(h *hanging) { h.open.Store(true) },
	} {
		synctest.Test(t, func(t *testing.T) {
			h, broker := newHanging(t)
			hang(h)
			r, stop := start(t, h, broker, testConfig("a"))
			h.commit("k")
			time.Sleep(30 * time.Second)
			if rp := r.Report(); rp.LastError == nil || rp.CaughtUp {
				t.Errorf("%s: %+v, want an error to be reported", name, rp)
			}
			began := time.Now()
			stop()
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("%s: Run ended after %v", name, took)
			}
			h.release()
		})
	}
}

// A relay that can't reach the broker must leave the lane to one that can.
func TestARelayThatCannotPublishGivesTheLaneAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		cut := newFakeBroker(broker.faults)
		cut.set(true, false)
		_, stopA := start(t, store, cut, testConfig("a"))
		time.Sleep(time.Second)
		b, stopB := start(t, store, broker, testConfig("b"))
		store.commit("k")
		time.Sleep(30 * time.Second)
		if rp := b.Report(); rp.Published == 0 {
			t.Errorf("the relay that reaches the broker: %+v", rp)
		}
		stopA()
		stopB()
	})
}

func TestAStoppedRelayReleasesItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		config := testConfig("a")
		config.LeaseTTL = time.Hour
		_, stop := start(t, store, broker, config)
		time.Sleep(time.Second)
		stop()
		if _, err := store.Acquire(t.Context(), Lane{}, "b", time.Minute); err != nil {
			t.Errorf("after the stop: %v", err)
		}
	})
}

func TestAWakeIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, broker := quiet()
		config := testConfig("a")
		config.PollBusy, config.PollIdle = time.Hour, time.Hour
		r, stop := start(t, store, broker, config)
		time.Sleep(time.Second)
		for n := range 50 {
			store.commit("k")
			r.Wake()
			time.Sleep(time.Duration(n%4) * time.Millisecond) // at any point of a read
		}
		time.Sleep(time.Second)
		if rp := r.Report(); rp.Published != 50 {
			t.Errorf("%d of 50 published", rp.Published)
		}
		stop()
	})
}

// One event that is rejected for long must not make the relay keep everything behind it.
func TestMemoryIsBoundedBehindARejectedEvent(t *testing.T) {
	config := Config{PageEvents: 100, BufferBytes: 1 << 20}.withDefaults()
	s := newStream(testPolicy(), newSuspects(), nil)
	data := json.RawMessage(make([]byte, 8<<10))
	now := time.Unix(0, 0)
	var seq int64
	for range 10_000 {
		if !s.room(16, &config) {
			break
		}
		p := Page{After: seq}
		for n := range 16 {
			seq++
			e := entry(seq, "")
			if n == 0 {
				e = entry(seq, "rejected")
			}
			e.Event.Data = data
			p.Entries = append(p.Entries, e)
		}
		s.add(p)
		for {
			tag, e := s.next(now)
			if e == nil {
				break
			}
			status := Confirmed
			if e.Event.Key == "rejected" {
				status = Rejected
			}
			if _, _, err := s.settle(Outcome{Tag: tag, Status: status}, now); err != nil {
				t.Fatal(err)
			}
		}
	}
	held := 0
	for _, pg := range s.pages {
		for i := range pg.entries {
			held += pg.entries[i].bytes()
		}
	}
	if held > 2<<20 || s.room(16, &config) {
		t.Errorf("%d bytes are held with a limit of 1 MiB, %d events", held, seq)
	}
}

// Suspicion ends with what was suspected: parked behind another, or not there any more.
func TestSuspicionEnds(t *testing.T) {
	sus := newSuspects()
	s := newStream(testPolicy(), sus, nil)
	e2, e3 := entry(2, "a"), entry(3, "b")
	sus.refused([]*Entry{&e2, &e3}, false, "no")
	if window, _ := sus.window(1024, 1000); window != 1 {
		t.Fatalf("window %d under suspicion", window)
	}
	now := time.Unix(0, 0)
	s.add(Page{Entries: []Entry{entry(1, "a"), e2, e3}, After: "p"})
	tag, _ := s.next(now)
	settleOne(t, s, tag, Refused, now) // e2 is parked behind e1
	tag, e := s.next(now)
	settleOne(t, s, tag, Confirmed, now)
	sus.settled(e)
	if window, page := sus.window(1024, 1000); window != 1024 || page != 1000 {
		t.Errorf("window %d, page %d after everything was settled", window, page)
	}
}

// An event is parked for breaking sessions only if it broke three that had published others: one or two may have been somebody
// else's making.
func TestTwoBrokenSessionsConvictNobody(t *testing.T) {
	sus := newSuspects()
	e := entry(1, "")
	for range 10 {
		sus.refused([]*Entry{&e}, false, "no")
	}
	for range 2 {
		sus.refused([]*Entry{&e}, true, "no")
	}
	if len(sus.doomed) != 0 || !sus.hold(&e) {
		t.Errorf("doomed %v after two sessions that worked", sus.doomed)
	}
	sus.refused([]*Entry{&e}, true, "no")
	if sus.doomed[e.identity()] != "no" {
		t.Errorf("doomed %v after three", sus.doomed)
	}
}

// After a failover that lost the end of the log, its numbers are drawn again.
func TestAnEventIsNotParkedForAnotherThatHadItsNumber(t *testing.T) {
	sus := newSuspects()
	lost := entry(1, "")
	for range convict {
		sus.refused([]*Entry{&lost}, true, "no")
	}
	held := entry(2, "")
	sus.refused([]*Entry{&held}, true, "no")
	s := newStream(testPolicy(), sus, nil)
	now := time.Unix(0, 0)
	others := []Entry{entry(1, ""), entry(2, "")}
	others[0].Event.ID, others[1].Event.ID = "other1", "other2"
	s.add(Page{Entries: others, After: "p"})
	if sent := sendAll(s, now); len(sent) != 2 {
		t.Errorf("sent %v, and parked %+v", sent, s.settled().parked)
	}
}

// narrow is a publisher that allows few events without an outcome.
type narrow struct{ *fakeBroker }

func (narrow) Window() int { return 10 }

func TestAWindowThatIsLargerThanThePublishersIsRefused(t *testing.T) {
	store, broker := quiet()
	if _, err := New(store, narrow{broker}, Config{}); err == nil {
		t.Error("no error")
	}
	if _, err := New(store, narrow{broker}, Config{WindowEvents: 10}); err != nil {
		t.Error(err)
	}
}

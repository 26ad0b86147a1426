package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/surepost/surepost/relay"
)

// reading is what relay.Log's Read and promises 1, 3 and 5 ask for.
func reading[TX any]() []promise[TX] {
	return []promise[TX]{
		{"what commits late isn't skipped", (*suite[TX]).lateCommit},
		{"many late events come in pages", (*suite[TX]).latePages},
		{"random interleavings lose and repeat nothing", (*suite[TX]).interleavings},
		{"writing and reading at once keeps each key's order", (*suite[TX]).soak},
		{"an open transaction holds up nobody", (*suite[TX]).heldTransaction},
		{"pages repeat and skip nothing", (*suite[TX]).pages},
		{"an empty page is a place too", (*suite[TX]).emptyPage},
		{"what was read can't be changed", (*suite[TX]).readersOwnCopy},
		{"a context that ends isn't a lost lease", (*suite[TX]).cancelled},
		{"a log can be closed twice", (*suite[TX]).closedTwice},
		{"logs don't disturb each other", (*suite[TX]).twoLogs},
	}
}

func contextEnded(ctx context.Context) (context.Context, context.CancelFunc) {
	ended, cancel := context.WithCancel(ctx)
	cancel()
	return ended, cancel
}

// secondWriterWaits is what a store with one writer keeps in the place of what late commits ask for.
func (s *suite[TX]) secondWriterWaits() {
	s.Helper()
	l := s.lead("a")
	first := s.begin()
	s.append(first, event("first", "k"))
	second := s.start("the second writer", func() error {
		return s.transact(func(tx TX) error { return s.Store.Append(s.ctx, tx, numbered("second ", 1)) })
	})
	s.waits(second, "the first, as Backend.OneWriter says")
	s.wantIDs("while one writes and one waits", s.readAll(l, 10))
	s.commit(first)
	s.must("the second writer", s.ends(second))
	s.wantIDs("after both", s.readAll(l, 10), "first", "second 0")
}

func (s *suite[TX]) lateCommit() {
	if s.OneWriter {
		s.secondWriterWaits()
		return
	}
	l := s.lead("a")
	early, late, never := s.begin(), s.begin(), s.begin()
	s.append(late, event("late 1", "late"))
	s.append(never, event("never", "never"))
	s.append(early, event("early", "early"))
	s.append(late, event("late 2", "late"))
	s.commit(early)
	first := s.read(l, 10)
	s.wantIDs("while others are open", first.Entries, "early")
	s.wantIDs("and once more", s.readAll(l, 10))
	s.append(late, event("late 3", "late"))
	s.write(event("quick", "quick"))
	quick := s.read(l, 10)
	s.wantIDs("while others are open", quick.Entries, "quick")
	s.rollback(never)
	s.commit(late)
	page := s.read(l, 10)
	s.wantIDs("after the late commit", page.Entries, "late 1", "late 2", "late 3")
	if want := behind(page.Entries, max(first.Entries[0].Seq, quick.Entries[0].Seq)); page.Stragglers != want {
		s.Errorf("Stragglers is %d, and %d events have lower numbers than ones that were read", page.Stragglers, want)
	}
	s.wantIDs("at the end", s.readAll(l, 10))
}

// behind counts the entries at the front that have lower numbers than highest.
func behind(entries []relay.Entry, highest int64) (n int) {
	for n < len(entries) && entries[n].Seq < highest {
		n++
	}
	return n
}

func (s *suite[TX]) latePages() {
	if s.OneWriter {
		s.secondWriterWaits()
		return
	}
	const many = 400
	l := s.lead("a")
	one, two := s.begin(), s.begin()
	for i := range 4 {
		s.append(one, numbered(fmt.Sprint("one ", i, " "), many/4)...)
		s.append(two, numbered(fmt.Sprint("two ", i, " "), many/4)...)
	}
	s.write(numbered("fresh ", 10)...)
	if got := s.readAll(l, 100); len(got) != 10 {
		s.Fatalf("%d events came, want the 10 that were committed", len(got))
	}
	s.commit(one)
	got := map[string][]string{}
	seen := 0
	take := func(entries []relay.Entry) {
		for _, e := range entries {
			kind, _, _ := strings.Cut(e.Event.ID, " ")
			got[kind] = append(got[kind], e.Event.ID)
			seen++
		}
	}
	for n := 0; seen < 2*many+50; n++ {
		if n > 500 {
			s.Fatalf("after 500 pages %d events have come, want %d", seen, 2*many+50)
		}
		page := s.read(l, 30)
		take(page.Entries)
		switch n {
		case 3: // in the middle of the first one's events
			s.commit(two)
			s.write(numbered("more ", 50)...)
		case 6: // a successor goes on in the middle
			s.checkpoint(l, page.After)
			l = s.reopen(l, "a")
		}
	}
	s.wantIDs("at the end", s.readAll(l, 100))
	for _, kind := range []string{"one", "two"} {
		var want []string
		for i := range 4 {
			want = append(want, idsOf(numbered(fmt.Sprint(kind, " ", i, " "), many/4))...)
		}
		if !slices.Equal(got[kind], want) {
			s.Errorf("the events of transaction %s came as %s, want them in their order, each once", kind, shorten(got[kind]))
		}
	}
	if want := idsOf(numbered("more ", 50)); !slices.Equal(got["more"], want) {
		s.Errorf("the later events came as %s", shorten(got["more"]))
	}
}

func (s *suite[TX]) heldTransaction() {
	if s.OneWriter { // others' writing waits, as declared; reading must not
		s.write(numbered("before ", 5)...)
		l := s.lead("a")
		s.wantIDs("first", s.read(l, 2).Entries, "before 0", "before 1")
		held := s.begin()
		s.must("do business work", s.Effect(s.ctx, held, "held"))
		s.append(held, event("held", "k"))
		s.wantIDs("while one writes", s.readAll(l, 2), "before 2", "before 3", "before 4")
		s.wantEffects("while one writes")
		s.commit(held)
		s.wantIDs("after its commit", s.readAll(l, 10), "held")
		return
	}
	elsewhere, held := s.begin(), s.begin()
	s.must("do business work", s.Effect(s.ctx, elsewhere, "elsewhere"))
	s.append(held, event("held", "k"))
	l := s.lead("a")
	for round := range 5 {
		events := numbered(fmt.Sprint(round, " "), 10)
		s.write(events...)
		page := s.read(l, 100)
		s.wantIDs(fmt.Sprint("round ", round), page.Entries, idsOf(events)...)
		s.checkpoint(l, page.After)
		if round == 2 {
			l = s.reopen(l, "a")
		}
	}
	s.commit(held)
	s.wantIDs("after the held commit", s.readAll(l, 100), "held")
	s.commit(elsewhere)
	s.wantIDs("after the other", s.readAll(l, 100))
}

func (s *suite[TX]) pages() {
	events := numbered("e", 60)
	for i := 0; i < 60; i += 4 {
		s.write(events[i : i+4]...)
	}
	for _, most := range []int{1, 2, 3, 7, 59, 60, 61, 1000} {
		l := s.lead("a")
		s.wantIDs(fmt.Sprint("pages of ", most), s.readAll(l, most), idsOf(events)...)
		s.wantIDs(fmt.Sprint("behind pages of ", most), s.readAll(l, most))
	}

	// The limit may change, and what is written meanwhile comes behind.
	l := s.lead("a")
	var got []relay.Entry
	for i, most := range []int{5, 1, 20, 3, 2} {
		got = append(got, s.read(l, most).Entries...)
		later := numbered(fmt.Sprint("later ", i, " "), 3)
		s.write(later...)
		events = append(events, later...)
	}
	got = append(got, s.readAll(l, 10)...)
	s.wantIDs("pages of different sizes", got, idsOf(events)...)
}

func (s *suite[TX]) emptyPage() {
	l := s.lead("a")
	for range 3 {
		page := s.read(l, 10)
		s.wantIDs("an empty log", page.Entries)
		if page.Full {
			s.Fatal("an empty log says that there may be more")
		}
		s.checkpoint(l, page.After)
	}
	s.write(event("the very first", "k"))
	page := s.read(l, 10)
	s.wantIDs("after the first commit", page.Entries, "the very first")
	s.checkpoint(l, page.After)
	for range 3 {
		page := s.read(l, 10)
		s.wantIDs("an exhausted log", page.Entries)
		s.checkpoint(l, page.After)
	}
	l = s.reopen(l, "a")
	s.wantIDs("opened again", s.readAll(l, 10))
	s.write(event("second", "k"))
	s.wantIDs("after the second commit", s.readAll(l, 10), "second")
}

func (s *suite[TX]) readersOwnCopy() {
	want := event("e1", "k")
	want.Headers = map[string]string{"h": "v"}
	mine := event("e1", "k")
	mine.Headers = map[string]string{"h": "v"}
	data := []byte(`{"n":1}`)
	want.Data, mine.Data = json.RawMessage(`{"n":1}`), json.RawMessage(data)
	s.write(mine)
	mine.Headers["h"], data[1] = "changed by its writer", 'X'
	for range 2 {
		got := s.readAll(s.lead("a"), 10)
		s.wantIDs("one event", got, "e1")
		if diff := differences(got[0].Event, want); diff != "" {
			s.Errorf("after its writer or a reader changed his copy: %s", diff)
		}
		got[0].Event.Headers["h"] = "changed by a reader"
		raw, _ := got[0].Event.RawData() // looked at above
		raw[1] = 'X'
	}
}

func (s *suite[TX]) cancelled() {
	s.write(event("e1", "k"))
	lease := s.acquire(s.Store, lane, "a")
	ended, cancel := contextEnded(s.ctx)
	defer cancel()
	at := s.read(s.openLog(s.Store, lease), 1).After
	for name, do := range map[string]func() error{
		"Read": func() error { _, err := s.openLog(s.Store, lease).Read(ended, 10); return err },
		"Checkpoint": func() error {
			l := s.openLog(s.Store, lease)
			s.read(l, 1)
			return l.Checkpoint(ended, at, nil)
		},
		"Unpark": func() error {
			_, err := s.openLog(s.Store, lease).Unpark(ended, nil, nil, []string{"k"})
			return err
		},
		"Open":    func() error { _, err := s.Store.Open(ended, lease); return err },
		"Renew":   func() error { return s.Store.Renew(ended, lease, long) },
		"Release": func() error { return s.Store.Release(ended, lease) },
		"Acquire": func() error { _, err := s.Store.Acquire(ended, lane, "b", long); return err },
		"Check":   func() error { return s.Store.Check(ended) },
	} {
		err := do()
		var held *relay.LeaseHeldError
		switch {
		case err == nil:
			s.Errorf("%s went well under a context that had ended", name)
		case errors.Is(err, relay.ErrLeaseLost), errors.Is(err, relay.ErrHalt), errors.As(err, &held):
			s.Errorf("%s under a context that had ended: %v; want an error that passes, and this one doesn't", name, err)
		}
	}
	// Nothing is the worse for it.
	s.must("renew", s.Store.Renew(s.ctx, lease, long))
	s.wantIDs("afterwards", s.readAll(s.lead("a"), 10), "e1")
}

func (s *suite[TX]) closedTwice() {
	s.write(event("e1", "k"))
	lease := s.acquire(s.Store, lane, "a")
	l := s.openLog(s.Store, lease)
	s.must("close", l.Close(s.ctx))
	_ = l.Close(s.ctx) // may be an error, and must do no harm
	l = s.openLog(s.Store, lease)
	ended, cancel := contextEnded(s.ctx)
	defer cancel()
	if _, err := l.Read(ended, 10); err == nil {
		s.Error("the log could be read under a context that had ended")
	}
	_ = l.Close(s.ctx)
	_ = l.Close(ended)
	s.wantIDs("afterwards", s.readAll(s.openLog(s.Store, lease), 10), "e1")
}

func (s *suite[TX]) twoLogs() {
	events := numbered("e", 9)
	s.write(events...)
	lease := s.acquire(s.Store, lane, "a")
	one, two := s.openLog(s.Store, lease), s.openLog(s.Store, lease)
	s.wantIDs("the one", s.read(one, 4).Entries, idsOf(events[:4])...)
	s.wantIDs("the other", s.read(two, 2).Entries, idsOf(events[:2])...)
	s.wantIDs("the one", s.read(one, 4).Entries, idsOf(events[4:8])...)
	s.must("close", one.Close(s.ctx))
	s.wantIDs("the other", s.readAll(two, 3), idsOf(events[2:])...)
}

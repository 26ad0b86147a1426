package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/surepost/surepost/relay"
)

// parking is what is asked of parked events: by relay.Log, and by an operator.
func parking[TX any]() []promise[TX] {
	return []promise[TX]{
		{"a parked event is kept as it was", (*suite[TX]).parkedAsItWas},
		{"parking is stored with its checkpoint or not at all", (*suite[TX]).parkedAtomically},
		{"parked keys are known to the next relay", (*suite[TX]).parkedKeys},
		{"nothing is released unasked", (*suite[TX]).releasedUnasked},
		{"a retried event is released with what waits behind it", (*suite[TX]).releasedInOrder},
		{"nothing is released before an earlier event of its key", (*suite[TX]).releasedNotBefore},
		{"what is released comes up to the limit", (*suite[TX]).releasedLimit},
		{"a discarded event frees what waits behind it", (*suite[TX]).discarded},
		{"unparking removes what was published", (*suite[TX]).unparked},
		{"an event that fails again is parked anew", (*suite[TX]).parkedAnew},
		{"unparking tells which keys are clear", (*suite[TX]).clearKeys},
		{"a lost lease unparks nothing", (*suite[TX]).staleUnpark},
		{"an operator selects parked events", (*suite[TX]).filters},
		{"operators and the relay work at the same time", (*suite[TX]).operators},
	}
}

// park writes events of the keys a, b and none, and parks some: a1 for a reason of its own and a2 and a3 behind it, b1,
// n1 and n2. What isn't parked is passed: a0 and n3.
func (s *suite[TX]) park() (relay.Log, map[string]relay.Entry) {
	s.Helper()
	for _, e := range []struct{ id, key string }{
		{"a0", "a"}, {"a1", "a"}, {"b1", "b"}, {"n1", ""}, {"a2", "a"}, {"n2", ""}, {"a3", "a"}, {"n3", ""},
	} {
		s.write(event(e.id, e.key))
	}
	l := s.lead("a")
	page := s.read(l, 100)
	entries := map[string]relay.Entry{}
	for _, e := range page.Entries {
		entries[e.Event.ID] = e
	}
	s.checkpoint(l, page.After,
		relay.Parked{Entry: entries["a1"], Reason: "no queue"}, relay.Parked{Entry: entries["b1"], Reason: "too large"},
		relay.Parked{Entry: entries["n1"], Reason: "no queue"}, relay.Parked{Entry: entries["a2"], Behind: true, Reason: "waits"},
		relay.Parked{Entry: entries["n2"], Reason: "no queue"}, relay.Parked{Entry: entries["a3"], Behind: true, Reason: "waits"})
	return l, entries
}

// wantParked demands that these are parked, in this order.
func (s *suite[TX]) wantParked(what string, want ...string) []relay.ParkedEvent {
	s.Helper()
	list, err := s.Store.Parked(s.ctx, relay.ParkedFilter{}, 1000)
	s.must("list parked events", err)
	var got []string
	for _, p := range list {
		got = append(got, p.Event.ID)
	}
	if !slices.Equal(got, want) {
		s.Fatalf("%s: the parked events are %s, want %s", what, shorten(got), shorten(want))
	}
	return list
}

func (s *suite[TX]) wantReleased(what string, l relay.Log, want ...string) []relay.Entry {
	s.Helper()
	entries, err := l.Released(s.ctx, 1000)
	s.must("read what is released", err)
	// An order is promised for each key.
	byKey := func(list []string) map[byte][]string {
		keys := map[byte][]string{}
		for _, id := range list {
			if id[0] == 'n' { // without a key
				keys['n'] = append(keys['n'], id)
				slices.Sort(keys['n'])
				continue
			}
			keys[id[0]] = append(keys[id[0]], id)
		}
		return keys
	}
	if !maps.EqualFunc(byKey(ids(entries)), byKey(want), slices.Equal) {
		s.Fatalf("%s: released are %s, want %s", what, shorten(ids(entries)), shorten(want))
	}
	return entries
}

func (s *suite[TX]) retry(want int64, events ...string) {
	s.Helper()
	n, err := s.Store.RetryParked(s.ctx, relay.ParkedFilter{IDs: events}, "the suite")
	if err != nil || n != want {
		s.Fatalf("a retry of %q concerns %d events (%v), want %d", events, n, err, want)
	}
}

func (s *suite[TX]) discard(want int64, events ...string) {
	s.Helper()
	n, err := s.Store.DiscardParked(s.ctx, relay.ParkedFilter{IDs: events}, "the suite")
	if err != nil || n != want {
		s.Fatalf("discarding %q concerns %d events (%v), want %d", events, n, err, want)
	}
}

// unpark calls Unpark and demands that these keys are clear.
func (s *suite[TX]) unpark(l relay.Log, published []relay.Entry, again []relay.Parked, keys []string, want ...string) {
	s.Helper()
	clear, err := l.Unpark(s.ctx, published, again, keys)
	s.must("unpark", err)
	slices.Sort(clear)
	slices.Sort(want)
	if !slices.Equal(clear, want) {
		s.Fatalf("of the keys %q, %q are said to be clear, want %q", keys, clear, want)
	}
}

func (s *suite[TX]) parkedAsItWas() {
	var parked []relay.Parked
	all := names()
	for i, kind := range slices.Sorted(maps.Keys(all)) {
		e := event(all[kind], all[kind])
		e.Type, e.Source, e.CausationID, e.Category = all[kind], all[kind], all[kind], "system"
		if i%3 > 0 {
			e.Headers = map[string]string{"h": all[kind]}
		}
		if i%4 == 0 {
			e.CorrelationID = "flow"
		}
		s.write(e)
		parked = append(parked, relay.Parked{Entry: relay.Entry{Event: e}, Reason: "the broker said: " + all[kind], Behind: i%5 == 4})
	}
	l := s.lead("a")
	page := s.read(l, 1000)
	if len(page.Entries) != len(parked) {
		s.Fatalf("%d events came, want %d", len(page.Entries), len(parked))
	}
	for i := range parked {
		parked[i].Entry = page.Entries[i]
	}
	s.checkpoint(l, page.After, parked...)
	list, err := s.Another(s.T).Parked(s.ctx, relay.ParkedFilter{}, 1000)
	s.must("list parked events", err)
	if len(list) != len(parked) {
		s.Fatalf("%d events are parked, want %d", len(list), len(parked))
	}
	for i, got := range list {
		want := parked[i]
		if diff := differences(got.Event, want.Event); diff != "" {
			s.Errorf("parked event %s: %s", quote(want.Event.ID), diff)
		}
		if got.Seq != want.Seq || got.Behind != want.Behind || got.Reason != want.Reason ||
			got.Destination != lane.Destination || got.Retrying {
			s.Errorf("parked event %s is %+v, want what was parked: %+v", quote(want.Event.ID), got, want)
		}
		if age := time.Since(got.At); age < -time.Minute || age > limit+time.Minute {
			s.Errorf("parked event %s was parked at %v, %v ago", quote(want.Event.ID), got.At, age)
		}
	}
	if _, err := s.Store.RetryParked(s.ctx, relay.ParkedFilter{}, "the suite"); err != nil {
		s.Fatal(err)
	}
	released, err := l.Released(s.ctx, 1000)
	s.must("read what is released", err)
	if len(released) != len(parked) {
		s.Fatalf("%d events are released, want %d", len(released), len(parked))
	}
	for _, got := range released {
		i := slices.IndexFunc(parked, func(p relay.Parked) bool { return p.Event.ID == got.Event.ID })
		if i < 0 || got.Seq != parked[i].Seq {
			s.Fatalf("event %s with the number %d is released, and wasn't parked", quote(got.Event.ID), got.Seq)
		}
		if diff := differences(got.Event, parked[i].Event); diff != "" {
			s.Errorf("released event %s: %s", quote(got.Event.ID), diff)
		}
	}
}

// parkedAtomically cuts checkpoints off at random moments. The lease is taken anew before looking: whatever is still
// on its way into the store is waited for by that, or refused after it.
func (s *suite[TX]) parkedAtomically() {
	rnd, _ := s.random()
	stored, passed := 0, map[string]bool{}
	for n := range 60 {
		id := fmt.Sprint("e", n)
		s.write(event(id, id))
		l := s.lead("a")
		page := s.read(l, 1)
		if len(page.Entries) != 1 {
			s.Fatalf("round %d: nothing was read", n)
		}
		read := page.Entries[0]
		cut, cancel := context.WithTimeout(s.ctx, rand.N(1+time.Duration(rnd.IntN(4000))*time.Microsecond))
		err := l.Checkpoint(cut, page.After, []relay.Parked{{Entry: read, Reason: "x"}})
		cancel()
		_ = l.Close(s.ctx)
		l = s.lead("a")
		left := s.read(l, 100)
		list, listed := s.Store.Parked(s.ctx, relay.ParkedFilter{IDs: []string{read.Event.ID}}, 10)
		s.must("list parked events", listed)
		again := slices.Contains(ids(left.Entries), read.Event.ID)
		switch {
		case again && len(list) > 0:
			s.Fatalf("round %d: event %s was parked, and the log hasn't passed it (%v)", n, read.Event.ID, err)
		case !again && len(list) == 0:
			s.Fatalf("round %d: the log has passed event %s, and it wasn't parked (%v)", n, read.Event.ID, err)
		case err == nil && again:
			s.Fatalf("round %d: the checkpoint went well, and wasn't stored", n)
		}
		if !again {
			stored++
			passed[read.Event.ID] = true
		}
		for _, e := range left.Entries {
			if passed[e.Event.ID] {
				s.Fatalf("round %d: event %s came again behind the checkpoint that passed it", n, e.Event.ID)
			}
		}
		_ = l.Close(s.ctx)
	}
	s.Logf("%d of 60 checkpoints were stored", stored)
}

func (s *suite[TX]) wantKeys(l relay.Log, want ...string) {
	s.Helper()
	got, err := l.ParkedKeys(s.ctx)
	s.must("read the parked keys", err)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(slices.Compact(got), want) { // a key may be named more than once
		s.Fatalf("the parked keys are %q, want %q", got, want)
	}
}

func (s *suite[TX]) parkedKeys() {
	first := s.lead("a")
	s.wantKeys(first)
	l, entries := s.park()
	s.wantKeys(l, "a", "b")
	other := s.Another(s.T)
	l = s.openLog(other, s.acquire(other, lane, "a"))
	s.wantKeys(l, "a", "b")

	// Keys are compared byte by byte: of those that databases like to take for the same, one is parked.
	var all, parked []string
	var park []relay.Parked
	byKind := names()
	free := []string{"lower case", "trailing space", "no accent", "accent apart", "double s", "longest not last", "quotes"}
	for _, kind := range slices.Sorted(maps.Keys(byKind)) {
		s.write(event("of "+kind, byKind[kind]))
		all = append(all, byKind[kind])
	}
	page := s.read(l, 1000)
	for _, e := range page.Entries {
		if kind := strings.TrimPrefix(e.Event.ID, "of "); !slices.Contains(free, kind) {
			park = append(park, relay.Parked{Entry: e, Reason: "x"})
			parked = append(parked, e.Event.Key)
		}
	}
	s.checkpoint(l, page.After, park...)
	s.wantKeys(l, append([]string{"a", "b"}, parked...)...)
	var clear []string
	for _, name := range all {
		if !slices.Contains(parked, name) {
			clear = append(clear, name)
		}
	}
	s.unpark(l, nil, nil, all, clear...)
	s.unpark(l, []relay.Entry{entries["b1"]}, nil, nil)
	s.wantKeys(l, append([]string{"a"}, parked...)...)
}

func (s *suite[TX]) releasedUnasked() {
	l, _ := s.park()
	s.wantReleased("unasked", l)
	s.wantReleased("unasked", s.reopen(l, "a"))
	s.wantIDs("behind the checkpoint", s.readAll(s.lead("a"), 10))
}

func (s *suite[TX]) releasedInOrder() {
	l, _ := s.park()
	s.retry(1, "a1")
	s.wantReleased("after a retry of a1", l, "a1", "a2", "a3")
	s.retry(1, "n2")
	s.wantReleased("and of n2", l, "a1", "a2", "a3", "n2")
	l = s.reopen(l, "a") // a relay that dies in between begins again
	s.wantReleased("after a take-over", l, "a1", "a2", "a3", "n2")
	for _, p := range s.wantParked("until they are published", "a1", "b1", "n1", "a2", "n2", "a3") {
		if asked := p.Event.ID == "a1" || p.Event.ID == "n2"; p.Retrying != asked {
			s.Errorf("parked event %s: Retrying is %v, want %v", p.Event.ID, p.Retrying, asked)
		}
	}
}

func (s *suite[TX]) releasedNotBefore() {
	l, entries := s.park()
	s.retry(1, "a3")
	s.wantReleased("a3, and a1 stays", l)
	s.retry(1, "a1")
	got := s.wantReleased("a1 too", l, "a1", "a2", "a3")

	// a2 fails now for a reason of its own, and holds a3 back, whose retry was asked for.
	s.unpark(l, []relay.Entry{entries["a1"]}, []relay.Parked{{Entry: entries["a2"], Reason: "its own"}}, []string{"a"})
	s.wantReleased("a2 stays", l)
	s.discard(1, "a2")
	released := s.wantReleased("a2 is gone", l, "a3")
	if diff := differences(released[0].Event, got[2].Event); diff != "" {
		s.Errorf("a3 isn't what it was: %s", diff)
	}
}

func (s *suite[TX]) releasedLimit() {
	events := numbered("e", 30)
	for i := range events {
		events[i].Key = fmt.Sprint("key ", i%3)
	}
	s.write(events...)
	l := s.lead("a")
	page := s.read(l, 100)
	var parked []relay.Parked
	for _, e := range page.Entries {
		parked = append(parked, relay.Parked{Entry: e, Reason: "x"})
	}
	s.checkpoint(l, page.After, parked...)
	n, err := s.Store.RetryParked(s.ctx, relay.ParkedFilter{}, "the suite")
	if n != 30 || err != nil {
		s.Fatalf("a retry of all concerns %d events (%v), want 30", n, err)
	}
	var got []relay.Entry
	for len(got) < 30 {
		entries, err := l.Released(s.ctx, 7)
		s.must("read what is released", err)
		if len(entries) == 0 || len(entries) > 7 {
			s.Fatalf("after %d events, %d were released, want 1 to 7", len(got), len(entries))
		}
		got = append(got, entries...)
		s.unpark(l, entries, nil, nil)
	}
	order := map[string][]string{}
	for _, e := range got {
		order[e.Event.Key] = append(order[e.Event.Key], e.Event.ID)
	}
	for n := range 3 {
		var want []string
		for i := n; i < 30; i += 3 {
			want = append(want, fmt.Sprint("e", i))
		}
		if key := fmt.Sprint("key ", n); !slices.Equal(order[key], want) {
			s.Errorf("of %s, released were %s, want %s", key, shorten(order[key]), shorten(want))
		}
	}
	s.wantParked("at the end")
}

func (s *suite[TX]) discarded() {
	l, _ := s.park()
	s.discard(1, "n1")
	s.wantReleased("after n1 was discarded", l)
	s.discard(1, "a1")
	s.wantReleased("after a1 was discarded", l, "a2", "a3")
	s.discard(0, "a1")
	s.wantParked("after two were discarded", "b1", "a2", "n2", "a3")
	s.unpark(l, nil, nil, []string{"a", "b"})
	n, err := s.Store.DiscardParked(s.ctx, relay.ParkedFilter{}, "the suite")
	if n != 4 || err != nil {
		s.Errorf("discarding all concerns %d events (%v), want 4", n, err)
	}
	s.wantParked("after all were discarded")
	s.unpark(l, nil, nil, []string{"a", "b"}, "a", "b")
	s.wantIDs("behind the checkpoint", s.readAll(s.lead("a"), 10))
}

func (s *suite[TX]) unparked() {
	l, entries := s.park()
	s.retry(3, "a1", "n1", "n2")
	s.unpark(l, []relay.Entry{entries["a1"], entries["n2"]}, nil, []string{"a"})
	s.wantParked("after two were published", "b1", "n1", "a2", "a3")
	s.wantReleased("after a1 was published", l, "a2", "a3", "n1")
	s.unpark(l, []relay.Entry{entries["a1"], entries["a2"], entries["a3"], entries["n1"]}, nil, []string{"a"}, "a")
	s.wantParked("after the rest", "b1")
	s.wantReleased("after the rest", l)
	l = s.reopen(l, "a")
	s.wantParked("after a take-over", "b1")
	s.wantIDs("after a take-over", s.readAll(l, 10))
}

func (s *suite[TX]) parkedAnew() {
	l, entries := s.park()
	s.retry(2, "a1", "n1")
	s.unpark(l, nil, []relay.Parked{
		{Entry: entries["a1"], Reason: "another reason"}, {Entry: entries["n1"], Reason: "the same"},
		{Entry: entries["a2"], Behind: true, Reason: "waits again"},
	}, []string{"a"})
	s.wantReleased("after they failed again", l)
	list := s.wantParked("after they failed again", "a1", "b1", "n1", "a2", "n2", "a3")
	for i, want := range []struct {
		reason string
		behind bool
	}{{"another reason", false}, {"too large", false}, {"the same", false}, {"waits again", true}} {
		got := list[i]
		if got.Reason != want.reason || got.Behind != want.behind || got.Retrying {
			s.Errorf("parked event %s: reason %q, behind %v, retrying %v; want %q, %v and false",
				got.Event.ID, got.Reason, got.Behind, got.Retrying, want.reason, want.behind)
		}
		if diff := differences(got.Event, entries[got.Event.ID].Event); diff != "" {
			s.Errorf("parked event %s: %s", got.Event.ID, diff)
		}
	}
	s.retry(1, "a1")
	s.wantReleased("after another retry", l, "a1", "a2", "a3")
}

func (s *suite[TX]) clearKeys() {
	l, entries := s.park()
	s.unpark(l, nil, nil, []string{"a", "b", "never parked"}, "never parked")
	s.unpark(l, []relay.Entry{entries["b1"]}, nil, []string{"a", "b"}, "b")
	s.unpark(l, []relay.Entry{entries["a1"], entries["a2"]}, nil, []string{"a"})
	s.unpark(l, []relay.Entry{entries["a3"]}, nil, []string{"b", "a"}, "a", "b")
	s.unpark(l, nil, nil, nil)
	s.wantKeys(l)

	// What was parked by the last checkpoint counts.
	s.write(event("a4", "a"))
	page := s.read(l, 10)
	s.checkpoint(l, page.After, relay.Parked{Entry: page.Entries[0], Reason: "x"})
	s.unpark(l, nil, nil, []string{"a", "b"}, "b")
}

func (s *suite[TX]) staleUnpark() {
	l, entries := s.park()
	s.retry(2, "a1", "n1")
	other := s.Another(s.T)
	successor := s.openLog(other, s.acquire(other, lane, "a")) // the same owner's: only the epoch tells
	_, err := l.Unpark(s.ctx, []relay.Entry{entries["a1"], entries["b1"]},
		[]relay.Parked{{Entry: entries["n1"], Reason: "stale"}}, []string{"a"})
	wantLost(s, "unparking", err)
	for _, p := range s.wantParked("after a stale relay's attempt", "a1", "b1", "n1", "a2", "n2", "a3") {
		if p.Reason == "stale" || p.Event.ID == "n1" && !p.Retrying {
			s.Errorf("a stale relay has parked %s anew", p.Event.ID)
		}
	}
	s.wantReleased("to the successor", successor, "a1", "a2", "a3", "n1")
	s.unpark(successor, []relay.Entry{entries["b1"]}, nil, []string{"b"}, "b")
}

func (s *suite[TX]) filters() {
	typed := event("typed", "a")
	typed.Type = "Another"
	s.write(event("a1", "a"), typed, event("b1", "b"), event("n1", ""), event("A1", "A"))
	l := s.lead("a")
	page := s.read(l, 10)
	var parked []relay.Parked
	for _, e := range page.Entries {
		parked = append(parked, relay.Parked{Entry: e, Reason: "x"})
	}
	s.checkpoint(l, page.After, parked...)
	for _, c := range []struct {
		filter relay.ParkedFilter
		want   []string
	}{
		{relay.ParkedFilter{}, []string{"a1", "typed", "b1", "n1", "A1"}},
		{relay.ParkedFilter{Destination: lane.Destination}, []string{"a1", "typed", "b1", "n1", "A1"}},
		{relay.ParkedFilter{Destination: "another"}, nil},
		{relay.ParkedFilter{Key: "a"}, []string{"a1", "typed"}},
		{relay.ParkedFilter{Key: "c"}, nil},
		{relay.ParkedFilter{Type: "Another"}, []string{"typed"}},
		{relay.ParkedFilter{Type: "another"}, nil},
		{relay.ParkedFilter{Key: "a", Type: "Changed"}, []string{"a1"}},
		{relay.ParkedFilter{IDs: []string{"n1", "b1", "nobody"}}, []string{"b1", "n1"}},
		{relay.ParkedFilter{IDs: []string{"A1"}}, []string{"A1"}},
		{relay.ParkedFilter{IDs: []string{"n1", "a1"}, Key: "a"}, []string{"a1"}},
	} {
		for _, most := range []int{100, 1} {
			list, err := s.Store.Parked(s.ctx, c.filter, most)
			s.must("list parked events", err)
			var got []string
			for _, p := range list {
				got = append(got, p.Event.ID)
			}
			if want := c.want[:min(most, len(c.want))]; !slices.Equal(got, want) {
				s.Errorf("filter %+v with the limit %d selects %q, want %q", c.filter, most, got, want)
			}
		}
		n, err := s.Store.RetryParked(s.ctx, c.filter, "the suite")
		if err != nil || n > int64(len(c.want)) { // some may be asked for already
			s.Errorf("a retry of %+v concerns %d events (%v), want at most %d", c.filter, n, err, len(c.want))
		}
	}
	s.discard(0, "nobody")
	if n, err := s.Store.DiscardParked(s.ctx, relay.ParkedFilter{Key: "a", Type: "Another"}, "the suite"); n != 1 || err != nil {
		s.Errorf("discarded %d events (%v), want 1", n, err)
	}
	s.wantParked("after one was discarded", "a1", "b1", "n1", "A1")
}

// operators retries, discards and lists while the relay parks and unparks. Nothing may get stuck or fail.
func (s *suite[TX]) operators() {
	events := numbered("e", 80)
	s.write(events...)
	l := s.lead("a")
	relaying := s.start("the relay", func() error {
		for {
			page, err := l.Read(s.ctx, 8)
			if err != nil {
				return err
			}
			var parked []relay.Parked
			for i, e := range page.Entries {
				parked = append(parked, relay.Parked{Entry: e, Behind: i > 2, Reason: "x"})
			}
			if err := l.Checkpoint(s.ctx, page.After, parked); err != nil {
				return err
			}
			released, err := l.Released(s.ctx, 5)
			if err == nil {
				_, err = l.Unpark(s.ctx, released, nil, []string{"key 0", "key 1"})
			}
			if err != nil || !page.Full {
				return err
			}
		}
	})
	other := s.Another(s.T)
	s.all("an operator", 4, func(n int) error {
		for i := range 15 {
			filter := relay.ParkedFilter{IDs: []string{events[(n*15+i)%80].ID}}
			store := []Store[TX]{s.Store, other}[i%2]
			list, err := store.Parked(s.ctx, relay.ParkedFilter{Key: "key 1"}, 10)
			switch {
			case err != nil:
			case n == 0:
				_, err = store.DiscardParked(s.ctx, filter, "the suite")
			case n == 1 && len(list) > 0:
				_, err = store.RetryParked(s.ctx, relay.ParkedFilter{Key: list[0].Event.Key}, "the suite")
			default:
				_, err = store.RetryParked(s.ctx, filter, "the suite")
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	s.must("the relay", s.ends(relaying))

	// What is left can be published in the end.
	_, err := s.Store.RetryParked(s.ctx, relay.ParkedFilter{}, "the suite")
	s.must("retry all", err)
	for range 100 {
		released, err := l.Released(s.ctx, 20)
		s.must("read what is released", err)
		if len(released) == 0 {
			break
		}
		s.unpark(l, released, nil, nil)
	}
	s.wantParked("at the end")
	s.unpark(l, nil, nil, []string{"key 0", "key 1", "key 2"}, "key 0", "key 1", "key 2")
}

var errGiveUp = errors.New("the work gives up")

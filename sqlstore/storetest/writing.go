package storetest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// writing is what outbox.Store and promises 1 and 2 ask for.
func writing[TX any]() []promise[TX] {
	return []promise[TX]{
		{"an event comes out as it went in", (*suite[TX]).everyField},
		{"large events are written whole", (*suite[TX]).largeEvents},
		{"the events of a transaction keep their order", (*suite[TX]).orderOfATransaction},
		{"what rolls back was never there", (*suite[TX]).rolledBack},
		{"what isn't committed isn't read", (*suite[TX]).uncommitted},
		{"an effect and its event share their fate", (*suite[TX]).effectAndEvent},
		{"every store of the database reads it", (*suite[TX]).anotherStore},
		{"a writer waits for a locked key", (*suite[TX]).lockedKey},
		{"writers that lock many keys don't wait in a circle", (*suite[TX]).lockedKeys},
		{"many write at the same time", (*suite[TX]).manyWriters},
		{"a cancelled write is an error", (*suite[TX]).cancelledWrite},
	}
}

// names are texts that Event.Validate admits, and that databases like to change.
func names() map[string]string {
	longest := strings.Repeat("x", surepost.MaxNameBytes)
	return map[string]string{
		"ordinary":         "order-7",
		"longest":          longest,
		"longest not last": longest[1:] + "y",
		"longest in runes": strings.Repeat("語", surepost.MaxNameBytes/3),
		"four-byte runes":  "🚚 order 🧾 7",
		"lower case":       "case",
		"upper case":       "CASE",
		"trailing space":   "case ",
		"leading space":    " case",
		"trailing tab":     "case\t",
		"accent composed":  "caf\u00e9",
		"accent apart":     "cafe\u0301",
		"no accent":        "cafe",
		"sharp s":          "stra\u00dfe",
		"double s":         "strasse",
		"zero width":       "ca\u200bse",
		"right to left":    "\u202eabc",
		"quotes":           `a'b"c` + "`" + `d\e`,
		"array syntax":     `{a,"b",NULL}`,
		"placeholders":     "$1 ? :name %s @p1",
		"line breaks":      "a\nb\r\nc",
		"control":          "a\x01\x1f\x7fb",
		"a word NULL":      "NULL",
		"a number":         "007",
		"comment":          "a -- b /* c",
		"last rune":        "\U0010ffff",
		"noncharacter":     "\uffff\ufffe",
	}
}

func (s *suite[TX]) everyField() {
	full := surepost.Event{
		ID: "evt_abc123", Type: "OrderCreated", Time: time.Date(2024, 1, 15, 10, 30, 0, 123456000, time.UTC),
		Version: "2.1", Source: "order-service", CorrelationID: "req_xyz789", CausationID: "evt_before", Key: "order 7",
		Category: surepost.Domain,
		Headers: map[string]string{
			"tenant": `a "b" \ {c}`, "empty": "", "Tenant": "another", "trailing ": " space ", "ünï": "🚚",
			"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		},
		Data: json.RawMessage(`{"orderId": 7, "note": "quote \" backslash \\ braces {} comma , ä \u0000"}`),
	}
	var events []surepost.Event
	add := func(id string, change func(e *surepost.Event)) {
		e := full
		e.ID, e.Headers = id, maps.Clone(full.Headers)
		change(&e)
		if err := e.Validate(surepost.Limits{}); err != nil {
			s.Fatalf("the suite's own event isn't valid: %v", err)
		}
		events = append(events, e)
	}
	add("full", func(*surepost.Event) {})
	add("minimal", func(e *surepost.Event) {
		*e = surepost.Event{
			ID: "minimal", Type: "T", Time: e.Time, Version: "1.0", Source: "s", CorrelationID: "minimal",
			Data: json.RawMessage("null"),
		}
	})
	all := names()
	for _, kind := range slices.Sorted(maps.Keys(all)) {
		name := all[kind]
		add(name, func(e *surepost.Event) {
			e.Type, e.Version, e.Source, e.CorrelationID, e.CausationID, e.Key = name, name, name, name, name, name
			e.Headers = map[string]string{"of " + name[:min(len(name), 100)]: name}
			if !strings.HasPrefix(name, "語") { // cut between runes
				return
			}
			e.Headers = map[string]string{name: name}
		})
		add("correlation of "+kind, func(e *surepost.Event) { e.CorrelationID = name })
	}
	for i, at := range []time.Time{
		time.Date(1, 1, 1, 0, 0, 0, 1000, time.UTC),
		time.Date(999, 12, 31, 23, 59, 59, 999999000, time.UTC),
		time.Date(1582, 10, 10, 12, 0, 0, 0, time.UTC), // the days that the Gregorian calendar left out
		time.Date(1969, 12, 31, 23, 59, 59, 999999000, time.UTC),
		time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2024, 2, 29, 23, 59, 59, 1000, time.UTC),
		time.Date(2024, 3, 31, 2, 30, 0, 500000000, time.UTC), // doesn't exist in Central European time
		time.Date(2038, 1, 19, 3, 14, 8, 100000, time.UTC),
		time.Date(9998, 12, 31, 23, 59, 59, 999999000, time.UTC),
	} {
		add(fmt.Sprint("time ", i), func(e *surepost.Event) { e.Time = at })
	}
	for i, data := range []string{
		`null`, `{}`, `[]`, `""`, `0`, `true`, `-0.0`, `1e400`, `12345678901234567890.123456789`, ` { "b" : 1, "a" : 2 , "b":3 } `,
		`"\u0000 \ud83d\ude9a \/ 🚚 <&>"`, "[\n\t1,\r\n 2 ]", `"\ud800"`, `"''\\\\$$"`,
	} {
		add(fmt.Sprint("data ", i), func(e *surepost.Event) { e.Data = json.RawMessage(data) })
	}
	for _, category := range []surepost.Category{"", surepost.Domain, surepost.Integration, surepost.System} {
		add("category "+string(category), func(e *surepost.Event) { e.Category = category })
	}
	add("no headers", func(e *surepost.Event) { e.Headers = nil })
	add("many headers", func(e *surepost.Event) {
		for i := range 200 {
			e.Headers[fmt.Sprint("header ", i)] = strings.Repeat("ä", 60)
		}
	})

	// One by one and all at once: stores have a statement for either.
	for _, e := range events {
		s.write(e)
	}
	s.write(events...)
	got := s.readAll(s.lead("a"), 50)
	if len(got) != 2*len(events) {
		s.Fatalf("%d events came, written were %d", len(got), 2*len(events))
	}
	for i, entry := range got {
		if diff := differences(entry.Event, events[i%len(events)]); diff != "" {
			s.Errorf("event %s: %s", quote(events[i%len(events)].ID), diff)
		}
	}
}

func (s *suite[TX]) largeEvents() {
	data := func(n int) json.RawMessage {
		return json.RawMessage(`"` + strings.Repeat("data 🚚 ", n/10) + strings.Repeat("x", n%10) + `"`)
	}
	largest := event("largest", "k")
	largest.Data = data(surepost.DefaultMaxDataBytes - 2)
	headers := event("headers", "k")
	headers.Headers = map[string]string{"h": strings.Repeat("x", surepost.MaxHeaderBytes-1)}
	events := []surepost.Event{largest, headers}
	for i := range 32 {
		e := event(fmt.Sprint("large ", i), "k")
		e.Data = data(64<<10 + i*8<<10)
		events = append(events, e)
	}
	for _, e := range events {
		if err := e.Validate(surepost.Limits{}); err != nil {
			s.Fatalf("the suite's own event isn't valid: %v", err)
		}
	}
	s.write(events...)
	s.write(largest)
	got := s.readAll(s.lead("a"), 10)
	if len(got) != len(events)+1 {
		s.Fatalf("%d events came, written were %d", len(got), len(events)+1)
	}
	for i, want := range append(events, largest) {
		if diff := differences(got[i].Event, want); diff != "" {
			s.Errorf("event %s: %s", want.ID, diff)
		}
	}
}

func (s *suite[TX]) orderOfATransaction() {
	tx := s.begin()
	events := numbered("e", 10_012) // a call's most events by default, and more
	s.append(tx, events[0])
	s.append(tx, events[1:10_001]...)
	for _, e := range events[10_001:10_010] {
		s.append(tx, e)
	}
	s.append(tx, events[10_010:]...)
	s.commit(tx)
	got := s.readAll(s.lead("a"), 997)
	s.wantIDs("one transaction's events", got, idsOf(events)...)
	for i := range got[1:] {
		if got[i+1].Seq <= got[i].Seq {
			s.Fatalf("event %s has the number %d, and the one before it %d", got[i+1].Event.ID, got[i+1].Seq, got[i].Seq)
		}
	}
}

func (s *suite[TX]) rolledBack() {
	s.write(event("before", "k"))
	tx := s.begin()
	s.append(tx, event("ghost 1", "k"))
	s.append(tx, event("ghost 2", "k"), event("ghost 3", ""))
	s.rollback(tx)
	s.write(event("after", "k"))
	l := s.lead("a")
	s.wantIDs("after a rollback", s.readAll(l, 10), "before", "after")
	tx = s.begin()
	s.append(tx, event("ghost 4", "k"))
	s.rollback(tx)
	s.wantIDs("after another", s.readAll(l, 10))

	// Its ids are free.
	s.write(event("ghost 1", "k"))
	s.wantIDs("written again", s.readAll(l, 10), "ghost 1")
}

func (s *suite[TX]) uncommitted() {
	l := s.lead("a")
	tx := s.begin()
	s.append(tx, event("e1", "k"))
	s.wantIDs("before the commit", s.readAll(l, 10))
	s.append(tx, event("e2", "k"))
	s.wantIDs("before the commit", s.readAll(l, 10))
	s.commit(tx)
	s.wantIDs("after the commit", s.readAll(l, 10), "e1", "e2")
}

func (s *suite[TX]) effectAndEvent() {
	l := s.lead("a")
	for _, c := range []struct {
		name   string
		commit bool
	}{{"e1", true}, {"e2", false}, {"e3", true}} {
		tx := s.begin()
		s.must("do business work", s.Effect(s.ctx, tx, c.name))
		s.append(tx, event(c.name, "k"))
		if c.commit {
			s.commit(tx)
		} else {
			s.rollback(tx)
		}
	}
	s.wantEffects("two commits and a rollback", "e1", "e3")
	s.wantIDs("two commits and a rollback", s.readAll(l, 10), "e1", "e3")
}

func (s *suite[TX]) anotherStore() {
	other := s.Another(s.T)
	s.write(event("e1", "k"))
	s.must("append events", s.transact(func(tx TX) error {
		return other.Append(s.ctx, tx, []surepost.Event{event("e2", "k")})
	}))
	lease := s.acquire(s.Store, lane, "a")
	s.wantIDs("the store itself", s.readAll(s.openLog(s.Store, lease), 10), "e1", "e2")
	s.wantIDs("another store", s.readAll(s.openLog(other, lease), 10), "e1", "e2")
	for _, store := range []relay.Store{s.Store, other} {
		s.must("check", store.Check(s.ctx))
	}
}

func (s *suite[TX]) lockedKey() {
	for _, end := range []func(TX){s.commit, s.rollback} {
		first := s.begin()
		s.must("lock keys", s.Store.LockKeys(s.ctx, first, []string{"a", "b"}))
		s.append(first, event("e1", "a"))
		second := s.start("the second writer of a key", func() error {
			return s.transact(func(tx TX) error {
				if err := s.Store.LockKeys(s.ctx, tx, []string{"b", "c"}); err != nil {
					return err
				}
				return s.Store.Append(s.ctx, tx, []surepost.Event{event("e2", "b")})
			})
		})
		if !s.OneWriter {
			s.must("write under another key", s.transact(func(tx TX) error {
				if err := s.Store.LockKeys(s.ctx, tx, []string{"another key"}); err != nil {
					return err
				}
				return s.Store.Append(s.ctx, tx, []surepost.Event{event("e3", "another key")})
			}))
		}
		s.waits(second, "the first")
		end(first)
		s.must("the second writer", s.ends(second))
	}
	tx := s.begin() // a transaction may lock again what it holds
	s.must("lock keys", s.Store.LockKeys(s.ctx, tx, []string{"a", "b"}))
	s.must("lock keys", s.Store.LockKeys(s.ctx, tx, []string{"b", "c"}))
	s.commit(tx)
}

func (s *suite[TX]) lockedKeys() {
	keys := []string{"a", "b", "c", "d", "e"}
	s.all("a writer of several keys", 6, func(n int) error {
		for i := range 10 {
			mine := []string{keys[(n+i)%5], keys[(n*3+i*2+1)%5], keys[(i+2)%5]}
			slices.Sort(mine)
			mine = slices.Compact(mine)
			if err := s.transact(func(tx TX) error { return s.Store.LockKeys(s.ctx, tx, mine) }); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *suite[TX]) manyWriters() {
	const writers, each = 8, 15
	s.all("a writer", writers, func(n int) error {
		for i := range each {
			err := s.transact(func(tx TX) error {
				return s.Store.Append(s.ctx, tx, []surepost.Event{
					event(fmt.Sprintf("%d %d a", n, i), fmt.Sprint("writer ", n)),
					event(fmt.Sprintf("%d %d b", n, i), fmt.Sprint("writer ", n)),
				})
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	got := map[string][]string{}
	for _, entry := range s.readAll(s.lead("a"), 50) {
		got[entry.Event.Key] = append(got[entry.Event.Key], entry.Event.ID)
	}
	for n := range writers {
		var want []string
		for i := range each {
			want = append(want, fmt.Sprintf("%d %d a", n, i), fmt.Sprintf("%d %d b", n, i))
		}
		if have := got[fmt.Sprint("writer ", n)]; !slices.Equal(have, want) {
			s.Errorf("writer %d's events are %s, want %s", n, shorten(have), shorten(want))
		}
	}
}

func (s *suite[TX]) cancelledWrite() {
	tx := s.begin()
	ended, cancel := contextEnded(s.ctx)
	defer cancel()
	if err := s.Store.Append(ended, tx, []surepost.Event{event("e1", "k")}); err == nil {
		s.Error("events were appended under a context that had ended")
	}
	_ = s.Rollback(s.ctx, tx) // the transaction may be gone by now
	s.write(event("e2", "k"))
	s.wantIDs("after a cancelled write", s.readAll(s.lead("a"), 10), "e2")
}

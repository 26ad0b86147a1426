package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// whole returns a ledger that nothing is wrong with: two orders of one key and their consequences, a poisoned one, a delayed
// one.
func whole() ledger {
	var l ledger
	did := func(consumer string, w written) {
		l.effects = append(l.effects, effect{int64(len(l.effects) + 1), consumer, w.id, w.kind, w.key, w.number})
	}
	for n := int64(1); n <= 2; n++ {
		a := written{id: fmt.Sprint("a", n), kind: placed, key: "placed/7", number: n, writer: "producer-go"}
		b := written{id: fmt.Sprint("b", n), kind: billed, key: "billed/7", number: n, cause: a.id, writer: billing}
		c := written{id: fmt.Sprint("c", n), kind: shipped, key: "shipped/7", number: n, cause: b.id, writer: shipping}
		l.written = append(l.written, a, b, c)
		did(billing, a)
		did(audit, a)
		did(shipping, b)
		did(audit, b)
		did(audit, c)
		l.acknowledged = append(l.acknowledged, a.id)
	}
	poisoned := written{id: "p", kind: placed, key: "placed/8", number: 1, poison: true, writer: "producer-sql"}
	l.written = append(l.written, poisoned)
	did(audit, poisoned)
	l.dead = append(l.dead, deadLetter{billing, "p", "permanent-failure"}, deadLetter{billing, "p", "permanent-failure"})
	return l
}

func TestAWholeLedgerPasses(t *testing.T) {
	if v := judge(whole()); !reflect.DeepEqual(v, verdict{}) {
		t.Errorf("%+v", v)
	}
}

// without removes the effect of an event by a consumer.
func without(l *ledger, consumer, id string) effect {
	i := slices.IndexFunc(l.effects, func(e effect) bool { return e.consumer == consumer && e.id == id })
	e := l.effects[i]
	l.effects = slices.Delete(l.effects, i, i+1)
	return e
}

// Whatever is wrong is found, told under its name and with the event's id, and nothing else is found with it.
func TestTheLedgerFinds(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(l *ledger)
		want  map[string]int // by the verdict's fields
		tells string
	}{
		{"a lost event", func(l *ledger) { without(l, audit, "c2") }, map[string]int{"lost": 1}, "event c2 (OrderShipped, key shipped/7, number 2, by shipping) has no effect by audit"},
		{"what is only late", func(l *ledger) {
			without(l, audit, "c2")
			l.waiting = []string{"1 messages wait in the queue audit"}
		}, map[string]int{"stuck": 1, "waiting": 1}, "key shipped/7"},
		{"a poisoned event that nobody gave up", func(l *ledger) { l.dead = nil }, map[string]int{"lost": 1}, "event p "},
		{"an event that was rolled back", func(l *ledger) {
			l.effects = append(l.effects, effect{99, audit, "ghost", placed, "placed/7", 3})
		}, map[string]int{"ghosts": 1}, "event ghost "},
		{"a dead letter that was rolled back", func(l *ledger) {
			l.dead = append(l.dead, deadLetter{audit, "ghost", "permanent-failure"})
		}, map[string]int{"ghosts": 1}, "event ghost "},
		{"a follow-up of what was rolled back", func(l *ledger) {
			l.written = append(l.written, written{id: "b3", kind: billed, key: "billed/9", number: 1, cause: "a9", writer: billing})
			l.effects = append(l.effects, effect{98, shipping, "b3", billed, "billed/9", 1}, effect{99, audit, "b3", billed, "billed/9", 1})
			l.written = append(l.written, written{id: "c3", kind: shipped, key: "shipped/9", number: 1, cause: "b3", writer: shipping})
			l.effects = append(l.effects, effect{100, audit, "c3", shipped, "shipped/9", 1})
		}, map[string]int{"ghosts": 1}, "event b3 "},
		{"a double effect", func(l *ledger) {
			l.effects = append(l.effects, effect{99, audit, "a1", placed, "placed/7", 1})
		}, map[string]int{"double": 1}, "event a1 "},
		{"a missing follow-up", func(l *ledger) {
			l.written = slices.DeleteFunc(l.written, func(w written) bool { return w.id == "c2" })
			without(l, audit, "c2")
		}, map[string]int{"missingFollowUps": 1}, "event b2"},
		{"a follow-up that was written twice", func(l *ledger) {
			l.written = append(l.written, written{id: "c3", kind: shipped, key: "shipped/7", number: 3, cause: "b2", writer: shipping})
			l.effects = append(l.effects, effect{99, audit, "c3", shipped, "shipped/7", 3})
		}, map[string]int{"double": 1}, "event b2"},
		{"an inversion", func(l *ledger) {
			e := without(l, audit, "a1")
			e.place = 99
			l.effects = append(l.effects, e)
		}, map[string]int{"inversions": 1}, "audit handled number 1 of key placed/7 (event a1) after number 2 (event a2)"},
		{"a dead letter without cause", func(l *ledger) {
			without(l, audit, "c2")
			l.dead = append(l.dead, deadLetter{audit, "c2", "attempts-spent"})
		}, map[string]int{"deadLettered": 1}, "event c2 "},
		{"a parked event", func(l *ledger) { l.parked = []string{"event c2 is parked"} }, map[string]int{"parked": 1}, "c2"},
		{"an altered event", func(l *ledger) { l.effects[0].key = "placed/6" }, map[string]int{"altered": 1}, "event a1 "},
		{"a commit that the database forgot", func(l *ledger) { l.acknowledged = append(l.acknowledged, "a3") }, map[string]int{"forgotten": 1}, "event a3"},
		{"a number that is missing", func(l *ledger) {
			l.written[0].number, l.effects[0].number, l.effects[1].number = 3, 3, 3
			l.written[3].number, l.effects[5].number, l.effects[6].number = 4, 4, 4
		}, map[string]int{"gaps": 1}, "key placed/7"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := whole()
			c.spoil(&l)
			v := judge(l)
			got := map[string]int{}
			fields := reflect.ValueOf(v)
			for i := range fields.NumField() {
				if n := fields.Field(i).Len(); n > 0 {
					got[fields.Type().Field(i).Name] = n
				}
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("found %v, want %v: %+v", got, c.want, v)
			}
			if !strings.Contains(fmt.Sprintf("%+v", v), c.tells) {
				t.Errorf("%+v doesn't tell %q", v, c.tells)
			}
		})
	}
}

// An event of a delayed key has its order from NotBefore, not from its number.
func TestDelayedKeysHaveNoOrderOfNumbers(t *testing.T) {
	l := whole()
	for n := int64(1); n <= 2; n++ {
		w := written{id: fmt.Sprint("d", n), kind: placed, key: delayedKey + "7", number: n, poison: true, writer: "producer-go"}
		l.written = append(l.written, w)
		l.effects = append(l.effects, effect{100 - n, audit, w.id, w.kind, w.key, w.number})
		l.dead = append(l.dead, deadLetter{billing, w.id, "permanent-failure"})
	}
	if v := judge(l); !reflect.DeepEqual(v, verdict{}) {
		t.Errorf("%+v", v)
	}
}

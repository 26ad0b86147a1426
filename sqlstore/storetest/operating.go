package storetest

import (
	"slices"
	"strings"
	"time"

	"github.com/surepost/surepost/relay"
)

// operating is what is asked of the record of what operators do.
func operating[TX any]() []promise[TX] {
	return []promise[TX]{
		{"what an operator does to parked events is recorded", (*suite[TX]).recordedActions},
		{"what changes nothing isn't recorded", (*suite[TX]).nothingRecorded},
		{"nobody acts without a name", (*suite[TX]).namelessOperator},
		{"a part of the reason selects parked events, literally", (*suite[TX]).reasonFilter},
	}
}

func (s *suite[TX]) actions(filter relay.ParkedFilter, limit int) []relay.ParkedAction {
	s.Helper()
	list, err := s.Another(s.T).ParkedActions(s.ctx, filter, limit)
	s.must("list what was done to parked events", err)
	return list
}

func (s *suite[TX]) recordedActions() {
	_, entries := s.park()
	who := names()["four-byte runes"]
	n, err := s.Store.RetryParked(s.ctx, relay.ParkedFilter{Key: "a"}, who)
	if n != 3 || err != nil {
		s.Fatalf("a retry of a key concerns %d events (%v), want 3", n, err)
	}
	s.discard(1, "n1")
	s.discard(1, "b1")
	list := s.actions(relay.ParkedFilter{}, 100)
	var got []string
	for _, a := range list {
		got = append(got, string(a.Action)+" "+a.EventID)
		want := entries[a.EventID]
		if a.Seq != want.Seq || a.Type != want.Event.Type || a.Key != want.Event.Key || a.Destination != lane.Destination {
			s.Errorf("recorded is %+v, of the event %+v", a, want)
		}
		if age := time.Since(a.At); age < -time.Minute || age > limit+time.Minute {
			s.Errorf("recorded is %+v, %v ago", a, age)
		}
	}
	// Newest first; of one call, the last of a key first.
	want := []string{"discard b1", "discard n1", "retry a3", "retry a2", "retry a1"}
	if !slices.Equal(got, want) {
		s.Fatalf("recorded are %q, want %q", got, want)
	}
	if list[0].By != "the suite" || list[0].Reason != "too large" || list[4].By != who || list[4].Reason != "no queue" || list[3].Reason != "waits" {
		s.Errorf("recorded are %+v", list)
	}
	for _, c := range []struct {
		filter relay.ParkedFilter
		limit  int
		want   int
	}{
		{relay.ParkedFilter{Key: "a"}, 100, 3}, {relay.ParkedFilter{Key: "a"}, 2, 2}, {relay.ParkedFilter{IDs: []string{"n1", "x"}}, 100, 1},
		{relay.ParkedFilter{Reason: "too"}, 100, 1}, {relay.ParkedFilter{Type: "Another"}, 100, 0}, {relay.ParkedFilter{Destination: "another"}, 100, 0},
	} {
		if got := s.actions(c.filter, c.limit); len(got) != c.want {
			s.Errorf("%+v selects %d records, want %d: %+v", c.filter, len(got), c.want, got)
		}
	}
}

func (s *suite[TX]) nothingRecorded() {
	s.park()
	s.retry(1, "a1")
	s.retry(0, "a1") // asked for already
	s.discard(1, "n1")
	s.discard(0, "n1")
	s.discard(0, "never parked")
	if list := s.actions(relay.ParkedFilter{}, 100); len(list) != 2 {
		s.Errorf("two actions changed something, recorded are %+v", list)
	}
	s.wantParked("after all", "a1", "b1", "a2", "n2", "a3")
}

func (s *suite[TX]) namelessOperator() {
	l, _ := s.park()
	s.schedule(s.delayed("d", "", time.Hour))
	for _, by := range []string{"", " \t", strings.Repeat("x", 256), "a\x00b", "\xff"} {
		for what, err := range map[string]error{
			"retry":   second(s.Store.RetryParked(s.ctx, relay.ParkedFilter{}, by)),
			"discard": second(s.Store.DiscardParked(s.ctx, relay.ParkedFilter{}, by)),
			"cancel":  second(s.Store.CancelScheduled(s.ctx, relay.ScheduledFilter{}, by)),
		} {
			if err == nil {
				s.Errorf("a %s by %q is no error", what, by)
			}
		}
	}
	s.wantParked("after all", "a1", "b1", "n1", "a2", "n2", "a3")
	s.wantReleased("after all", l)
	s.wantScheduled("after all", "d")
	if list := s.actions(relay.ParkedFilter{}, 100); len(list) != 0 {
		s.Errorf("recorded are %+v", list)
	}
}

func second[T any](_ T, err error) error { return err }

func (s *suite[TX]) reasonFilter() {
	reasons := map[string]string{
		"percent": "100% full", "underscore": "no_queue", "dash": "no-queue", "backslash": `a\b`, "quote": `it's "x"`, "upper": "NO_QUEUE", "ümlaut": "größer 🚚",
	}
	for id := range reasons {
		s.write(event(id, id))
	}
	l := s.lead("a")
	page := s.read(l, 100)
	var parked []relay.Parked
	for _, e := range page.Entries {
		parked = append(parked, relay.Parked{Entry: e, Reason: reasons[e.Event.ID]})
	}
	s.checkpoint(l, page.After, parked...)
	for part, want := range map[string][]string{
		"%": {"percent"}, "0% f": {"percent"}, "_": {"underscore", "upper"}, "no_queue": {"underscore"}, "no": {"dash", "underscore"}, `\`: {"backslash"},
		`'s "`: {"quote"}, "größer": {"ümlaut"}, "🚚": {"ümlaut"}, "nothing of it": nil, ".*": nil, "*": nil, "?": nil,
	} {
		list, err := s.Store.Parked(s.ctx, relay.ParkedFilter{Reason: part}, 100)
		s.must("list parked events", err)
		var got []string
		for _, p := range list {
			got = append(got, p.Event.ID)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			s.Errorf("the reason %q selects %q, want %q", part, got, want)
		}
	}
	if n, err := s.Store.DiscardParked(s.ctx, relay.ParkedFilter{Reason: "no_queue"}, "the suite"); n != 1 || err != nil {
		s.Errorf("discarded %d events (%v), want 1", n, err)
	}
}

package storetest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// counting is what inbox.AttemptStore asks for.
func counting[TX any]() []promise[TX] {
	return []promise[TX]{
		{"attempts are counted started and finished", (*suite[TX]).attempts},
		{"attempts are counted for each consumer and event", (*suite[TX]).attemptsApart},
		{"attempts at the same moment are all counted", (*suite[TX]).attemptsAtOnce},
		{"any failure can be noted", (*suite[TX]).failures},
	}
}

func (s *suite[TX]) startAttempt(consumer, id string, limit, want int) {
	s.Helper()
	n, err := s.Store.StartAttempt(s.ctx, consumer, id, limit)
	if err != nil || n != want {
		s.Fatalf("start an attempt at %s for %s with the limit %d: %d are unfinished (%v), want %d",
			quote(id), quote(consumer), limit, n, err, want)
	}
}

func (s *suite[TX]) attempts() {
	finish := func() {
		s.Helper()
		s.must("finish an attempt", s.Another(s.T).FinishAttempt(s.ctx, "c", "e1", "no stock"))
	}
	finish() // of nothing that was started
	s.startAttempt("c", "e1", 3, 0)
	finish()
	finish() // of nothing that is open
	s.startAttempt("c", "e1", 3, 0)
	s.startAttempt("c", "e1", 3, 1)
	s.startAttempt("c", "e1", 3, 2)
	s.startAttempt("c", "e1", 3, 3) // the limit: nothing is noted any more
	s.startAttempt("c", "e1", 3, 3)
	s.startAttempt("c", "e1", 1, 3)
	s.startAttempt("c", "e1", 4, 3)
	s.startAttempt("c", "e1", 4, 4)
	finish()
	s.startAttempt("c", "e1", 4, 3)
	finish()
	finish()
	s.startAttempt("c", "e1", 3, 2)
	s.must("forget the attempts", s.Store.ForgetAttempts(s.ctx, "c", "e1"))
	s.must("forget them again", s.Store.ForgetAttempts(s.ctx, "c", "e1"))
	finish()
	s.startAttempt("c", "e1", 3, 0)
}

func (s *suite[TX]) attemptsApart() {
	all := names()
	for _, name := range all {
		s.startAttempt("c", name, 9, 0)
		s.startAttempt(name, "e", 9, 0)
	}
	for _, name := range all {
		s.startAttempt("c", name, 9, 1)
		s.startAttempt(name, "e", 9, 1)
	}
	s.must("finish an attempt", s.Store.FinishAttempt(s.ctx, "c", "case", ""))
	s.must("forget attempts", s.Store.ForgetAttempts(s.ctx, "c", "CASE"))
	s.startAttempt("c", "case", 9, 1)
	s.startAttempt("c", "CASE", 9, 0)
	s.startAttempt("c", "case ", 9, 2)
	s.startAttempt("case", "e", 9, 2)
}

func (s *suite[TX]) attemptsAtOnce() {
	stores := []Store[TX]{s.Store, s.Another(s.T)}
	const limit = 3
	for round := range 5 {
		id := fmt.Sprint("e", round)
		var mu sync.Mutex
		var got []int
		s.all("one who starts an attempt", 8, func(n int) error {
			unfinished, err := stores[n%2].StartAttempt(s.ctx, "c", id, limit)
			mu.Lock()
			got = append(got, unfinished)
			mu.Unlock()
			return err
		})
		slices.Sort(got)
		if want := []int{0, 1, 2, 3, 3, 3, 3, 3}; !slices.Equal(got, want) {
			s.Fatalf("eight who started with the limit %d were told of %v unfinished attempts, want %v", limit, got, want)
		}
		s.all("one who finishes an attempt", 8, func(n int) error {
			return stores[n%2].FinishAttempt(s.ctx, "c", id, "x")
		})
		s.startAttempt("c", id, limit, 0)
	}
}

func (s *suite[TX]) failures() {
	for _, failure := range []string{
		"", "no stock", "NUL \x00 inside", "not UTF-8 \xff\xfe", strings.Repeat("ä🚚", 50_000), "'; DROP TABLE x; --", "\n\t\\",
	} {
		s.startAttempt("c", "e1", 1, 0)
		s.must("finish an attempt with the failure "+quote(failure), s.Store.FinishAttempt(s.ctx, "c", "e1", failure))
	}
	s.startAttempt("c", "e1", 1, 0)
}

package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/surepost/surepost"
)

// handling is what inbox.Store and promise 4 ask for.
func handling[TX any]() []promise[TX] {
	return []promise[TX]{
		{"an event is handled once per consumer", (*suite[TX]).handledOnce},
		{"events and consumers are told apart byte by byte", (*suite[TX]).toldApart},
		{"work that fails leaves nothing", (*suite[TX]).failedWork},
		{"work that panics leaves nothing", (*suite[TX]).panickedWork},
		{"the work's events share its fate", (*suite[TX]).followUps},
		{"the record and the effect share their fate", (*suite[TX]).recordAndEffect},
		{"copies at the same moment have one effect", (*suite[TX]).copies},
		{"a second copy waits and finds the work done", (*suite[TX]).secondFindsDone},
		{"a second copy works if the first fails", (*suite[TX]).secondWorks},
		{"a second copy stops waiting when its context ends", (*suite[TX]).secondGivesUp},
		{"different events don't wait for each other", (*suite[TX]).differentEvents},
		{"a batch is told which events are new", (*suite[TX]).batch},
		{"batches that overlap don't wait in a circle", (*suite[TX]).overlap},
		{"a commit that fails is an error", (*suite[TX]).failedCommit},
		{"a record in the caller's transaction shares its fate", (*suite[TX]).record},
	}
}

// handle runs one event's work, which adds the effect name, and reports whether the event was new.
func (s *suite[TX]) handle(store Store[TX], consumer, id, name string) (first bool, err error) {
	err = store.Transact(s.ctx, consumer, []string{id}, func(tx TX, f []bool) error {
		if len(f) != 1 {
			return fmt.Errorf("for one event, work was told of %d", len(f))
		}
		if first = f[0]; !first {
			return nil
		}
		return s.Effect(s.ctx, tx, name)
	})
	return first, err
}

func (s *suite[TX]) wantHandled(store Store[TX], consumer, id, name string, want bool) {
	s.Helper()
	first, err := s.handle(store, consumer, id, name)
	s.must(fmt.Sprintf("handle event %s as %s", quote(id), quote(consumer)), err)
	if first != want {
		s.Fatalf("event %s for consumer %s: first is %v, want %v", quote(id), quote(consumer), first, want)
	}
}

func (s *suite[TX]) handledOnce() {
	other := s.Another(s.T)
	s.wantHandled(s.Store, "inventory", "e1", "inventory e1", true)
	for range 3 {
		s.wantHandled(s.Store, "inventory", "e1", "again", false)
		s.wantHandled(other, "inventory", "e1", "again", false)
	}
	s.wantHandled(other, "billing", "e1", "billing e1", true)
	s.wantHandled(s.Store, "billing", "e1", "again", false)
	s.wantHandled(s.Store, "inventory", "e2", "inventory e2", true)
	s.wantHandled(s.Store, "e1", "inventory", "the other way round", true)
	s.wantEffects("at the end", "inventory e1", "billing e1", "inventory e2", "the other way round")
}

func (s *suite[TX]) toldApart() {
	for kind, name := range names() {
		s.wantHandled(s.Store, "consumer", name, kind, true)
	}
	for kind, name := range names() {
		s.wantHandled(s.Store, name, "event", kind, true)
	}
	var batch []string
	for kind, name := range names() {
		s.wantHandled(s.Store, "consumer", name, kind, false)
		s.wantHandled(s.Store, name, "event", kind, false)
		batch = append(batch, name)
	}
	for _, want := range []bool{true, false} {
		s.must("handle a batch", s.Store.Transact(s.ctx, "consumer of batches", batch, func(_ TX, first []bool) error {
			for i, f := range first {
				if f != want {
					s.Errorf("event %s of a batch: first is %v, want %v", quote(batch[i]), f, want)
				}
			}
			return nil
		}))
	}
}

func (s *suite[TX]) failedWork() {
	own := fmt.Errorf("no stock: %w", errGiveUp)
	for range 20 { // more often than there are connections, if one is lost each time
		err := s.Store.Transact(s.ctx, "c", []string{"e1"}, func(tx TX, first []bool) error {
			if !first[0] {
				s.Error("the event is said to be handled, and the work has failed each time")
			}
			if err := s.Effect(s.ctx, tx, "failed"); err != nil {
				return err
			}
			return own
		})
		if err != own {
			s.Fatalf("Transact returned %v, want work's own error as it is", err)
		}
	}
	s.wantEffects("after failures")
	s.wantHandled(s.Store, "c", "e1", "worked", true)
	s.wantEffects("after the success", "worked")
	err := s.Store.Transact(s.ctx, "c", []string{"e1"}, func(tx TX, first []bool) error {
		if first[0] {
			s.Error("the event is said to be new")
		}
		return own
	})
	if err != own {
		s.Errorf("Transact returned %v for an event that was handled before, want work's own error as it is", err)
	}
	s.wantHandled(s.Store, "c", "e1", "again", false)
}

// panickedWork also ends goroutines, as a t.FailNow in a handler does.
func (s *suite[TX]) panickedWork() {
	inWork := func(id string, do func()) (err error) {
		return s.Store.Transact(s.ctx, "c", []string{id}, func(tx TX, first []bool) error {
			if err := s.Effect(s.ctx, tx, "panicked"); err != nil {
				return err
			}
			do()
			return nil
		})
	}
	for range 20 { // more often than there are connections, if one is lost each time
		err := func() (err error) {
			defer func() {
				if r := recover(); r != nil {
					err = fmt.Errorf("panicked with %v", r)
				}
			}()
			return inWork("e1", func() { panic("in the work") })
		}()
		if err == nil {
			s.Fatal("Transact returned in good order after a panic of the work")
		}
	}
	s.wantEffects("after panics")
	for range 20 {
		gone := make(chan error, 1)
		go func() {
			defer func() { gone <- nil }()
			_ = inWork("e2", runtime.Goexit) // doesn't return
		}()
		s.must("end a goroutine in the work", s.ends(task{"a goroutine that ended in the work", gone}))
	}
	s.wantEffects("after goroutines that ended in the work")
	s.wantHandled(s.Store, "c", "e1", "worked on e1", true)
	s.wantHandled(s.Store, "c", "e2", "worked on e2", true)
	s.wantEffects("after the success", "worked on e1", "worked on e2")
}

func (s *suite[TX]) followUps() {
	l := s.lead("a")
	try := func(id string, fail error) (first bool, err error) {
		err = s.Store.Transact(s.ctx, "c", []string{id}, func(tx TX, f []bool) error {
			if first = f[0]; !first {
				return nil
			}
			if err := s.Store.Append(s.ctx, tx, []surepost.Event{event("because of "+id, "k"), event("also "+id, "k")}); err != nil {
				return err
			}
			return fail
		})
		return first, err
	}
	if _, err := try("e1", errGiveUp); err != errGiveUp {
		s.Errorf("work that fails: %v", err)
	}
	s.wantIDs("after the failure", s.readAll(l, 10))
	for range 2 {
		if _, err := try("e1", nil); err != nil {
			s.Fatal(err)
		}
	}
	s.wantIDs("after the success", s.readAll(l, 10), "because of e1", "also e1")
}

// recordAndEffect cuts the work off in its midst and at random moments: either the record and the effect are there, or
// neither.
func (s *suite[TX]) recordAndEffect() {
	rnd, _ := s.random()
	done := 0
	for n := range 60 {
		id := fmt.Sprint("e", n)
		cut, cancel := context.WithTimeout(s.ctx, time.Duration(rnd.IntN(4000))*time.Microsecond)
		first := false
		err := s.Store.Transact(cut, "c", []string{id}, func(tx TX, f []bool) error {
			first = f[0]
			if n%3 == 0 {
				cancel()
			}
			if err := s.Effect(cut, tx, id); err != nil {
				return err
			}
			if n%3 == 1 {
				cancel()
				return cut.Err()
			}
			return nil
		})
		cancel()
		effects, read := s.Effects(s.ctx)
		s.must("read the effects", read)
		there := slices.Contains(effects, id)
		if err == nil && (!there || !first) {
			s.Fatalf("round %d: Transact went well (first %v), and the effect is there: %v", n, first, there)
		}
		// Whatever became of it, handling it again settles it. This waits for what is still on its way.
		again, err := s.handle(s.Store, "c", id, id)
		s.must("handle again", err)
		if again && there {
			s.Fatalf("round %d: the effect was there, and the event was said to be new", n)
		}
		if !again {
			done++
		}
	}
	effects, err := s.Effects(s.ctx)
	s.must("read the effects", err)
	slices.Sort(effects)
	if n := len(slices.Compact(slices.Clone(effects))); n != 60 || len(effects) != 60 {
		s.Fatalf("there are %d effects of %d events, want 60 of 60", len(effects), n)
	}
	s.Logf("%d of 60 were done at the first try", done)
}

func (s *suite[TX]) copies() {
	stores := []Store[TX]{s.Store, s.Another(s.T)}
	for round := range 8 {
		id := fmt.Sprint("e", round)
		var handled atomic.Int32
		s.all("a copy", 5, func(n int) error {
			first, err := s.handle(stores[n%2], "c", id, id)
			if first {
				handled.Add(1)
			}
			return err
		})
		if handled.Load() != 1 {
			s.Fatalf("%d of 5 copies were handled, want one", handled.Load())
		}
	}
	s.wantEffects("of eight events", "e0", "e1", "e2", "e3", "e4", "e5", "e6", "e7")
}

// inTheWork starts handling an event, and returns when its work has begun. The work ends with the error that is sent.
func (s *suite[TX]) inTheWork(id, name string) (first task, end chan<- error) {
	s.Helper()
	begun, ends := make(chan struct{}), make(chan error, 1)
	first = s.start("the first copy", func() error {
		return s.Store.Transact(s.ctx, "c", []string{id}, func(tx TX, f []bool) error {
			err := s.Effect(s.ctx, tx, name)
			close(begun)
			if err != nil || !f[0] {
				return fmt.Errorf("first is %v, %w", f[0], err)
			}
			select {
			case err := <-ends:
				return err
			case <-s.ctx.Done():
				return s.ctx.Err()
			}
		})
	})
	select {
	case <-begun:
	case <-s.ctx.Done():
		s.Fatal("the work doesn't begin")
	}
	return first, ends
}

func (s *suite[TX]) secondFindsDone() {
	first, end := s.inTheWork("e1", "first")
	other := s.Another(s.T)
	second := s.start("the second copy", func() error {
		isFirst, err := s.handle(other, "c", "e1", "second")
		if err == nil && isFirst {
			err = errors.New("the event is said to be new, and the first copy's work was committed")
		}
		return err
	})
	s.waits(second, "the first")
	end <- nil
	s.must("the first copy", s.ends(first))
	s.must("the second copy", s.ends(second))
	s.wantEffects("of two copies", "first")
}

func (s *suite[TX]) secondWorks() {
	first, end := s.inTheWork("e1", "first")
	other := s.Another(s.T)
	second := s.start("the second copy", func() error {
		isFirst, err := s.handle(other, "c", "e1", "second")
		if err == nil && !isFirst {
			err = errors.New("the event is said to be handled, and the first copy's work has failed")
		}
		return err
	})
	s.waits(second, "the first")
	end <- errGiveUp
	if err := s.ends(first); err != errGiveUp {
		s.Errorf("the first copy: %v, want work's own error", err)
	}
	s.must("the second copy", s.ends(second))
	s.wantEffects("of two copies", "second")
}

func (s *suite[TX]) secondGivesUp() {
	first, end := s.inTheWork("e1", "first")
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	second := s.start("the second copy", func() error {
		return s.Store.Transact(ctx, "c", []string{"e1"}, func(tx TX, _ []bool) error {
			return errors.New("it works while the first copy does")
		})
	})
	s.waits(second, "the first")
	cancel()
	if err := s.ends(second); err == nil {
		s.Error("the second copy: no error, and its context had ended")
	}
	end <- nil
	s.must("the first copy", s.ends(first))
	s.wantHandled(s.Store, "c", "e1", "again", false)
	s.wantEffects("at the end", "first")
}

func (s *suite[TX]) differentEvents() {
	first, end := s.inTheWork("e1", "first")
	var others []task
	for _, c := range []struct{ consumer, id string }{{"c", "e2"}, {"c", "E1"}, {"another", "e1"}} {
		others = append(others, s.start(c.consumer+"'s event "+c.id, func() error {
			isFirst, err := s.handle(s.Store, c.consumer, c.id, c.consumer+" "+c.id)
			if err == nil && !isFirst {
				err = errors.New("it is said to be handled already")
			}
			return err
		}))
	}
	if s.OneWriter { // they do wait, for the one writer
		end <- nil
		s.must("the first event", s.ends(first))
	}
	for _, t := range others {
		s.must(t.what, s.ends(t))
	}
	if !s.OneWriter {
		end <- nil
		s.must("the first event", s.ends(first))
	}
	s.wantEffects("at the end", "first", "c e2", "c E1", "another e1")
}

func (s *suite[TX]) batch() {
	s.wantHandled(s.Store, "c", "e3", "e3", true)
	s.wantHandled(s.Store, "another", "e2", "e2", true)
	try := func(ids []string, want []bool, fail error) {
		s.Helper()
		err := s.Store.Transact(s.ctx, "c", ids, func(tx TX, first []bool) error {
			if !slices.Equal(first, want) {
				s.Errorf("of the batch %q, first is %v, want %v", ids, first, want)
			}
			return fail
		})
		if err != fail {
			s.Fatalf("the batch: %v, want %v", err, fail)
		}
	}
	ids := []string{"e9", "e3", "e1", "e2", "E3"}
	for range 2 {
		try(ids, []bool{true, false, true, true, true}, errGiveUp)
	}
	try(ids, []bool{true, false, true, true, true}, nil)
	try(ids, make([]bool, 5), nil)
	try([]string{"e10", "e9"}, []bool{true, false}, nil)

	large, want := make([]string, 3000), make([]bool, 3000)
	for i := range large {
		large[i], want[i] = fmt.Sprint("large ", (i*7919)%3000), i%2 == 1
	}
	var even []string
	for i := 0; i < len(large); i += 2 {
		even = append(even, large[i])
	}
	try(even, slices.Repeat([]bool{true}, len(even)), nil)
	try(large, want, nil)
}

func (s *suite[TX]) overlap() {
	const workers, each = 6, 12
	_, seed := s.random()
	var mu sync.Mutex
	firsts := map[string]int{}
	s.all("a batch's worker", workers, func(n int) error {
		rnd := newRandom(seed, n)
		for range each {
			ids := make([]string, 20)
			for i, at := range rnd.Perm(40)[:20] {
				ids[i] = fmt.Sprint("event ", at)
			}
			giveUp := rnd.IntN(4) == 0
			var mine []string
			err := s.Store.Transact(s.ctx, "c", ids, func(tx TX, first []bool) error {
				mine = mine[:0]
				for i, id := range ids {
					if first[i] {
						mine = append(mine, id)
						if err := s.Effect(s.ctx, tx, id); err != nil {
							return err
						}
					}
				}
				if giveUp {
					return errGiveUp
				}
				return nil
			})
			if giveUp && err == errGiveUp {
				continue
			}
			if err != nil {
				return err
			}
			mu.Lock()
			for _, id := range mine {
				firsts[id]++
			}
			mu.Unlock()
		}
		return nil
	})
	var want []string
	for id, n := range firsts {
		if n != 1 {
			s.Errorf("%s was new to %d batches", id, n)
		}
		want = append(want, id)
	}
	s.wantEffects("of overlapping batches", want...)
}

// failedCommit ends the context between the work and the commit. What then became of the transaction is open, but not
// that it was committed if Transact says so.
func (s *suite[TX]) failedCommit() {
	for n := range 10 {
		id := fmt.Sprint("e", n)
		ctx, cancel := context.WithCancel(s.ctx)
		err := s.Store.Transact(ctx, "c", []string{id}, func(tx TX, _ []bool) error {
			if err := s.Effect(s.ctx, tx, "first "+id); err != nil {
				return err
			}
			cancel()
			return nil
		})
		cancel()
		again, retried := s.handle(s.Store, "c", id, "second "+id)
		s.must("handle again", retried)
		if err == nil && again {
			s.Fatalf("round %d: Transact reported no error, and the event is new", n)
		}
		effects, read := s.Effects(s.ctx)
		s.must("read the effects", read)
		if slices.Contains(effects, "first "+id) == again || slices.Contains(effects, "second "+id) != again {
			s.Fatalf("round %d: Transact returned %v, the event is new: %v, and the effects are %q", n, err, again, effects)
		}
	}
}

func (s *suite[TX]) record() {
	store, ok := s.Store.(interface {
		Record(ctx context.Context, tx TX, consumer, eventID string) (bool, error)
	})
	if !ok {
		s.Log("the store has no method Record, which is its choice")
		return
	}
	record := func(tx TX, consumer, id string, want bool) {
		s.Helper()
		if first, err := store.Record(s.ctx, tx, consumer, id); err != nil || first != want {
			s.Fatalf("record %s for %s: first is %v (%v), want %v", id, consumer, first, err, want)
		}
	}
	for _, end := range []func(TX){s.rollback, s.commit} {
		tx := s.begin()
		record(tx, "c", "e1", true)
		record(tx, "c", "e1", false)
		record(tx, "another", "e1", true)
		second := s.start("another transaction's record", func() error {
			return s.transact(func(tx TX) error {
				_, err := store.Record(s.ctx, tx, "c", "e1")
				return errors.Join(err, errGiveUp)
			})
		})
		s.waits(second, "the first's end")
		end(tx)
		if err := s.ends(second); !errors.Is(err, errGiveUp) {
			s.Error(err)
		}
	}
	tx := s.begin()
	record(tx, "c", "e1", false)
	record(tx, "c", "e2", true)
	s.commit(tx)
	s.wantHandled(s.Store, "c", "e2", "again", false)
	s.wantHandled(s.Store, "c", "e3", "e3", true)
}

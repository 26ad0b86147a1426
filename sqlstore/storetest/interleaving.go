package storetest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// interleavings runs writers, a reader and its take-overs by turns, in an order drawn from a seed, and compares all that
// is read with what must be. It is one goroutine, so that a seed repeats a run exactly.
func (s *suite[TX]) interleavings() {
	rnd, _ := s.random()
	w := &turns[TX]{
		suite: s, rnd: rnd, most: 6, log: s.lead("a"), holder: map[string]*draft[TX]{}, version: map[string]int{},
		committed: map[string]bool{}, settled: map[string]bool{}, handed: map[string]bool{}, seqs: map[int64]string{},
	}
	if s.OneWriter {
		w.most = 1
	}
	const steps = 400
	for range steps {
		switch p := rnd.IntN(100); {
		case p < 35:
			w.write()
		case p < 60:
			w.end(rnd.IntN(10) < 7)
		case p < 85:
			w.read(1 + rnd.IntN(6))
		case p < 95:
			w.checkpoint()
		default:
			w.takeOver()
		}
	}
	for len(w.open) > 0 {
		w.end(true)
	}
	w.finish()
	w.takeOver() // and what isn't settled comes again
	w.finish()
	w.compare()
}

// turns is what one interleaving does and knows.
type turns[TX any] struct {
	*suite[TX]
	rnd  *rand.Rand
	most int // open transactions
	n    int // of events that were written

	open      []*draft[TX]
	holder    map[string]*draft[TX] // of keys: its writers serialise, as the order per key asks
	version   map[string]int        // the newest of each key
	committed map[string]bool

	log     relay.Log
	pages   []relay.Page // of this log, not settled
	handed  map[string]bool
	highest int64           // number that this log has handed out
	settled map[string]bool // behind the checkpoint
	first   []relay.Entry   // first occurrences over all logs
	seqs    map[int64]string
}

// draft is an open transaction.
type draft[TX any] struct {
	tx     TX
	events []string
	keys   map[string]int // versions that it found
}

const keysInTurns = 5

func (w *turns[TX]) write() {
	var d *draft[TX]
	if len(w.open) < w.most && (len(w.open) == 0 || w.rnd.IntN(2) == 0) {
		d = &draft[TX]{tx: w.begin(), keys: map[string]int{}}
		w.open = append(w.open, d)
	} else {
		d = w.open[w.rnd.IntN(len(w.open))]
	}
	var events []surepost.Event
	for range 1 + w.rnd.IntN(3) {
		w.n++
		e := event("e"+strconv.Itoa(w.n), "")
		key := "k" + strconv.Itoa(w.rnd.IntN(keysInTurns))
		if other := w.holder[key]; other == nil || other == d {
			if other == nil {
				w.holder[key], d.keys[key] = d, w.version[key]
			}
			w.version[key]++
			e.Key = key
			e.Data = json.RawMessage(strconv.Itoa(w.version[key]))
		}
		events = append(events, e)
		d.events = append(d.events, e.ID)
	}
	w.append(d.tx, events...)
}

func (w *turns[TX]) end(well bool) {
	if len(w.open) == 0 {
		return
	}
	i := w.rnd.IntN(len(w.open))
	d := w.open[i]
	w.open = slices.Delete(w.open, i, i+1)
	for key, found := range d.keys {
		delete(w.holder, key)
		if !well {
			w.version[key] = found
		}
	}
	if !well {
		w.rollback(d.tx)
		return
	}
	w.commit(d.tx)
	for _, id := range d.events {
		w.committed[id] = true
	}
}

func (w *turns[TX]) read(most int) (full bool) {
	w.Helper()
	page := w.suite.read(w.log, most)
	for i, entry := range page.Entries {
		id := entry.Event.ID
		switch {
		case !w.committed[id]:
			w.Fatalf("event %s was read, and isn't committed", id)
		case w.handed[id]:
			w.Fatalf("event %s was read twice from one log", id)
		case w.settled[id]:
			w.Fatalf("event %s was read again behind the checkpoint that passed it", id)
		case w.seqs[entry.Seq] != "" && w.seqs[entry.Seq] != id:
			w.Fatalf("events %s and %s have the same number %d", id, w.seqs[entry.Seq], entry.Seq)
		case i >= page.Stragglers && entry.Seq < w.highest:
			w.Fatalf("event %s with the number %d came behind ones up to %d, and isn't counted by Stragglers (%d)",
				id, entry.Seq, w.highest, page.Stragglers)
		}
		w.handed[id] = true
		if w.seqs[entry.Seq] == "" {
			w.seqs[entry.Seq] = id
			w.first = append(w.first, entry)
		}
	}
	for _, entry := range page.Entries {
		w.highest = max(w.highest, entry.Seq)
	}
	w.pages = append(w.pages, page)
	return page.Full
}

// mayStore reports whether something other than the open transactions may write.
func (w *turns[TX]) mayStore() bool { return !w.OneWriter || len(w.open) == 0 }

func (w *turns[TX]) checkpoint() {
	if len(w.pages) == 0 || !w.mayStore() {
		return
	}
	n := 1 + w.rnd.IntN(len(w.pages))
	w.suite.checkpoint(w.log, w.pages[n-1].After)
	for _, page := range w.pages[:n] {
		for _, id := range ids(page.Entries) {
			w.settled[id] = true
		}
	}
	w.pages = w.pages[n:]
}

// takeOver opens the log at its checkpoint, as the same owner or after a release as another, with this store or another.
func (w *turns[TX]) takeOver() {
	if !w.mayStore() {
		return
	}
	w.must("close the log", w.log.Close(w.ctx))
	store := w.Store
	if w.rnd.IntN(2) == 0 {
		store = w.Another(w.T)
	}
	w.log = w.openLog(store, w.acquire(store, lane, "a"))
	w.pages, w.handed, w.highest = nil, map[string]bool{}, 0
}

// finish reads all that is left, and looks whether this log has handed out everything behind its checkpoint.
func (w *turns[TX]) finish() {
	w.Helper()
	for n := 0; w.read(20); n++ {
		if n > 1000 {
			w.Fatal("after a thousand pages the log says that there may be more")
		}
	}
	for id := range w.committed {
		if !w.handed[id] && !w.settled[id] {
			w.Fatalf("event %s was committed, and never read", id)
		}
	}
}

// compare looks at the order of each key's first occurrences.
func (w *turns[TX]) compare() {
	w.Helper()
	for n := range keysInTurns {
		key := "k" + strconv.Itoa(n)
		next := 1
		for _, entry := range w.first {
			if entry.Event.Key != key {
				continue
			}
			raw, _ := entry.Event.RawData() // what cannot be marshalled isn't the version that is wanted
			if string(raw) != strconv.Itoa(next) {
				w.Fatalf("of key %s, version %s was read first where version %d must come", key, raw, next)
			}
			next++
		}
	}
	if len(w.first) != len(w.committed) {
		w.Fatalf("%d events were read, and %d committed", len(w.first), len(w.committed))
	}
}

// soak writes from many goroutines, which serialise by locked keys, and reads meanwhile, with checkpoints and
// take-overs.
func (s *suite[TX]) soak() {
	const writers, each, keys = 6, 25, 4
	_, seed := s.random()
	var (
		mu         sync.Mutex
		version    = map[string]int{}      // drawn by whoever holds the key
		committed  = map[string]bool{}     // ids
		rolledBack = map[string]bool{}     // ids
		first      = map[string][]string{} // versions by key
		seen       = map[string]bool{}
	)
	one := func(rnd *rand.Rand) error {
		key := "k" + strconv.Itoa(rnd.IntN(keys))
		giveUp := rnd.IntN(5) == 0
		id := surepost.NewID()
		err := s.transact(func(tx TX) error {
			if err := s.Store.LockKeys(s.ctx, tx, []string{key}); err != nil {
				return err
			}
			mu.Lock()
			version[key]++
			e := event(id, key)
			e.Data = json.RawMessage(strconv.Itoa(version[key]))
			mu.Unlock()
			if err := s.Store.Append(s.ctx, tx, []surepost.Event{e}); err != nil {
				return err
			}
			if giveUp {
				return errGiveUp
			}
			return nil
		})
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			committed[id] = true
		case giveUp && err == errGiveUp:
			rolledBack[id] = true
			return nil
		}
		return err
	}
	var tasks []task
	for n := range writers {
		tasks = append(tasks, s.start(fmt.Sprint("writer ", n), func() error {
			rnd := newRandom(seed, n)
			for range each {
				if err := one(rnd); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	done := make(chan error, 1)
	go func() {
		var err error
		for _, t := range tasks {
			if e := <-t.done; e != nil {
				err = e
			}
		}
		done <- err
	}()

	rnd := rand.New(rand.NewPCG(seed, 2))
	l := s.lead("a")
	handed := map[string]bool{} // by this log
	take := func(page relay.Page) {
		for _, entry := range page.Entries {
			id := entry.Event.ID
			if handed[id] {
				s.Fatalf("event %s was read twice from one log", id)
			}
			handed[id] = true
			if !seen[id] {
				seen[id] = true
				raw, _ := entry.Event.RawData() // compared below
				first[entry.Event.Key] = append(first[entry.Event.Key], string(raw))
			}
		}
	}
	for writing := true; writing; {
		select {
		case err := <-done:
			s.must("a writer", err)
			writing = false
		case <-s.ctx.Done():
			s.Fatal("the writers hang")
		default:
			page := s.read(l, 1+rnd.IntN(20))
			take(page)
			switch p := rnd.IntN(10); {
			case p < 3:
				s.checkpoint(l, page.After)
			case p == 3:
				l = s.reopen(l, "a")
				handed = map[string]bool{}
			}
		}
	}
	for full := true; full; {
		page := s.read(l, 20)
		take(page)
		full = page.Full
	}
	for id := range committed {
		if !seen[id] {
			s.Errorf("event %s was committed, and never read", id)
		}
	}
	for id := range rolledBack {
		if seen[id] {
			s.Errorf("event %s was rolled back, and read", id)
		}
	}
	for key, versions := range first {
		last := 0
		for _, text := range versions {
			if n, err := strconv.Atoi(text); err != nil || n <= last {
				s.Fatalf("of key %s, version %s was read first after version %d", key, text, last)
			} else {
				last = n
			}
		}
	}
}

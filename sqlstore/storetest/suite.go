package storetest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// suite is one promise's test, and the hands that it works with. Its methods fail the test by themselves and must be
// called by the test's goroutine; others use the Backend.
type suite[TX any] struct {
	*testing.T
	Backend[TX]
	ctx context.Context
}

// must fails the test if what was done went wrong.
func (s *suite[TX]) must(doing string, err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s: %v", doing, err)
	}
}

// begin opens a transaction, which is rolled back at the end if it is still open.
func (s *suite[TX]) begin() TX {
	s.Helper()
	tx, err := s.Begin(s.ctx)
	s.must("begin a transaction", err)
	s.Cleanup(func() { _ = s.Rollback(context.Background(), tx) })
	return tx
}

func (s *suite[TX]) append(tx TX, events ...surepost.Event) {
	s.Helper()
	s.must("append events", s.Store.Append(s.ctx, tx, events))
}

func (s *suite[TX]) commit(tx TX) {
	s.Helper()
	s.must("commit", s.Commit(s.ctx, tx))
}

func (s *suite[TX]) rollback(tx TX) {
	s.Helper()
	s.must("roll back", s.Rollback(s.ctx, tx))
}

// write appends events in a transaction of their own.
func (s *suite[TX]) write(events ...surepost.Event) {
	s.Helper()
	tx := s.begin()
	s.append(tx, events...)
	s.commit(tx)
}

// transact runs work in a transaction; unlike the suite's other hands it may be used by any goroutine.
func (s *suite[TX]) transact(work func(tx TX) error) error {
	tx, err := s.Begin(s.ctx)
	if err != nil {
		return err
	}
	defer func() { _ = s.Rollback(context.WithoutCancel(s.ctx), tx) }() // nothing to do after a commit
	if err := work(tx); err != nil {
		return err
	}
	return s.Commit(s.ctx, tx)
}

// lane is the one that most tests read.
var lane = relay.Lane{Destination: relay.DefaultDestination, Index: 0, Of: 1}

// long is a lease's time that no test outlives.
const long = 10 * time.Minute

func (s *suite[TX]) acquire(store relay.Store, lane relay.Lane, owner string) relay.Lease {
	s.Helper()
	lease, err := store.Acquire(s.ctx, lane, owner, long)
	s.must(fmt.Sprintf("acquire lane %s as %s", lane, owner), err)
	return lease
}

// openLog opens the log of a lease and closes it at the end.
func (s *suite[TX]) openLog(store relay.Store, lease relay.Lease) relay.Log {
	s.Helper()
	l, err := store.Open(s.ctx, lease)
	s.must("open the log of lane "+lease.Lane.String(), err)
	s.Cleanup(func() { _ = l.Close(context.Background()) })
	return l
}

// lead takes the lane's lease anew as owner and opens its log.
func (s *suite[TX]) lead(owner string) relay.Log {
	s.Helper()
	return s.openLog(s.Store, s.acquire(s.Store, lane, owner))
}

// reopen closes the log and leads anew, as after an error.
func (s *suite[TX]) reopen(l relay.Log, owner string) relay.Log {
	s.Helper()
	s.must("close the log", l.Close(s.ctx))
	return s.lead(owner)
}

func (s *suite[TX]) read(l relay.Log, most int) relay.Page {
	s.Helper()
	page, err := l.Read(s.ctx, most)
	s.must("read the log", err)
	if len(page.Entries) > most {
		s.Fatalf("a page has %d events, the limit was %d", len(page.Entries), most)
	}
	return page
}

// readAll reads until a page says that there is no more.
func (s *suite[TX]) readAll(l relay.Log, most int) []relay.Entry {
	s.Helper()
	var all []relay.Entry
	for empty := 0; ; {
		page := s.read(l, most)
		all = append(all, page.Entries...)
		if !page.Full {
			return all
		}
		if len(page.Entries) > 0 {
			empty = 0
		} else if empty++; empty > 100 {
			s.Fatal("a hundred pages in a row were empty, and said that there may be more")
		}
	}
}

func (s *suite[TX]) checkpoint(l relay.Log, at relay.Position, parked ...relay.Parked) {
	s.Helper()
	s.must("checkpoint", l.Checkpoint(s.ctx, at, parked))
}

// wantIDs demands entries of these ids, in this order.
func (s *suite[TX]) wantIDs(what string, got []relay.Entry, want ...string) {
	s.Helper()
	if have := ids(got); !slices.Equal(have, want) {
		s.Fatalf("%s: got the events %s, want %s", what, shorten(have), shorten(want))
	}
}

// wantEffects demands that exactly these were committed, in any order.
func (s *suite[TX]) wantEffects(what string, want ...string) {
	s.Helper()
	got, err := s.Effects(s.ctx)
	s.must("read the effects", err)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		s.Fatalf("%s: the committed effects are %s, want %s", what, shorten(got), shorten(want))
	}
}

// task is something that a goroutine does meanwhile.
type task struct {
	what string
	done chan error
}

// start runs work in a goroutine. The test doesn't end before it does, unless it hangs.
func (s *suite[TX]) start(what string, work func() error) task {
	t := task{what, make(chan error, 1)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t.done <- work()
	}()
	s.Cleanup(func() {
		select {
		case <-ended:
		case <-time.After(min(limit, 10*time.Second)):
			s.Errorf("%s goes on although its context has ended", what)
		}
	})
	return t
}

// waits demands that the task doesn't end by itself.
func (s *suite[TX]) waits(t task, for_ string) {
	s.Helper()
	select {
	case err := <-t.done:
		s.Fatalf("%s didn't wait for %s: it ended with %v", t.what, for_, err)
	case <-time.After(grace):
	}
}

// ends waits for the task and returns its error.
func (s *suite[TX]) ends(t task) error {
	s.Helper()
	select {
	case err := <-t.done:
		return err
	case <-s.ctx.Done():
		s.Fatalf("%s hangs", t.what)
		return nil
	}
}

// all runs work n times at once and waits for all of them, each of which must go well.
func (s *suite[TX]) all(what string, n int, work func(n int) error) {
	s.Helper()
	tasks := make([]task, n)
	for i := range n {
		tasks[i] = s.start(fmt.Sprintf("%s, number %d", what, i), func() error { return work(i) })
	}
	for _, t := range tasks {
		if err := s.ends(t); err != nil {
			s.Errorf("%s: %v", t.what, err)
		}
	}
	if s.Failed() {
		s.FailNow()
	}
}

// random returns a generator whose seed is logged.
func (s *suite[TX]) random() (rnd *rand.Rand, seed uint64) {
	seed = uint64(time.Now().UnixNano())
	if given, err := strconv.ParseUint(os.Getenv("SUREPOST_SEED"), 10, 64); err == nil {
		seed = given
	}
	s.Logf("SUREPOST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 1)), seed
}

// newRandom returns the generator of one of several goroutines.
func newRandom(seed uint64, n int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(n)+10)) }

// event returns a complete, valid event, as the outbox hands it to a store.
func event(id, key string) surepost.Event {
	text, _ := json.Marshal(id) // a string
	return surepost.Event{
		ID: id, Type: "Changed", Time: time.Date(2024, 1, 15, 10, 30, 0, 123456000, time.UTC), Version: "1.0",
		Source: "storetest", CorrelationID: id, Key: key, Data: json.RawMessage(`{"id":` + string(text) + `}`),
	}
}

// numbered returns events prefix0, prefix1 … of a few keys.
func numbered(prefix string, n int) []surepost.Event {
	events := make([]surepost.Event, n)
	for i := range events {
		events[i] = event(prefix+strconv.Itoa(i), "key "+strconv.Itoa(i%3))
	}
	return events
}

func ids(entries []relay.Entry) []string {
	list := make([]string, len(entries))
	for i := range entries {
		list[i] = entries[i].Event.ID
	}
	return list
}

func idsOf(events []surepost.Event) []string {
	list := make([]string, len(events))
	for i := range events {
		list[i] = events[i].ID
	}
	return list
}

// shorten makes a list readable.
func shorten(list []string) string {
	const most = 30
	if len(list) > most {
		return fmt.Sprintf("%q and %d more", list[:most], len(list)-most)
	}
	return fmt.Sprintf("%q", list)
}

// differences says in which fields a read event isn't what was written.
func differences(got, want surepost.Event) string {
	var found []string
	field := func(name, got, want string) {
		if got != want {
			found = append(found, fmt.Sprintf("%s is %s, written was %s", name, quote(got), quote(want)))
		}
	}
	field("ID", got.ID, want.ID)
	field("Type", got.Type, want.Type)
	field("Time", got.Time.Format(time.RFC3339Nano), want.Time.Format(time.RFC3339Nano)) // UTC, whatever the location's name
	field("Version", got.Version, want.Version)
	field("Source", got.Source, want.Source)
	field("CorrelationID", got.CorrelationID, want.CorrelationID)
	field("CausationID", got.CausationID, want.CausationID)
	field("Key", got.Key, want.Key)
	field("Category", string(got.Category), string(want.Category))
	if _, ok := got.Data.(json.RawMessage); !ok {
		found = append(found, fmt.Sprintf("Data is a %T, not a json.RawMessage", got.Data))
	}
	gotData, err := got.RawData()
	if err != nil {
		found = append(found, err.Error())
	}
	wantData, _ := want.RawData() // of the suite's own making
	field("Data", string(gotData), string(wantData))
	for _, key := range slices.Sorted(maps.Keys(want.Headers)) {
		field("Headers["+quote(key)+"]", got.Headers[key], want.Headers[key])
	}
	if len(got.Headers) != len(want.Headers) {
		found = append(found, fmt.Sprintf("there are %d headers, written were %d", len(got.Headers), len(want.Headers)))
	}
	return strings.Join(found, "; ")
}

func quote(s string) string {
	const most = 300
	if len(s) > most {
		return fmt.Sprintf("%q… (%d bytes)", s[:most], len(s))
	}
	return strconv.Quote(s)
}

package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// replayer is what the PostgreSQL stores offer of destinations and replays.
type replayer interface {
	relay.Store
	Destinations(ctx context.Context) ([]relay.Destination, error)
	CreateDestination(ctx context.Context, name string, from relay.Start) error
	RemoveDestination(ctx context.Context, name string) error
	CreateReplay(ctx context.Context, name string, filter relay.EventFilter, by string) (relay.Destination, error)
	CountEvents(ctx context.Context, filter relay.EventFilter) (map[string]int64, error)
	Events(ctx context.Context, filter relay.EventFilter, after int64, limit int) ([]relay.Entry, error)
}

var (
	_ replayer = (*pgxstore.Store)(nil)
	_ replayer = (*sqlstore.Store)(nil)
)

// takes is a broker that takes everything, and remembers it.
type takes struct {
	down atomic.Bool

	mu     sync.Mutex
	events []surepost.Event
	each   func(n int) // called with the number of events taken so far
}

func (b *takes) taken() []surepost.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.events)
}

func (b *takes) Open(context.Context) (relay.Session, error) {
	if b.down.Load() {
		return nil, errors.New("the broker is down")
	}
	return &takesSession{broker: b, outcomes: make(chan []relay.Outcome, 1<<16), changed: make(chan struct{})}, nil
}

type takesSession struct {
	broker   *takes
	outcomes chan []relay.Outcome
	changed  chan struct{}
}

func (s *takesSession) Send(_ context.Context, tag uint64, e *relay.Entry) error {
	s.broker.mu.Lock()
	s.broker.events = append(s.broker.events, e.Event)
	n, each := len(s.broker.events), s.broker.each
	s.broker.mu.Unlock()
	if each != nil {
		each(n)
	}
	s.outcomes <- []relay.Outcome{{Tag: tag, Status: relay.Confirmed}}
	return nil
}

func (s *takesSession) Outcomes() <-chan []relay.Outcome         { return s.outcomes }
func (s *takesSession) Blocked() (bool, string, <-chan struct{}) { return false, "", s.changed }
func (s *takesSession) Err() error                               { return nil }
func (s *takesSession) Close(context.Context) error              { return nil }

// runReplay runs a relay of the replay until it is done, and returns what it published.
func runReplay(t *testing.T, store relay.Store, name string, config relay.Config) []surepost.Event {
	t.Helper()
	broker := &takes{}
	runReplayTo(t, store, name, config, broker)
	return broker.taken()
}

func runReplayTo(t *testing.T, store relay.Store, name string, config relay.Config, broker relay.Publisher) relay.Report {
	t.Helper()
	config.Destination, config.Replay, config.Logger = name, true, logger(t)
	r, err := relay.New(store, broker, config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := r.Run(ctx); err != nil || ctx.Err() != nil || !r.Report().Done {
		t.Fatalf("replay %q: Run ended with %v, the minute with %v, and the report is %+v", name, err, ctx.Err(), r.Report())
	}
	return r.Report()
}

func replayOf(t *testing.T, store replayer, name string) relay.Replay {
	t.Helper()
	list, err := store.Destinations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		if d.Name == name && d.Replay != nil {
			return *d.Replay
		}
	}
	t.Fatalf("there is no replay %q in %+v", name, list)
	return relay.Replay{}
}

func wantNoError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// destinationIDs reads all that a destination's lane has to read, and returns the ids.
func destinationIDs(t *testing.T, store relay.Store, name string) []string {
	t.Helper()
	lease, err := store.Acquire(t.Context(), relay.Lane{Destination: name, Of: 1}, "reader", time.Minute)
	wantNoError(t, err)
	log, err := store.Open(t.Context(), lease)
	wantNoError(t, err)
	defer log.Close(context.Background())
	return idsOf(readAll(t, log, 3))
}

func idsOf(entries []relay.Entry) []string {
	ids := make([]string, len(entries))
	for i := range entries {
		ids[i] = entries[i].Event.ID
	}
	return ids
}

func TestADestinationBeginsWhereItIsTold(t *testing.T) {
	t.Parallel()
	pool, pgxStore := newPool(t)
	db := openSQL(t, "pgx", pool.Config().ConnString())
	box := newBox(t, pgxStore)
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(id string, minute int) surepost.Event {
		return surepost.Event{ID: id, Type: "T", Key: id, Time: noon.Add(time.Duration(minute) * time.Minute)}
	}
	write(t, pool, box, at("e0", 0), at("e1", 1), at("e2", 2))
	late, never := begin(t, pool), begin(t, pool)
	wantNoError(t, box.Write(t.Context(), late, at("late", 0)))
	wantNoError(t, box.Write(t.Context(), never, at("never", 9)))
	write(t, pool, box, at("e3", 3), at("backdated", 1), at("e4", 4))
	for driver, store := range map[string]replayer{"pgx": pgxStore, "sql": newSQLStore(t, db)} {
		for name, from := range map[string]relay.Start{
			"beginning": relay.FromBeginning(), "now": relay.FromNow(),
			"early": relay.FromTime(noon.Add(-time.Hour)), "3": relay.FromTime(noon.Add(3 * time.Minute)), "idle": relay.FromTime(noon.Add(5 * time.Minute)),
		} {
			wantNoError(t, store.CreateDestination(t.Context(), driver+" "+name, from))
		}
	}
	write(t, pool, box, at("after", 0))
	wantNoError(t, late.Commit(t.Context()))
	wantNoError(t, never.Rollback(t.Context()))
	for _, driver := range []string{"pgx", "sql"} {
		for name, want := range map[string]string{
			"beginning": "e0 e1 e2 late e3 backdated e4 after",
			"early":     "late e0 e1 e2 e3 backdated e4 after", // a straggler to some: it committed after the start was looked for
			"3":         "late e3 backdated e4 after",
			"idle":      "late after",
			"now":       "late after",
		} {
			got := destinationIDs(t, pgxStore, driver+" "+name)
			if name == "early" { // late lies behind the start, or before it
				slices.Sort(got)
				w := strings.Fields(want)
				slices.Sort(w)
				want = strings.Join(w, " ")
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%s: the destination that begins at %s got %v, want %s", driver, name, got, want)
			}
		}
	}

	for name, c := range map[string]struct {
		name string
		from relay.Start
		is   error
		word string
	}{
		"a name that is taken":    {"pgx now", relay.FromNow(), relay.ErrDestinationExists, "choose another name"},
		"the future":              {"new", relay.FromTime(time.Now().Add(time.Hour)), nil, "yet to come"},
		"no name":                 {"", relay.FromNow(), nil, "is empty"},
		"a name of a NUL":         {"a\x00", relay.FromNow(), nil, "NUL"},
		"a name that is too long": {strings.Repeat("ä", 128), relay.FromNow(), nil, "256 bytes"},
	} {
		err := pgxStore.CreateDestination(t.Context(), c.name, c.from)
		if err == nil || !strings.Contains(err.Error(), c.word) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := count(t, pool, "SELECT count(*) FROM surepost_destination"); n != 10 {
		t.Errorf("there are %d destinations, want the 10 that were created", n)
	}
}

// Destinations are created at random moments while transactions of all lengths write: what commits after the call comes,
// what had committed before a FromNow doesn't, and nothing comes twice.
func TestANewDestinationMissesNothingThatCommitsAfterIt(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	type span struct{ from, to time.Time } // of the COMMIT
	var mu sync.Mutex
	commits := map[string]span{}
	ctx, cancel := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	for w := range 6 {
		writers.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(w), uint64(time.Now().UnixNano())))
			for n := 0; ctx.Err() == nil; n++ {
				tx, err := pool.Begin(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				id := fmt.Sprint(w, ".", n)
				if err := box.Write(t.Context(), tx, surepost.Event{ID: id, Type: "T"}); err != nil {
					t.Error(err)
					return
				}
				time.Sleep(time.Duration(rnd.IntN(1<<rnd.IntN(12))) * 10 * time.Microsecond) // up to 40 ms, mostly less
				if rnd.IntN(8) == 0 {
					_ = tx.Rollback(t.Context())
					continue
				}
				from := time.Now()
				if err := tx.Commit(t.Context()); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				commits[id] = span{from, time.Now()}
				mu.Unlock()
			}
		})
	}
	calls := map[string]span{}
	for n := range 60 {
		name, from := fmt.Sprint("now ", n), relay.FromNow()
		if n%2 == 1 {
			name, from = fmt.Sprint("time ", n), relay.FromTime(time.Now().Add(-10*time.Millisecond))
		}
		began := time.Now()
		wantNoError(t, store.CreateDestination(t.Context(), name, from))
		calls[name] = span{began, time.Now()}
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	writers.Wait()
	for name, call := range calls {
		lease, err := store.Acquire(t.Context(), relay.Lane{Destination: name, Of: 1}, "reader", time.Minute)
		wantNoError(t, err)
		log, err := store.Open(t.Context(), lease)
		wantNoError(t, err)
		got := map[string]bool{}
		for _, id := range idsOf(readAll(t, log, 100)) {
			if got[id] {
				t.Errorf("%s: %s came twice", name, id)
			}
			got[id] = true
		}
		_ = log.Close(t.Context())
		missed, early := 0, 0
		for id, c := range commits {
			if c.from.After(call.to) && !got[id] {
				missed++
			}
			if strings.HasPrefix(name, "now") && c.to.Before(call.from) && got[id] {
				early++
			}
		}
		if missed > 0 || early > 0 {
			t.Errorf("%s: %d of %d events that committed after it are missing, %d from before it came", name, missed, len(commits), early)
		}
	}
}

// replayLog writes n events of a few types, keys, sources and flows, over three hours.
func replayable(t *testing.T, pool *pgxpool.Pool, store outbox.Store[pgx.Tx], n int) []surepost.Event {
	t.Helper()
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	events := make([]surepost.Event, n)
	for i := range events {
		events[i] = surepost.Event{
			ID: fmt.Sprint("e", i), Type: []string{"Created", "Changed", "Deleted"}[i%3], Key: []string{"", "a", "b", `c "\`, "d"}[i%5],
			Source: []string{"orders", "billing"}[i/2%2], CorrelationID: []string{"", "flow"}[i/7%2], Version: "1.0",
			Time: noon.Add(time.Duration(i) * 3 * time.Hour / time.Duration(n)).Truncate(time.Microsecond), Data: i,
		}
		if i%4 == 0 {
			events[i].Headers = map[string]string{"tenant": "t"}
		}
	}
	write(t, pool, newBox(t, store), events...)
	for i := range events {
		if events[i].CorrelationID == "" {
			events[i].CorrelationID = events[i].ID
		}
	}
	return events
}

// The filter is the same to a dry run, a listing and the replay itself, with one lane and with several: what
// relay.EventFilter.Matches says.
func TestAReplayPublishesWhatItsFilterSelects(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	events := replayable(t, pool, store, 700)
	at := func(i int) time.Time { return events[i].Time }
	filters := map[string]relay.EventFilter{
		"everything":   {},
		"a type":       {Types: []string{"Created"}},
		"types":        {Types: []string{"Created", "Deleted", "Unheard of"}},
		"a key":        {Keys: []string{`c "\`}},
		"a source":     {Sources: []string{"billing"}},
		"an id":        {IDs: []string{"e42"}},
		"ids":          {IDs: []string{"e699", "e0", "missing"}},
		"a flow":       {CorrelationID: "flow"},
		"its own flow": {CorrelationID: "e0"},
		"since":        {Since: at(500)},
		"until":        {Until: at(10)},
		"a range":      {Since: at(100).Add(-time.Nanosecond), Until: at(200).Add(time.Nanosecond)},
		"no more":      {Since: at(100).Add(time.Nanosecond), Until: at(200).Add(-time.Nanosecond)},
		"many fields":  {Types: []string{"Changed"}, Keys: []string{"a", "b"}, Sources: []string{"orders"}, CorrelationID: "flow", Since: at(50), Until: at(650)},
	}
	for name, filter := range filters {
		t.Run(name, func(t *testing.T) {
			want := map[string]surepost.Event{}
			byType := map[string]int64{}
			for _, e := range events {
				if filter.Matches(&e) {
					want[e.ID] = e
					byType[e.Type]++
				}
			}
			if len(want) == 0 {
				t.Fatal("the test's filter selects nothing")
			}
			counts, err := store.CountEvents(t.Context(), filter)
			if err != nil || !maps.Equal(counts, byType) {
				t.Errorf("the dry run counts %v (%v), want %v", counts, err, byType)
			}
			listed, err := store.Events(t.Context(), filter, 0, 10_000)
			if err != nil || len(listed) != len(want) {
				t.Errorf("%d events are listed (%v), want %d", len(listed), err, len(want))
			}
			for _, e := range listed {
				if w, ok := want[e.Event.ID]; !ok || mustJSON(e.Event) != mustJSON(w) {
					t.Fatalf("listed is %s, want %s", mustJSON(e.Event), mustJSON(w))
				}
			}
			for _, lanes := range []int{1, 3} {
				replay := fmt.Sprint(name, ", ", lanes, " lanes")
				d, err := store.CreateReplay(t.Context(), replay, filter, "alice")
				wantNoError(t, err)
				if d.Name != replay || d.Replay == nil || d.Replay.CreatedBy != "alice" || d.CreatedAt.IsZero() {
					t.Errorf("created was %+v", d)
				}
				wantNoError(t, store.SetLanes(t.Context(), replay, lanes))
				published := runReplay(t, store, replay, relay.Config{PageEvents: 17})
				if len(published) != len(want) {
					t.Errorf("%d lanes: %d events were published, want %d", lanes, len(published), len(want))
				}
				last := map[string]int{}
				for _, e := range published {
					w := relay.Replayed(want[e.ID], replay)
					if mustJSON(e) != mustJSON(w) || e.Headers[relay.HeaderReplay] != replay || len(e.Headers) != len(w.Headers) {
						t.Fatalf("%d lanes: published was %s %v, want %s %v", lanes, mustJSON(e), e.Headers, mustJSON(w), w.Headers)
					}
					var n int
					_, err := fmt.Sscanf(e.ID, "e%d", &n)
					wantNoError(t, err)
					if e.Key != "" && n < last[e.Key] {
						t.Fatalf("%d lanes: %s after e%d of the same key", lanes, e.ID, last[e.Key])
					}
					last[e.Key] = n
				}
				stored := replayOf(t, store, replay)
				if stored.DoneAt.IsZero() || mustJSON(stored.Filter) != mustJSON(utc(filter)) || stored.CreatedBy != "alice" {
					t.Errorf("%d lanes: after it, the store has %+v", lanes, stored)
				}
				if again := runReplay(t, store, replay, relay.Config{}); len(again) != 0 {
					t.Errorf("%d lanes: %d events were published by a second run", lanes, len(again))
				}
			}
		})
	}
	for _, page := range [][2]int{{0, 5}, {5, 300}, {690, 100}} {
		listed, err := store.Events(t.Context(), relay.EventFilter{}, int64(page[0]), page[1])
		if want := min(page[1], 700-page[0]); err != nil || len(listed) != want || listed[0].Seq != int64(page[0]+1) {
			t.Errorf("behind %d: %d events from %d (%v), want %d", page[0], len(listed), listed[0].Seq, err, want)
		}
	}
}

// Whatever the driver makes of parameters and times, the answers are the same.
func TestReplaysAreTheSameWithEveryDriver(t *testing.T) {
	t.Parallel()
	pool, pgxStore := newPool(t)
	events := replayable(t, pool, pgxStore, 300)
	url := pool.Config().ConnString()
	stores := map[string]replayer{"pgxstore": pgxStore}
	for _, driver := range []string{"pgx", "postgres"} {
		stores[driver] = newSQLStore(t, openSQL(t, driver, url))
	}
	filter := relay.EventFilter{
		Types: []string{"Changed", "Deleted"}, Keys: []string{`c "\`, "a", "d"}, Sources: []string{"orders"},
		Since: events[5].Time.Add(time.Nanosecond).Local(), Until: events[250].Time.In(time.FixedZone("", -9*3600)),
	}
	want := map[string]bool{}
	for _, e := range events {
		if filter.Matches(&e) {
			want[e.ID] = true
		}
	}
	for driver, store := range stores {
		counts, err := store.CountEvents(t.Context(), filter)
		if err != nil || counts["Changed"]+counts["Deleted"] != int64(len(want)) {
			t.Errorf("%s counts %v (%v), want %d", driver, counts, err, len(want))
		}
		listed, err := store.Events(t.Context(), filter, 0, 1000)
		if err != nil || len(listed) != len(want) {
			t.Errorf("%s lists %d (%v), want %d", driver, len(listed), err, len(want))
		}
		_, err = store.CreateReplay(t.Context(), driver, filter, driver)
		wantNoError(t, err)
		for _, e := range runReplay(t, store, driver, relay.Config{}) {
			if !want[e.ID] || e.Headers[relay.HeaderReplay] != driver {
				t.Errorf("%s published %s with the headers %v", driver, e.ID, e.Headers)
			}
		}
		stored := replayOf(t, store, driver)
		if mustJSON(stored.Filter) != mustJSON(utc(filter)) || stored.DoneAt.IsZero() || stored.CreatedBy != driver {
			t.Errorf("%s has stored %+v", driver, stored)
		}
		wantNoError(t, store.CreateDestination(t.Context(), "ordinary "+driver, relay.FromTime(events[100].Time)))
		if got := destinationIDs(t, store, "ordinary "+driver); len(got) != 200 || got[0] != events[100].ID {
			t.Errorf("%s: a destination from the hundredth event on got %d", driver, len(got))
		}
		wantNoError(t, store.RemoveDestination(t.Context(), driver))
	}
}

func utc(f relay.EventFilter) relay.EventFilter {
	f.Since, f.Until = f.Since.UTC(), f.Until.UTC()
	return f
}

func TestAReplayOfNothingChangesNothing(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	if _, err := store.CreateReplay(t.Context(), "of an empty log", relay.EventFilter{}, ""); !errors.Is(err, relay.ErrNothingSelected) {
		t.Errorf("of an empty log: %v", err)
	}
	events := replayable(t, pool, store, 10)
	wantNoError(t, store.CreateDestination(t.Context(), "taken", relay.FromNow()))
	for name, c := range map[string]struct {
		name   string
		filter relay.EventFilter
		is     error
		word   string
	}{
		"an inverted range":    {"r", relay.EventFilter{Since: noon.Add(1), Until: noon}, nil, "exchange them"},
		"an empty range":       {"r", relay.EventFilter{Since: noon, Until: noon}, nil, "both"},
		"a range with nothing": {"r", relay.EventFilter{Since: noon.Add(-time.Hour), Until: noon.Add(-time.Minute)}, relay.ErrNothingSelected, "check"},
		"an unknown type":      {"r", relay.EventFilter{Types: []string{"Creatd"}}, relay.ErrNothingSelected, "check"},
		"an empty type":        {"r", relay.EventFilter{Types: []string{""}}, nil, "Types[0] is empty"},
		"a name that is taken": {"taken", relay.EventFilter{}, relay.ErrDestinationExists, "another name"},
		"no name":              {"", relay.EventFilter{}, nil, "is empty"},
		"many mistakes":        {"r", relay.EventFilter{Keys: []string{"\xff"}, Since: events[1].Time, Until: events[0].Time}, nil, "Keys[0]"},
	} {
		_, err := store.CreateReplay(t.Context(), c.name, c.filter, "")
		if err == nil || !strings.Contains(err.Error(), c.word) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v", name, err)
		}
		if c.name != "r" || c.is != nil {
			continue
		}
		if _, err := store.CountEvents(t.Context(), c.filter); err == nil {
			t.Errorf("%s is counted", name)
		}
		if _, err := store.Events(t.Context(), c.filter, 0, 10); err == nil {
			t.Errorf("%s is listed", name)
		}
	}
	if n := count(t, pool, "SELECT (SELECT count(*) FROM surepost_destination) + (SELECT count(*) FROM surepost_checkpoint)"); n != 2 {
		t.Errorf("%d rows are left, want the 2 of the destination that is taken", n)
	}
}

// dying is a store as a process sees it that may die at any time: then nothing more of what it does reaches the database.
type dying struct {
	*pgxstore.Store
	dead atomic.Bool
}

var errDead = errors.New("this process is dead")

func (d *dying) Renew(ctx context.Context, lease relay.Lease, ttl time.Duration) error {
	if d.dead.Load() {
		return errDead
	}
	return d.Store.Renew(ctx, lease, ttl)
}

func (d *dying) Release(ctx context.Context, lease relay.Lease) error {
	if d.dead.Load() {
		return errDead
	}
	return d.Store.Release(ctx, lease)
}

func (d *dying) Leave(ctx context.Context, destination, owner, instance string) error {
	if d.dead.Load() {
		return errDead
	}
	return d.Store.Leave(ctx, destination, owner, instance)
}

func (d *dying) Open(ctx context.Context, lease relay.Lease) (relay.Log, error) {
	l, err := d.Store.Open(ctx, lease)
	return &dyingLog{l, d}, err
}

type dyingLog struct {
	relay.Log
	process *dying
}

func (l *dyingLog) Checkpoint(ctx context.Context, at relay.Position, parked []relay.Parked) error {
	if l.process.dead.Load() {
		return errDead
	}
	return l.Log.Checkpoint(ctx, at, parked)
}

// Killed again and again, a replay is resumed by the next relay where the last checkpoint stands.
func TestAReplayThatIsKilledGoesOn(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	events := replayable(t, pool, store, 3000)
	_, err := store.CreateReplay(t.Context(), "again", relay.EventFilter{Types: []string{"Changed", "Deleted"}}, "")
	wantNoError(t, err)
	broker := &takes{}
	config := relay.Config{Destination: "again", Replay: true, LeaseTTL: time.Second, PageEvents: 20, Logger: logger(t), CheckpointInterval: time.Millisecond}
	for life := range 3 {
		process := &dying{Store: store}
		r, err := relay.New(process, broker, config)
		wantNoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		before := len(broker.taken())
		broker.mu.Lock()
		broker.each = func(n int) {
			if n == before+500 {
				process.dead.Store(true)
				cancel()
			}
		}
		broker.mu.Unlock()
		if err := r.Run(ctx); err != nil {
			t.Fatalf("life %d: %v", life, err)
		}
		if r.Report().Done {
			t.Fatalf("life %d came to the end", life)
		}
		if at := replayOf(t, store, "again").DoneAt; !at.IsZero() {
			t.Fatalf("life %d: done at %v", life, at)
		}
		cancel()
	}
	broker.mu.Lock()
	broker.each = nil
	broker.mu.Unlock()
	last := runReplayTo(t, store, "again", relay.Config{LeaseTTL: time.Second}, broker)
	times := map[string]int{}
	for _, e := range broker.taken() {
		times[e.ID]++
	}
	twice := 0
	for _, e := range events {
		switch n := times[e.ID]; {
		case e.Type != "Created" && n == 0:
			t.Errorf("%s was never published", e.ID)
		case e.Type == "Created" && n > 0:
			t.Errorf("%s isn't part of the replay", e.ID)
		case n > 1:
			twice++
		}
	}
	if twice == 0 || twice > 1200 || last.Published > 1500 {
		t.Errorf("%d events came more than once, and the last run published %d: it must go on from a checkpoint", twice, last.Published)
	}
	if replayOf(t, store, "again").DoneAt.IsZero() {
		t.Error("it isn't marked as done")
	}
}

// Two relays share the lanes of a replay; each returns when all lanes have come to their end, whoever published them. A
// third, which never has a lane of its own, does so too.
func TestRelaysOfAReplayEndTogether(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	events := replayable(t, pool, store, 2000)
	_, err := store.CreateReplay(t.Context(), "shared", relay.EventFilter{}, "")
	wantNoError(t, err)
	wantNoError(t, store.SetLanes(t.Context(), "shared", 2))
	broker := &takes{}
	var all sync.WaitGroup
	var published atomic.Int64
	for range 3 {
		all.Go(func() {
			rp := runReplayTo(t, store, "shared", relay.Config{LeaseTTL: 2 * time.Second, MaxEventsPerSecond: 500}, broker)
			published.Add(rp.Published)
		})
	}
	all.Wait()
	ids := map[string]bool{}
	for _, e := range broker.taken() {
		ids[e.ID] = true
	}
	if len(ids) != len(events) || published.Load() < 2000 || replayOf(t, store, "shared").DoneAt.IsZero() {
		t.Errorf("%d of %d events were published, %d times in all, and the store has %+v", len(ids), len(events), published.Load(), replayOf(t, store, "shared"))
	}
	if n := count(t, pool, "SELECT count(*) FROM surepost_relay WHERE destination = 'shared'"); n != 0 {
		t.Errorf("%d relays are left", n)
	}
	wantNoError(t, store.CreateDestination(t.Context(), "other", relay.FromNow()))
	wantNoError(t, store.RemoveDestination(t.Context(), "shared")) // at once: nobody's lease is left
}

// It is done when its last lane is, and not sooner; what was parked and is tried again is marked as well.
func TestAReplayIsDoneWithItsLastLane(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	replayable(t, pool, store, 40)
	_, err := store.CreateReplay(t.Context(), "again", relay.EventFilter{Keys: []string{"a", "b", "d"}}, "")
	wantNoError(t, err)
	wantNoError(t, store.SetLanes(t.Context(), "again", 3))
	for n := range 3 {
		if at := replayOf(t, store, "again").DoneAt; !at.IsZero() {
			t.Fatalf("done at %v, with %d of 3 lanes", at, n)
		}
		lease, err := store.Acquire(t.Context(), relay.Lane{Destination: "again", Index: n, Of: 3}, "a", time.Minute)
		wantNoError(t, err)
		log, err := store.Open(t.Context(), lease)
		wantNoError(t, err)
		page, err := log.Read(t.Context(), 100)
		wantNoError(t, err)
		var parked []relay.Parked
		for _, e := range page.Entries {
			parked = append(parked, relay.Parked{Entry: e, Reason: "x"})
		}
		if !page.Done || page.Full {
			t.Errorf("lane %d: the first page has %d events and isn't the last", n, len(page.Entries))
		}
		wantNoError(t, log.Checkpoint(t.Context(), page.After, parked))
		_, err = pool.Exec(t.Context(), "UPDATE surepost_parked SET retry_at = now()") // as an operator does
		wantNoError(t, err)
		released, err := log.Released(t.Context(), 100)
		wantNoError(t, err)
		if len(released) != len(parked) {
			t.Errorf("lane %d: %d events were parked, and %d are released", n, len(parked), len(released))
		}
		for _, e := range released {
			if e.Event.Headers[relay.HeaderReplay] != "again" {
				t.Fatalf("lane %d: a parked event comes back with the headers %v", n, e.Event.Headers)
			}
		}
		_ = log.Close(t.Context())
	}
	if replayOf(t, store, "again").DoneAt.IsZero() {
		t.Error("with all lanes at the end it isn't done")
	}
}

// A replay is of what was committed when it was created: what commits later, and be its number lower, is left to the
// destinations that follow the log.
func TestWhatCommitsLateIsNoPartOfAReplay(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	event := func(id string) surepost.Event { return surepost.Event{ID: id, Type: "T", Key: id} }
	write(t, pool, box, event("e0"))
	late, open := begin(t, pool), begin(t, pool)
	wantNoError(t, box.Write(t.Context(), late, event("late")))
	wantNoError(t, box.Write(t.Context(), open, event("open")))
	write(t, pool, box, event("e1"))
	_, err := store.CreateReplay(t.Context(), "again", relay.EventFilter{}, "")
	wantNoError(t, err)
	wantNoError(t, late.Commit(t.Context()))
	write(t, pool, box, event("after"))
	var got []string
	for _, e := range runReplay(t, store, "again", relay.Config{}) { // it doesn't wait for the transaction that is open
		got = append(got, e.ID)
	}
	if strings.Join(got, " ") != "e0 e1" {
		t.Errorf("the replay published %v, want e0 e1", got)
	}
	wantNoError(t, open.Commit(t.Context()))
	if got := destinationIDs(t, store, "default"); strings.Join(got, " ") != "e0 late open e1 after" {
		t.Errorf("the log has %v", got)
	}
}

// One log feeds two brokers, of which the one is away for as long as it likes.
func TestTwoDestinationsDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	away, there := &takes{}, &takes{}
	away.down.Store(true)
	relays := map[string]*relay.Relay{}
	for name, broker := range map[string]*takes{"away": away, "there": there} {
		wantNoError(t, store.CreateDestination(t.Context(), name, relay.FromBeginning()))
		r, err := relay.New(store, broker, relay.Config{Destination: name, Logger: logger(t), BackoffMax: 200 * time.Millisecond})
		wantNoError(t, err)
		background(t, r.Run)
		relays[name] = r
	}
	events := replayable(t, pool, store, 500)
	eventually(t, "the one destination has all", func() bool { return len(there.taken()) == len(events) })
	if n := len(away.taken()); n != 0 {
		t.Fatalf("the broker that is away has %d events", n)
	}
	away.down.Store(false)
	eventually(t, "the other has all, too", func() bool { return len(away.taken()) == len(events) })
	for i, e := range away.taken() {
		if _, marked := e.Headers[relay.HeaderReplay]; marked {
			t.Fatalf("event %d is marked as a replay's", i)
		}
	}
}

// eventually waits until it is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after a minute it is still not so that %s", what)
		}
	}
}

// Ten events of three hundred thousand are found in steps, none of which reads more of the log than a window's rows, and a
// gap in the numbers costs nothing.
func TestAReplayOfAFewReadsALongLogInSteps(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	execSQL(t, pool, `INSERT INTO surepost_outbox (time, slot, id, type, version, source, key, data)
		SELECT now(), n % 1024, 'e' || n, CASE WHEN n % 30000 = 5 THEN 'Rare' ELSE 'T' END, '1.0', 's', 'k' || n % 5000, '{}' FROM generate_series(1, 300000) n`,
		"SELECT setval('surepost_sequence', 40000000000)")
	write(t, pool, newBox(t, store), surepost.Event{ID: "last", Type: "Rare"})
	before := scannedRows(t, pool)
	execSQL(t, pool, "UPDATE surepost_outbox SET type = '' WHERE seq = 200002") // as somebody may have written it by hand
	counts, err := store.CountEvents(t.Context(), relay.EventFilter{})
	if err != nil || counts["Rare"] != 11 || counts["T"] != 299_989 || counts[""] != 1 {
		t.Errorf("counted %v (%v)", counts, err)
	}
	filter := relay.EventFilter{Types: []string{"Rare"}}
	_, err = store.CreateReplay(t.Context(), "rare", filter, "")
	wantNoError(t, err)
	lease, err := store.Acquire(t.Context(), relay.Lane{Destination: "rare", Of: 1}, "a", time.Minute)
	wantNoError(t, err)
	log, err := store.Open(t.Context(), lease)
	wantNoError(t, err)
	t.Cleanup(func() { _ = log.Close(context.Background()) })
	fetched := func() int { // rows of the log that were looked at
		scannedRows(t, pool) // waits for the statistics
		return count(t, pool, "SELECT sum(coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables WHERE relname LIKE 'surepost\\_outbox\\__'")
	}
	var got []relay.Entry
	reads, rows := 0, fetched()
	for {
		page, err := log.Read(t.Context(), 250)
		wantNoError(t, err)
		got, reads = append(got, page.Entries...), reads+1
		if page.Done {
			break
		}
		if !page.Full {
			t.Fatal("a page without an end says that there is no more")
		}
	}
	rows = fetched() - rows
	if len(got) != 11 || got[10].Event.ID != "last" {
		t.Errorf("%d events came, want 11", len(got))
	}
	if reads < 30 || reads > 32 || rows > 310_000 {
		t.Errorf("%d reads looked at %d rows, want 31 reads of 10,000", reads, rows)
	}
	if n := scannedRows(t, pool) - before; n > 0 {
		t.Errorf("%d rows of the log were scanned from end to end", n)
	}
	execSQL(t, pool, "ANALYZE surepost_outbox")
	if counts, err := store.CountEvents(t.Context(), filter); err != nil || counts["Rare"] != 11 {
		t.Errorf("counted %v (%v)", counts, err)
	}
	if listed, err := store.Events(t.Context(), filter, 0, 100); err != nil || len(listed) != 11 {
		t.Errorf("%d are listed (%v)", len(listed), err)
	}
	if n := scannedRows(t, pool) - before; n > 0 {
		t.Errorf("after ANALYZE, %d rows of the log were scanned from end to end", n)
	}
}

func TestADestinationIsOnlyRemovedWhereNothingIsLost(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	replayable(t, pool, store, 20)
	refused := func(name, word string) {
		t.Helper()
		before := count(t, pool, "SELECT count(*) FROM surepost_destination")
		if err := store.RemoveDestination(t.Context(), name); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("removing %q: %v, want a mention of %q", name, err, word)
		}
		if n := count(t, pool, "SELECT count(*) FROM surepost_destination"); n != before {
			t.Errorf("%d of %d destinations are left", n, before)
		}
	}
	refused("default", "list of destinations") // there is none yet
	wantNoError(t, store.CreateDestination(t.Context(), "first", relay.FromBeginning()))
	_, err := store.CreateReplay(t.Context(), "again", relay.EventFilter{}, "")
	wantNoError(t, err)
	refused("first", "successor")
	wantNoError(t, store.CreateDestination(t.Context(), "second", relay.FromNow()))

	r, err := relay.New(store, &takes{}, relay.Config{Destination: "first", Owner: "me", LeaseTTL: time.Second, Logger: logger(t)})
	wantNoError(t, err)
	stop := background(t, r.Run)
	eventually(t, "the relay leads", func() bool { return r.Report().Published == 20 })
	refused("first", "in use by me")
	stop()
	execSQL(t, pool, `INSERT INTO surepost_parked (destination, seq, key, slot, behind, reason, time, id, type, version, source, data)
		VALUES ('first', 1, '', 0, false, 'x', now(), 'e', 'T', '1.0', 's', '{}')`)
	refused("first", "1 parked events")
	_, err = pool.Exec(t.Context(), "DELETE FROM surepost_parked")
	wantNoError(t, err)
	wantNoError(t, store.RemoveDestination(t.Context(), "first"))
	refused("first", "list of destinations")
	if n := count(t, pool, `SELECT (SELECT count(*) FROM surepost_checkpoint WHERE destination = 'first')
		+ (SELECT count(*) FROM surepost_lease WHERE destination = 'first') + (SELECT count(*) FROM surepost_relay WHERE destination = 'first')`); n != 0 {
		t.Errorf("%d rows of the removed destination are left", n)
	}
	refused("second", "successor")
	if got := destinationIDs(t, store, "second"); len(got) != 0 {
		t.Errorf("the other destination got %v", got)
	}

	// A replay that is cancelled isn't taken for a new destination by a relay that comes late.
	wantNoError(t, store.RemoveDestination(t.Context(), "again"))
	broker := &takes{}
	late, err := relay.New(store, broker, relay.Config{Destination: "again", Replay: true, Logger: logger(t)})
	wantNoError(t, err)
	if err := late.Run(t.Context()); !errors.Is(err, relay.ErrHalt) || !errors.Is(err, relay.ErrNoDestination) || len(broker.taken()) != 0 {
		t.Errorf("the late relay ended with %v, and published %d events", err, len(broker.taken()))
	}
	refused("again", "list of destinations")
}

// Of the last two destinations only one is removed, however it comes together.
func TestTheLastDestinationStaysWhoeverRemovesIt(t *testing.T) {
	t.Parallel()
	_, store := newPool(t)
	for n := range 10 {
		a, b := fmt.Sprint("a", n), fmt.Sprint("b", n)
		wantNoError(t, store.CreateDestination(t.Context(), a, relay.FromNow()))
		wantNoError(t, store.CreateDestination(t.Context(), b, relay.FromNow()))
		list, err := store.Destinations(t.Context())
		wantNoError(t, err)
		var removed atomic.Int64
		var both sync.WaitGroup
		for _, d := range list {
			both.Go(func() {
				if store.RemoveDestination(t.Context(), d.Name) == nil {
					removed.Add(1)
				}
			})
		}
		both.Wait()
		if list, err = store.Destinations(t.Context()); err != nil || len(list) != 1 {
			t.Fatalf("round %d: %d destinations are left (%v), %d were removed", n, len(list), err, removed.Load())
		}
	}
}

// A replay goes to an exchange of its own, or straight to a queue: who is bound to the usual exchange sees nothing of it,
// and who gets it sees that it is one.
func TestAReplayGoesWhereItIsSentAndSaysSo(t *testing.T) {
	t.Parallel()
	env := harness.Start(t, harness.Postgres(), harness.RabbitMQ())
	pool, store := poolOn(t, env.Postgres.URL())
	events := replayable(t, pool, store, 60)
	ch := amqpChannel(t, env.RabbitMQ.URL())
	bindQueue(t, ch, "usual", nil)
	wantNoError(t, ch.ExchangeDeclare("repair", "topic", true, false, false, false, nil))
	for _, queue := range []string{"repaired", "direct"} {
		_, err := ch.QueueDeclare(queue, true, false, false, false, nil)
		wantNoError(t, err)
	}
	wantNoError(t, ch.QueueBind("repaired", "#", "repair", false, nil))
	for queue, routing := range map[string]amqp.Routing{"repaired": {Exchange: "repair"}, "direct": {Queue: "direct"}} {
		_, err := store.CreateReplay(t.Context(), "to "+queue, relay.EventFilter{Keys: []string{"a"}}, "")
		wantNoError(t, err)
		config := publisherConfig(env.RabbitMQ.URL())
		config.Routing = routing
		publisher, err := amqp.NewPublisher(config)
		wantNoError(t, err)
		runReplayTo(t, store, "to "+queue, relay.Config{}, publisher)
		want := []string{}
		for _, e := range events {
			if e.Key == "a" {
				want = append(want, e.ID)
			}
		}
		got := []string{}
		for range want {
			d, ok, err := ch.Get(queue, true)
			if err != nil || !ok {
				t.Fatalf("%s: after %v there is no message more (%v)", queue, got, err)
			}
			e, err := amqp.EventFromDelivery(d)
			wantNoError(t, err)
			if e.Headers[relay.HeaderReplay] != "to "+queue {
				t.Errorf("%s: the consumer sees the headers %v", queue, e.Headers)
			}
			got = append(got, e.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", queue, got, want)
		}
		for _, other := range []string{"usual", queue} {
			var d amqp091.Delivery
			if d, ok, err := ch.Get(other, true); err != nil || ok {
				t.Errorf("queue %s has %v too (%v)", other, d.MessageId, err)
			}
			_ = d
		}
	}
}

package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/relay"
)

// failover is a flow whose producers and relays work with a primary and a standby by one URL with both hosts. The
// consumer's database is on another server.
type failover struct {
	flow
	primary, standby *harness.PostgresServer
}

func newFailover(t *testing.T) *failover {
	t.Helper()
	shared := harness.Start(t, harness.Postgres(), harness.RabbitMQ())
	f := &failover{primary: harness.Start(t, harness.Postgres(harness.Private(), harness.Image("none"))).Postgres}
	f.standby = f.primary.NewStandby(t)
	f.mq = shared.RabbitMQ
	f.open(t, f.primary.FailoverURL(f.standby), shared.Postgres.NewDatabase(t))
	return f
}

// failOver is what a cluster manager does: it makes sure that the primary is dead, then promotes the standby.
func (f *failover) failOver(t *testing.T) {
	t.Helper()
	f.primary.Kill(t)
	f.standby.Promote(t)
}

// A synchronous standby has everything that anybody was told of: nothing is lost and nothing is a ghost.
func TestAFailoverToASynchronousStandbyLosesNothing(t *testing.T) {
	t.Parallel()
	f := newFailover(t)
	execSQL(t, f.producer, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
	awaitTrue(t, f.producer, "the standby is synchronous", "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')")
	f.startConsumer(t)
	first, _ := f.startRelay(t)
	second, _ := f.startRelay(t)
	stop := f.keepProducing(t, 4)
	f.awaitPublished(t, 200, first, second)
	f.failOver(t)
	before := first.Report().Published + second.Report().Published
	f.awaitPublished(t, before+200, first, second)
	stop()
	n := f.settled(t, 30*time.Second)
	if got := count(t, f.producer, "SELECT count(*) FROM surepost_outbox"); got != n {
		t.Errorf("%d events in the log, %d changes", got, n)
	}
	t.Logf("%d events, %+v", n, first.Report())
}

// awaitPublished waits until the relays have published so many events in all.
func (f *failover) awaitPublished(t *testing.T, want int64, relays ...*relay.Relay) {
	t.Helper()
	awaitFor(t, fmt.Sprintf("%d events are published", want), func() bool {
		var sum int64
		for _, r := range relays {
			sum += int64(r.Report().Published)
		}
		return sum >= want
	})
}

func awaitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within two minutes: %s", what)
		}
	}
}

func awaitTrue(t *testing.T, pool *pgxpool.Pool, what, query string) {
	t.Helper()
	awaitFor(t, what, func() bool {
		var yes bool
		return pool.QueryRow(t.Context(), query).Scan(&yes) == nil && yes
	})
}

// An asynchronous standby lacks the tail. What was committed there alone is lost with its server, and what was published
// of it are the ghosts of this failover. But everything that is committed on the new primary is published, although
// its numbers and its transactions' ids were drawn before, and the relay's cursor had passed them.
func TestAFailoverThatLosesTheTailSkipsNothing(t *testing.T) {
	t.Parallel()
	for _, relayOutlivesIt := range []bool{true, false} {
		name := "relay runs on"
		if !relayOutlivesIt {
			name = "relay comes back later"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFailover(t)
			effects := f.startLedger(t)
			r, stopRelay := f.startRelay(t)
			kept := f.writeRounds(t, 5)
			effects.await(t, kept)
			// The standby may have got the relay's own checkpoints, too; it must have all of the events.
			awaitTrue(t, f.producer, "the standby has it all",
				"SELECT bool_and(replay_lsn >= pg_current_wal_lsn()) FROM pg_stat_replication")

			f.standby.Disconnect(t)
			ghosts := f.writeRounds(t, 20)
			effects.await(t, ghosts)
			awaitCheckpoint(t, f.producer)
			lost := rowsOf(t, f.producer, ghosts)
			if !relayOutlivesIt {
				stopRelay()
			}
			f.failOver(t)

			after := f.writeRounds(t, 25)
			if !relayOutlivesIt {
				r, _ = f.startRelay(t)
			}
			effects.await(t, after)
			committed := idsIn(t, f.producer)
			if want := append(slices.Clone(kept), after...); !slices.Equal(sorted(committed), sorted(want)) {
				t.Fatalf("%d events on the new primary, want %d: the test lost its premise", len(committed), len(want))
			}
			effects.check(t, committed, ghosts)

			var seqs, txs int
			for _, row := range rowsOf(t, f.producer, after) {
				for _, other := range lost {
					if row.seq == other.seq {
						seqs++
					}
					if row.tx == other.tx {
						txs++
					}
				}
			}
			if seqs == 0 || txs == 0 {
				t.Errorf("%d numbers and %d transaction ids were drawn twice: without any, this shows nothing", seqs, txs)
			}
			t.Logf("%d kept, %d ghosts, %d after; %d numbers and %d transaction ids drawn twice; %+v",
				len(kept), len(ghosts), len(after), seqs, txs, r.Report())
		})
	}
}

// writeRounds writes events of 8 keys, each in a transaction of its own, rounds of 10 a key. It tries again for as long
// as the database is away, and returns the ids of what was committed.
func (f *failover) writeRounds(t *testing.T, rounds int) (ids []string) {
	t.Helper()
	var mu sync.Mutex
	var group sync.WaitGroup
	for key := range 8 {
		group.Go(func() {
			for range rounds {
				id := surepost.NewID()
				for {
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
					err := pgx.BeginFunc(ctx, f.producer, func(tx pgx.Tx) error {
						var c changed
						c.Key = fmt.Sprint("k", key)
						if err := tx.QueryRow(ctx, "UPDATE aggregate SET version = version + 1 WHERE key = $1 RETURNING version", c.Key).Scan(&c.Version); err != nil {
							return err
						}
						return f.box.Write(ctx, tx, surepost.Event{ID: id, Type: "Changed", Key: c.Key, Data: c})
					})
					cancel()
					if err == nil {
						break
					}
					if t.Context().Err() != nil {
						return
					}
					time.Sleep(20 * time.Millisecond)
				}
				mu.Lock()
				ids = append(ids, id)
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return ids
}

// awaitCheckpoint waits until the relay has stored that it has passed everything.
func awaitCheckpoint(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	awaitTrue(t, pool, "the checkpoint has passed everything",
		"SELECT (SELECT max(hot) FROM surepost_checkpoint) >= (SELECT max(seq) FROM surepost_outbox)")
}

type logRow struct {
	seq int64
	tx  string
}

func rowsOf(t *testing.T, pool *pgxpool.Pool, ids []string) map[string]logRow {
	t.Helper()
	rows, err := pool.Query(t.Context(), "SELECT id, seq, tx::text FROM surepost_outbox WHERE id = ANY ($1)", ids)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]logRow{}
	for rows.Next() {
		var id string
		var row logRow
		if err := rows.Scan(&id, &row.seq, &row.tx); err != nil {
			t.Fatal(err)
		}
		found[id] = row
	}
	if rows.Err() != nil || len(found) == 0 {
		t.Fatalf("%d rows, %v", len(found), rows.Err())
	}
	return found
}

func idsIn(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), "SELECT id FROM surepost_outbox")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func sorted(ids []string) []string {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return ids
}

// ledger is what a consumer has done, by event.
type ledger struct {
	mu      sync.Mutex
	effects map[string]int
	order   []effect
}

type effect struct {
	id string
	changed
}

// startLedger starts a consumer that notes each event, in memory and once per event, which the inbox sees to.
func (f *failover) startLedger(t *testing.T) *ledger {
	t.Helper()
	l := &ledger{effects: map[string]int{}}
	in := newInbox(t, f.inbox, "ledger")
	in.On("Changed", func(_ context.Context, _ pgx.Tx, e surepost.Event) error {
		var c changed
		if err := json.Unmarshal(e.Data.(json.RawMessage), &c); err != nil {
			return err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.effects[e.ID]++
		l.order = append(l.order, effect{e.ID, c})
		return nil
	})
	connected := make(chan struct{}, 100)
	c, err := amqp.NewConsumer(amqp.ConsumerConfig{
		Connection: amqp.Connection{URLs: f.urls()}, Queue: "ledger", Types: in.Types(), Handler: in, Logger: logger(t),
		Hooks: amqp.ConsumerHooks{OnConnect: func() { connected <- struct{}{} }},
	})
	if err != nil {
		t.Fatal(err)
	}
	background(t, c.Run)
	<-connected
	return l
}

// await waits until all of these events had their effect.
func (l *ledger) await(t *testing.T, ids []string) {
	t.Helper()
	awaitFor(t, fmt.Sprintf("%d events have their effect", len(ids)), func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return !slices.ContainsFunc(ids, func(id string) bool { return l.effects[id] == 0 })
	})
}

// check demands that each committed event had one effect, in order per key, and that the others are ghosts that are
// accounted for.
func (l *ledger) check(t *testing.T, committed, ghosts []string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	real, ghost := map[string]bool{}, map[string]bool{}
	for _, id := range committed {
		real[id] = true
		if l.effects[id] != 1 {
			t.Errorf("event %s had %d effects", id, l.effects[id])
		}
	}
	for _, id := range ghosts {
		ghost[id] = true
	}
	versions := map[string]int{}
	for _, e := range l.order {
		switch {
		case real[e.id]:
			if e.Version != versions[e.Key]+1 {
				t.Errorf("key %s: version %d after %d", e.Key, e.Version, versions[e.Key])
			}
			versions[e.Key] = e.Version
		case !ghost[e.id]:
			t.Errorf("event %s was never committed", e.id)
		}
	}
}

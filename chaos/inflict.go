package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/relay"
)

// tally is what has gone wrong so far. It is safe for concurrent use.
type tally struct {
	mu      sync.Mutex
	done    map[string]int // by kind
	fizzled map[string]int // that found nothing to hit
	ended   time.Time      // the last one
	emptied int            // leaves of the log's ring that were truncated
	failed  []string       // what the faults themselves could not put right again
}

func (t *tally) note(f fault, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done == nil {
		t.done, t.fizzled = map[string]int{}, map[string]int{}
	}
	if err != nil {
		t.fizzled[f.kind.name]++
	} else {
		t.done[f.kind.name]++
	}
	t.ended = time.Now()
}

func (t *tally) total() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, count := range t.done {
		n += count
	}
	return n
}

// wreck carries out the plan. It returns when all faults are over.
func (st *stage) wreck(ctx context.Context, faults []fault, say func(format string, args ...any)) {
	began := time.Now()
	locks := map[string]*sync.Mutex{} // by resource: a fault that takes longer than planned holds up the next of its target
	for _, f := range faults {
		for _, name := range f.resources() {
			locks[name] = &sync.Mutex{}
		}
	}
	var group sync.WaitGroup
	defer group.Wait()
	for _, f := range faults {
		if !pause(ctx, time.Until(began.Add(f.at))) {
			return
		}
		group.Go(func() {
			for _, name := range f.resources() { // sorted: nobody waits for each other
				locks[name].Lock()
				defer locks[name].Unlock()
			}
			if ctx.Err() != nil {
				return
			}
			say("%s", f)
			err := st.inflict(ctx, f)
			st.tally.note(f, err)
			if err != nil {
				say("        %s of %.1fs came to nothing: %v", f.kind.name, f.at.Seconds(), err)
			}
		})
	}
}

// pause waits, and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// statementLimit bounds what a fault has the database do.
const statementLimit = 20 * time.Second

// inflict does one fault, and undoes it when its time is over. An error means that it came to nothing.
func (st *stage) inflict(ctx context.Context, f fault) error {
	// What is begun is undone, even if the run is interrupted.
	firm := context.WithoutCancel(ctx)
	limited, cancel := context.WithTimeout(firm, f.lasts+statementLimit)
	defer cancel()
	way := harness.Direction(f.draw % 2)
	links := st.linksOf(f.target)
	each := func(do func(*harness.Proxy)) {
		for _, proxy := range links {
			do(proxy)
		}
	}
	// during breaks something, waits, and mends it.
	during := func(breaks, mends func() error) error {
		if err := breaks(); err != nil {
			return err
		}
		pause(ctx, f.lasts)
		return st.mend(f, mends)
	}
	onLinks := func(breaks, mends func(*harness.Proxy)) error {
		return during(func() error { each(breaks); return nil }, func() error { each(mends); return nil })
	}
	if err := st.await(ctx, f.kind); err != nil {
		return err
	}
	switch f.kind.name {
	case "kill":
		p := st.processes[f.target]
		return during(p.kill, p.start)
	case "freeze", "lease-long-pause":
		var thaw func()
		return during(func() (err error) { thaw, err = st.processes[f.target].freeze(); return err },
			func() error { thaw(); return nil })

	case "cut":
		return onLinks((*harness.Proxy).Cut, func(*harness.Proxy) {})
	case "cut-unnoticed-by-server": // until the network, in the end, tells it
		return onLinks((*harness.Proxy).CutClients, (*harness.Proxy).Cut)
	case "cut-unnoticed-by-client":
		return onLinks((*harness.Proxy).CutServers, (*harness.Proxy).Cut)
	case "stall":
		return onLinks(func(p *harness.Proxy) { p.Stall() }, func(p *harness.Proxy) { p.Resume() })
	case "stall-one-way":
		return onLinks(func(p *harness.Proxy) { p.Stall(way) }, func(p *harness.Proxy) { p.Resume(way) })
	case "half-close":
		return onLinks(func(p *harness.Proxy) { p.HalfClose(way) }, func(*harness.Proxy) {})
	case "trickle":
		return onLinks(func(p *harness.Proxy) { p.Bandwidth(4 << 10) }, func(p *harness.Proxy) { p.Bandwidth(0) })
	case "latency":
		return onLinks(func(p *harness.Proxy) { p.Latency(30*time.Millisecond, 100*time.Millisecond) },
			func(p *harness.Proxy) { p.Latency(0, 0) })
	case "refuse":
		return onLinks(func(p *harness.Proxy) { p.Refuse(); p.Cut() }, (*harness.Proxy).Accept)

	case "terminate-backends":
		return st.terminate(limited, 1+int(f.draw%12))
	case "postgres-crash":
		return during(func() error { return st.postgres.Kill(firm) }, func() error { return st.postgres.Start(firm) })
	case "postgres-immediate-shutdown":
		return during(func() error { return st.shutDownAtOnce(limited) }, func() error { return st.postgres.Start(firm) })
	case "postgres-freeze":
		return during(func() error { return st.postgres.Pause(firm) }, func() error { return st.postgres.Unpause(firm) })
	case "long-writer":
		return st.writeLong(ctx, limited, f.lasts)
	case "prepared-transaction":
		return during(func() error { return st.prepare(limited) }, func() error { return st.commitPrepared(firm) })
	case "long-reader":
		return st.readLong(ctx, limited, f.lasts)
	case "vacuum":
		return st.vacuum(limited, f.draw)
	case "truncate":
		return st.truncate(ctx, limited, f.lasts)
	case "change-lanes":
		return st.store.SetLanes(limited, relay.DefaultDestination, 1+int(f.draw%6))

	case "rabbitmq-crash":
		return during(func() error { return st.rabbitmq.Kill(firm) }, func() error { return st.rabbitmq.Start(firm) })
	case "rabbitmq-freeze":
		return during(func() error { return st.rabbitmq.Pause(firm) }, func() error { return st.rabbitmq.Unpause(firm) })
	case "memory-alarm":
		alarm := func(raised bool) func() error {
			return func() error { return st.env.RabbitMQ.SetAlarm(firm, raised) }
		}
		return during(alarm(true), alarm(false))
	case "close-connections":
		return st.env.RabbitMQ.CloseAllConnections(limited)
	}
	panic("chaos: nobody knows how to inflict " + f.kind.name)
}

// await waits until the server that a fault is done by has recovered, if it is just doing so: another fault may be in its way.
func (st *stage) await(ctx context.Context, k kind) error {
	ctx, cancel := context.WithTimeout(ctx, 2*statementLimit)
	defer cancel()
	for {
		var err error
		if k.database {
			err = st.pool.Ping(ctx)
		}
		if k.broker {
			limited, cancel := context.WithTimeout(ctx, asking)
			_, err = st.queued(limited)
			cancel()
		}
		if err == nil || !pause(ctx, 100*time.Millisecond) {
			return err
		}
	}
}

// mend undoes a fault. If that fails the run is worth nothing: it is told in the report.
func (st *stage) mend(f fault, mends func() error) error {
	err := mends()
	if err != nil {
		st.tally.mu.Lock()
		st.tally.failed = append(st.tally.failed, fmt.Sprintf("%s of %.1fs could not be undone: %v", f.kind.name, f.at.Seconds(), err))
		st.tally.mu.Unlock()
	}
	return err
}

// terminate ends backends as an operator would.
func (st *stage) terminate(ctx context.Context, most int) error {
	tag, err := st.pool.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name <> 'chaos' ORDER BY random() LIMIT $1`, most)
	if err == nil && tag.RowsAffected() == 0 {
		err = errors.New("there is no backend")
	}
	return err
}

// shutDownAtOnce has PostgreSQL end without a checkpoint, so that its next start is a recovery (PostgreSQL docs, "Shutting
// Down the Server", immediate shutdown). A program that the server starts is in its data folder and has its rights.
func (st *stage) shutDownAtOnce(ctx context.Context) error {
	// The answer is lost with the server.
	_, err := st.pool.Exec(ctx, `COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; kill -QUIT $(head -n 1 postmaster.pid)'`)
	for st.postgres.Running() {
		if !pause(ctx, 10*time.Millisecond) {
			return fmt.Errorf("PostgreSQL didn't shut down: %w", err)
		}
	}
	return nil
}

// writeLong holds a transaction open that has written an event, and commits it.
func (st *stage) writeLong(ctx, limited context.Context, d time.Duration) error {
	return pgx.BeginFunc(limited, st.pool, func(tx pgx.Tx) error {
		if err := st.write(limited, tx, "long"); err != nil {
			return err
		}
		pause(ctx, d)
		return nil
	})
}

// write writes an event and enters it in the ledger, as a producer does.
func (st *stage) write(ctx context.Context, tx pgx.Tx, name string) error {
	event := surepost.Event{ID: surepost.NewID(), Type: placed, Key: "placed/" + name}
	var number int64
	if err := tx.QueryRow(ctx, nextNumber, event.Key).Scan(&number); err != nil {
		return err
	}
	event.Data = data{Number: number}
	if _, err := tx.Exec(ctx, noteWritten, event.ID, event.Type, event.Key, number, "", false, "chaos"); err != nil {
		return err
	}
	return st.box.Write(ctx, tx, event)
}

// prepare leaves a transaction behind that has written an event, belongs to no connection and outlives crashes (PostgreSQL docs,
// "PREPARE TRANSACTION").
func (st *stage) prepare(ctx context.Context) error {
	tx, err := st.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx) // after PREPARE there is none: a warning
	if err := st.write(ctx, tx, "prepared"); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `PREPARE TRANSACTION 'chaos'`)
	return err
}

func (st *stage) commitPrepared(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 3*statementLimit)
	defer cancel()
	for {
		_, err := st.pool.Exec(ctx, `COMMIT PREPARED 'chaos'`)
		var gone *pgconn.PgError
		if errors.As(err, &gone) && gone.Code == "42704" { // undefined_object: an earlier try came through
			return nil
		}
		if err == nil || !pause(ctx, 200*time.Millisecond) {
			return err
		}
	}
}

// readLong holds a snapshot and a lock on the log, as a backup does.
func (st *stage) readLong(ctx, limited context.Context, d time.Duration) error {
	return pgx.BeginTxFunc(limited, st.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(limited, `SELECT count(*) FROM surepost_outbox`); err != nil {
			return err
		}
		pause(ctx, d)
		return nil
	})
}

// vacuum cleans up all tables, or rewrites one of the log's.
func (st *stage) vacuum(ctx context.Context, draw uint64) error {
	conn, err := st.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, `SET lock_timeout = '3s'`); err != nil {
		return err
	}
	defer conn.Exec(ctx, `RESET lock_timeout`)
	statement := `VACUUM (FREEZE, ANALYZE)`
	if draw%3 == 0 {
		statement = fmt.Sprintf(`VACUUM FULL surepost_outbox_%d`, draw/3%4)
	}
	_, err = conn.Exec(ctx, statement)
	return err
}

// shortRetention is as short as it may be: what every lane has passed goes at once.
const shortRetention = 500 * time.Millisecond

// truncate empties the leaves of the log again and again.
func (st *stage) truncate(ctx, limited context.Context, d time.Duration) error {
	tried, emptied := errors.New("there was no time"), 0
	for until := time.Now().Add(d); time.Now().Before(until) && ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
		report, err := st.store.Retain(limited, relay.Retention{Keep: shortRetention})
		emptied += report.Emptied
		if err == nil || tried != nil {
			tried = err
		}
	}
	st.tally.mu.Lock()
	st.tally.emptied += emptied
	st.tally.mu.Unlock()
	return tried
}

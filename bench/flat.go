package main

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

var flat = benchmark{
	name: "flat",
	compares: "The relay's rate to RabbitMQ over the same number of events: at the front of a backlog of " +
		"10,000,000 against one of " +
		"100,000; and with a transaction held open (a REPEATABLE READ reader, a writer on another table, a writer " +
		"on the outbox " +
		"with an event before all others) against none; and the same with a broker in memory, which is no " +
		"bottleneck. Peak " +
		"memory is that of the relay's process over what the rounds leave of the long backlog.",
	defaults: options{events: 100_000, backlog: 10_000_000, rounds: 3},
	smoke:    options{events: 300, backlog: 20_000, rounds: 1}, // a relay reads some thousands ahead
	run:      runFlat,
}

const memoryLimitMiB = 64

func runFlat(ctx context.Context, l *lab) ([]result, error) {
	if l.backlog < 3*l.rounds*l.events {
		return nil, fmt.Errorf("-backlog is %d: every round takes twice -n (%d) events off it, and some must be "+
			"left; use at least %d", l.backlog, l.events, 3*l.rounds*l.events)
	}
	if err := l.declare(drainQueue, nil); err != nil {
		return nil, err
	}
	defer l.discard(drainQueue)
	long, err := l.newLog(ctx, "long")
	if err != nil {
		return nil, err
	}
	defer long.close()
	if err := long.fill(ctx, l.backlog); err != nil {
		return nil, err
	}
	short, err := l.newLog(ctx, "short")
	if err != nil {
		return nil, err
	}
	defer short.close()

	var results []result
	for _, to := range []broker{rabbitMQ, inMemory} {
		backlog, err := l.flatBacklog(ctx, to, long, short)
		if err != nil {
			return nil, err
		}
		held, err := l.flatHeld(ctx, to, short)
		if err != nil {
			return nil, err
		}
		results = append(append(results, backlog...), held...)
	}
	memory, err := l.flatMemory(ctx, long)
	return append(results, memory), err
}

// broker is what the relay publishes to. RabbitMQ is what the aims are about, and hides what the database costs as
// long as RabbitMQ is the slower of the two; the other one confirms at once, in memory, and hides nothing.
type broker struct{ worker, suffix, what string }

var (
	rabbitMQ = broker{"relay", "", "RabbitMQ"}
	inMemory = broker{"instant", "-database", "a publisher that confirms in memory: the database's side alone"}
)

// aim is for RabbitMQ only.
func (to broker) aim(r result, ratio float64) result {
	if to != rabbitMQ {
		return r
	}
	return r.atLeast(ratio)
}

// log is a database with an outbox of its own.
type log struct {
	lab   *lab
	url   string
	pool  *pgxpool.Pool
	store *pgxstore.Store
	box   *outbox.Outbox[pgx.Tx]
}

func (l *lab) newLog(ctx context.Context, name string) (*log, error) {
	url, pool, store, err := l.newDatabase(ctx, name)
	if err != nil {
		return nil, err
	}
	lg := &log{lab: l, url: url, pool: pool, store: store}
	if lg.box, err = outbox.New(store, outbox.Config{Source: source}); err != nil {
		lg.close()
		return nil, err
	}
	// Autovacuum would read the long log in the middle of somebody's round; both are analysed after each filling.
	for leaf := range 4 {
		if err := execAll(ctx, pool, fmt.Sprintf("ALTER TABLE surepost_outbox_%d SET (autovacuum_enabled = off)", leaf)); err != nil {
			return lg, err
		}
	}
	return lg, execAll(ctx, pool, "CREATE TABLE elsewhere (n integer)")
}

func (lg *log) close() {
	lg.store.Close(context.Background())
	lg.pool.Close()
}

func (lg *log) fill(ctx context.Context, events int) error {
	if err := fillEvents(ctx, lg.pool, lg.store, events); err != nil {
		return err
	}
	return execAll(ctx, lg.pool, "ANALYZE surepost_outbox")
}

// slice lets a relay publish the next events of the log. The relay has read a bit more by then, and publishes that
// too.
func (lg *log) slice(ctx context.Context, to broker, events int) (report, error) {
	j := job{Worker: to.worker, Postgres: lg.url, Events: events}
	if to == rabbitMQ {
		return lg.lab.drained(ctx, j)
	}
	if err := lg.lab.exec(ctx, "CHECKPOINT"); err != nil {
		return report{}, err
	}
	return lg.lab.employ(ctx, j)
}

// refilled fills an empty log and returns the relay's rate over all of it.
func (lg *log) refilled(ctx context.Context, to broker, events int) (float64, error) {
	if err := lg.fill(ctx, events); err != nil {
		return 0, err
	}
	r, err := lg.slice(ctx, to, events)
	if err == nil && r.Published != events {
		err = fmt.Errorf("%d events were published, want %d", r.Published, events)
	}
	return r.rate(events), err
}

func (l *lab) flatBacklog(ctx context.Context, to broker, long, short *log) ([]result, error) {
	var peaks []float64
	s, err := alternate(ctx, l.rounds,
		side{"long", func(ctx context.Context) (float64, error) {
			r, err := long.slice(ctx, to, l.events)
			peaks = append(peaks, r.PeakMiB)
			return r.rate(l.events), err
		}},
		side{"short", func(ctx context.Context) (float64, error) { return short.refilled(ctx, to, l.events) }})
	if err != nil {
		return nil, err
	}
	settings := s.settings("long", "short")
	settings["events"], settings["waiting"] = l.events, map[string]int{"long": l.backlog, "short": l.events}
	settings["log"] = "filled by the server with the outbox's own columns, analysed, autovacuum off; each round " +
		"takes the next events off the front"
	settings["to"] = to.what
	rate := newRate("flat/backlog"+to.suffix, "events/s", s.median("long"), s.median("short"), settings)
	if to != rabbitMQ {
		return []result{rate}, nil
	}
	memory := newCost("flat/memory-rabbitmq", "MiB", median(peaks), memoryLimitMiB, map[string]any{
		"what": "VmHWM of the relay's process while it publishes the events above from the long log to " +
			"RabbitMQ; the reference is the aim",
		"measured": peaks,
	})
	return []result{rate.atLeast(0.9), memory.atMost(memoryLimitMiB)}, nil
}

// flatHeld measures the short log with and without a transaction that somebody holds open.
func (l *lab) flatHeld(ctx context.Context, to broker, short *log) ([]result, error) {
	// with opens a transaction, runs hold in it, fills the log behind it, and measures the relay while it is open.
	// After that the late events of the transaction commit, and must come: a relay that forgets them would be fast.
	with := func(name string, level pgx.TxIsoLevel, late int, hold func(tx pgx.Tx) error) side {
		return side{name, func(ctx context.Context) (float64, error) {
			tx, err := short.pool.BeginTx(ctx, pgx.TxOptions{IsoLevel: level})
			if err != nil {
				return 0, err
			}
			defer tx.Rollback(ctx)
			if err := hold(tx); err != nil {
				return 0, err
			}
			rate, err := short.refilled(ctx, to, l.events)
			if err != nil {
				return 0, err
			}
			if err := tx.Commit(ctx); err != nil {
				return 0, err
			}
			if late > 0 {
				if _, err := short.slice(ctx, to, late); err != nil {
					return 0, fmt.Errorf("the late event: %w", err)
				}
			}
			return rate, nil
		}}
	}
	exec := func(sql string) func(tx pgx.Tx) error {
		return func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, sql)
			return err
		}
	}
	s, err := alternate(ctx, l.rounds,
		side{"none", func(ctx context.Context) (float64, error) { return short.refilled(ctx, to, l.events) }},
		with("reader", pgx.RepeatableRead, 0, exec("SELECT count(*) FROM elsewhere")),
		with("writer-elsewhere", pgx.ReadCommitted, 0, exec("INSERT INTO elsewhere VALUES (1)")),
		with("writer-on-outbox", pgx.ReadCommitted, 1, func(tx pgx.Tx) error { return short.box.Write(ctx, tx, newEvent(0)) }))
	if err != nil {
		return nil, err
	}
	held := func(name, what string, aim float64) result {
		settings := s.settings(name, "none")
		maps.Copy(settings, map[string]any{"events": l.events, "held": what, "to": to.what})
		return to.aim(newRate("flat/"+name+to.suffix, "events/s", s.median(name), s.median("none"), settings), aim)
	}
	return []result{
		held("reader", "REPEATABLE READ with a snapshot from before the events were written, until all are "+
			"published", 0.98),
		held("writer-elsewhere", "a transaction with an INSERT into another table, from before the events were "+
			"written until all are published", 0.98),
		held("writer-on-outbox", "a transaction that wrote an event before all others; committed when those are "+
			"published, and its event arrives", 0.95),
	}, nil
}

// flatMemory drains what is left of the long log with a broker that confirms at once: RabbitMQ would take many minutes.
func (l *lab) flatMemory(ctx context.Context, long *log) (result, error) {
	left, err := long.left(ctx)
	if err != nil {
		return result{}, err
	}
	r, err := l.employ(ctx, job{Worker: "instant", Postgres: long.url, Events: left})
	if err != nil {
		return result{}, err
	}
	if r.Published != left {
		return result{}, fmt.Errorf("%d events were published of the %d that were left", r.Published, left)
	}
	return newCost("flat/memory", "MiB", r.PeakMiB, memoryLimitMiB, map[string]any{
		"what": "VmHWM of the relay's process over the rest of the long log, with a publisher that confirms in " +
			"memory; the reference is the aim",
		"events": left, "events_per_s": rounded(r.rate(left)), "cpu_us_per_event": rounded(1e6 * r.CPUSeconds / float64(left)),
	}).atMost(memoryLimitMiB), nil
}

// left counts the events behind the newest checkpoint of a log without open transactions.
func (lg *log) left(ctx context.Context) (left int, err error) {
	err = lg.pool.QueryRow(ctx, `SELECT count(*) FROM surepost_outbox WHERE seq >
    (SELECT hot FROM surepost_checkpoint ORDER BY epoch DESC, n DESC LIMIT 1)`).Scan(&left)
	if err == nil && left == 0 {
		err = errors.New("nothing is left of the long log")
	}
	return left, err
}

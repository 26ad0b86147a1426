package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/relay"
)

// readLedger reads what the run has left. Nobody writes any more.
func (st *stage) readLedger(ctx context.Context) (l ledger, err error) {
	rows, _ := st.pool.Query(ctx, `SELECT event_id, type, key, number, cause, poison, writer FROM chaos_written ORDER BY at`)
	l.written, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (w written, err error) {
		err = row.Scan(&w.id, &w.kind, &w.key, &w.number, &w.cause, &w.poison, &w.writer)
		return w, err
	})
	if err != nil {
		return l, fmt.Errorf("read what was written: %w", err)
	}
	rows, _ = st.pool.Query(ctx, `SELECT place, consumer, event_id, type, key, number FROM chaos_effect ORDER BY place`)
	l.effects, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (e effect, err error) {
		err = row.Scan(&e.place, &e.consumer, &e.id, &e.kind, &e.key, &e.number)
		return e, err
	})
	if err != nil {
		return l, fmt.Errorf("read what was done: %w", err)
	}
	for _, name := range producers {
		ids, err := readLines(acknowledgedFile(st.folder, name))
		if err != nil {
			return l, err
		}
		l.acknowledged = append(l.acknowledged, ids...)
	}
	if l.dead, err = st.deadLetters(ctx); err != nil {
		return l, err
	}
	parked, err := st.store.Parked(ctx, relay.ParkedFilter{}, 1000)
	if err != nil {
		return l, err
	}
	for _, p := range parked {
		l.parked = append(l.parked, fmt.Sprintf("event %s (%s, key %s) is parked: %s", p.Event.ID, p.Event.Type, p.Event.Key, p.Reason))
	}
	return l, nil
}

func readLines(path string) (lines []string, err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it never came so far
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	scanner := bufio.NewScanner(file)
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
	}
	return lines, scanner.Err()
}

func (st *stage) deadLetters(ctx context.Context) (dead []deadLetter, err error) {
	for _, consumer := range consumers {
		letters, err := amqp.DeadLetters(ctx, amqp.DeadLettersConfig{
			Connection: amqp.Connection{URLs: []string{st.env.RabbitMQ.URL()}, Name: "chaos"}, Queue: consumer, Limit: 10_000,
		})
		if err != nil {
			return nil, fmt.Errorf("read the dead letters of %s: %w", consumer, err)
		}
		for _, letter := range letters {
			reason := string(letter.Reason)
			if letter.Error != "" {
				reason += ": " + letter.Error
			}
			dead = append(dead, deadLetter{consumer, letter.ID, reason})
		}
	}
	return dead, nil
}

// keep writes what one needs to find out what happened into the folder: the ledger, the log with its transaction ids, the
// checkpoints, the servers' last words.
func (st *stage) keep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var errs []error
	for name, query := range map[string]string{
		"written":     `SELECT * FROM chaos_written ORDER BY at`,
		"effects":     `SELECT * FROM chaos_effect ORDER BY place`,
		"outbox":      `SELECT tableoid::regclass AS leaf, tx, seq, slot, time, id, type, key FROM surepost_outbox ORDER BY seq`,
		"checkpoints": `SELECT * FROM surepost_checkpoint ORDER BY destination, lane, epoch, n`,
		"leases":      `SELECT * FROM surepost_lease`,
		"attempts":    `SELECT * FROM surepost_inbox_attempt`,
	} {
		errs = append(errs, st.copyOut(ctx, query, filepath.Join(st.folder, name+".csv")))
	}
	if st.postgres != nil {
		errs = append(errs,
			os.WriteFile(filepath.Join(st.folder, "postgres.log"), []byte(st.postgres.Log()), 0o600),
			os.WriteFile(filepath.Join(st.folder, "rabbitmq.log"), []byte(st.rabbitmq.Log()), 0o600))
	}
	return errors.Join(errs...)
}

func (st *stage) copyOut(ctx context.Context, query, path string) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	conn, err := st.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	_, err = conn.Conn().PgConn().CopyTo(ctx, file, "COPY ("+query+") TO STDOUT (FORMAT csv, HEADER)")
	return err
}

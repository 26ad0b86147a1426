package main

import (
	"context"
	"database/sql"
	"encoding/json"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver

	"github.com/surepost/surepost"
)

// runSQLProducer is the producer that knows no Surepost: it writes its events by the SQL function, with database/sql.
func runSQLProducer(ctx context.Context, s surroundings, tell *teller) error {
	db, err := sql.Open("pgx", s.Postgres)
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(writers + 2)
	p := &producer{surroundings: s, tell: tell}
	p.begin = func(ctx context.Context) (transaction, error) {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return nil, err
		}
		return &sqlTransaction{tx}, nil
	}
	p.outside = func(ctx context.Context, events []surepost.Event) error {
		return writeBySQL(ctx, db.ExecContext, events)
	}
	return p.run(ctx)
}

type sqlTransaction struct{ tx *sql.Tx }

func (t *sqlTransaction) exec(ctx context.Context, sql string, args ...any) error {
	_, err := t.tx.ExecContext(ctx, sql, args...)
	return err
}

func (t *sqlTransaction) number(ctx context.Context, sql, key string) (n int64, err error) {
	err = t.tx.QueryRowContext(ctx, sql, key).Scan(&n)
	return n, err
}

func (t *sqlTransaction) write(ctx context.Context, events []surepost.Event) error {
	return writeBySQL(ctx, t.tx.ExecContext, events)
}

func writeBySQL(
	ctx context.Context, exec func(context.Context, string, ...any) (sql.Result, error), events []surepost.Event,
) error {
	for _, e := range events {
		content, err := json.Marshal(e.Data)
		if err != nil {
			return err
		}
		var notBefore any
		if !e.NotBefore.IsZero() {
			notBefore = e.NotBefore
		}
		_, err = exec(ctx, `SELECT surepost_write($1, $2::json, key => $3, source => $4, id => $5, not_before => $6)`,
			e.Type, string(content), e.Key, e.Source, e.ID, notBefore)
		if err != nil {
			return err
		}
	}
	return nil
}

func (t *sqlTransaction) commit(context.Context) error { return t.tx.Commit() }

func (t *sqlTransaction) rollback() { _ = t.tx.Rollback() }

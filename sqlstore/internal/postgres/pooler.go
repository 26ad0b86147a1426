package postgres

import (
	"context"
	"time"

	"github.com/surepost/surepost"
)

const poolerRemedy = "a pooler in transaction mode gives each transaction another server, and prepared statements stay behind: " +
	"with pgx, add default_query_exec_mode=exec to the URL, or let pgbouncer 1.21 or newer follow the statements " +
	"(max_prepared_statements = 200); with lib/pq, add binary_parameters=yes"

// poolerProbe returns a statement that tells how the driver sends a statement with arguments, and which server runs it.
//
// The parser evaluates 'now' (PostgreSQL manual §8.5.1.4), execution evaluates now(): they differ where the driver prepares in
// one round trip, and so in one transaction, and executes in the next. The id keeps other clients' probes apart, whose
// prepared statements a pooler may have left on the server.
func poolerProbe(id string) string {
	return `SELECT pg_backend_pid()::bigint, 'now'::timestamptz <> now(), EXISTS (SELECT FROM pg_prepared_statements WHERE statement LIKE '%probe ` + id + `%')
FROM (SELECT $1::text) AS parameter`
}

type probed struct {
	server       int64 // the process id of the server's backend
	inTwo, named bool  // prepared and executed in two round trips; by a named statement
}

// checkPooler finds drivers that a pooler in transaction mode breaks. One that uses the unnamed prepared statement in two
// round trips is the worst: in between the server may have got somebody else's unnamed statement, and runs that one, with
// our arguments. One that uses named ones meets errors.
func (e *Engine) checkPooler(ctx context.Context, q Querier) error {
	const doing = "see whether prepared statements work"
	statement := poolerProbe(surepost.NewID())
	probe := func(on Querier) (p probed, err error) {
		_, err = queryRow(ctx, on, statement, []any{""}, &p.server, &p.inTwo, &p.named)
		return p, err
	}
	here, err := probe(q)
	if err != nil {
		return e.misfitOfPooler(doing, err)
	}
	if !here.inTwo {
		return nil // a statement is one message, wherever it is sent
	}

	// A second connection, to see both being served by the same server. A handle that has none left tells nothing.
	waiting, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	other, err := e.Dial(waiting)
	if err != nil {
		return ctx.Err()
	}
	defer other.Close(ctx)
	seen := [2]map[int64]bool{{here.server: true}, {}}
	const rounds = 4 // a pooler may have several idle servers, and take turns
	for range rounds {
		for i, on := range []Querier{other, q} {
			p, err := probe(on)
			if err != nil {
				return e.misfitOfPooler(doing, err)
			}
			seen[1-i][p.server] = true
		}
	}
	shared := len(seen[0]) > 1 || len(seen[1]) > 1
	for server := range seen[0] {
		shared = shared || seen[1][server]
	}
	if shared && !here.named {
		return misfit("this driver prepares a statement in one round trip and executes it in the next, and between them the pooler "+
			"changes the server, which may then run somebody else's statement: %s", poolerRemedy)
	}
	return nil
}

// misfitOfPooler makes a prepared statement that isn't where it should be an error that waiting doesn't mend.
func (e *Engine) misfitOfPooler(doing string, err error) error {
	if state := sqlState(err); state == "42P05" || state == "26000" {
		return misfit("%s: %w (%s)", doing, err, poolerRemedy)
	}
	return e.explain(doing, err)
}

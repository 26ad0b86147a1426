package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/surepost/surepost/sqlstore"
)

// openPostgres opens a service's database, a schema.
func openPostgres(dsn string) (*sql.DB, store, error) {
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		return nil, nil, err
	}
	return db, sqlstore.New(db), nil
}

// makeSchemas makes a schema for each service in the database that -pg names, in the place of databases of their own:
// that takes no more than the right to make schemas. It returns a function that removes them.
func makeSchemas(ctx context.Context, pgURL, run string) (dsns map[string]string, remove func() error, err error) {
	db, err := sql.Open("pgx", pgURL)
	if err != nil {
		return nil, nil, fmt.Errorf("-pg: %w", err)
	}
	var made []string
	remove = func() error {
		defer db.Close()
		ctx, cancel := context.WithTimeout(context.Background(), removeLimit)
		defer cancel()
		var errs []error
		for _, schema := range made {
			if _, err := db.ExecContext(ctx, "DROP SCHEMA "+pgx.Identifier{schema}.Sanitize()+" CASCADE"); err != nil {
				errs = append(errs, fmt.Errorf("-pg: the schema %s is left: %w", schema, err))
			}
		}
		return errors.Join(errs...)
	}
	dsns = map[string]string{}
	for _, service := range serviceNames {
		schema := strings.ReplaceAll(run, "-", "_") + "_" + service
		if _, err := db.ExecContext(ctx, "CREATE SCHEMA "+pgx.Identifier{schema}.Sanitize()); err != nil {
			return nil, nil, errors.Join(explainPostgres(err), remove())
		}
		made = append(made, schema)
		dsns[service] = withSearchPath(pgURL, schema)
	}
	return dsns, remove, nil
}

// withSearchPath makes the schema the one in which names without a schema are looked for.
func withSearchPath(pgURL, schema string) string {
	u, _ := url.Parse(pgURL) // checkURL has parsed it
	query := u.Query()
	query.Set("search_path", schema)
	u.RawQuery = query.Encode()
	return u.String()
}

func explainPostgres(err error) error {
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		switch answer.Code {
		case "42501": // insufficient_privilege
			return fmt.Errorf("-pg: the user may not make schemas: GRANT CREATE ON DATABASE … TO it, or name another user (%w)", err)
		case "28P01", "28000": // invalid_password, invalid_authorization_specification
			return fmt.Errorf("-pg: the server refuses the login: check user and password in the URL (%w)", err)
		case "3D000": // invalid_catalog_name
			return fmt.Errorf("-pg: there is no such database: create it, or name another one in the URL (%w)", err)
		}
		return fmt.Errorf("-pg: %w", err)
	}
	return fmt.Errorf("-pg: PostgreSQL can't be reached: check that it runs, and host and port in the URL (%w)", err)
}

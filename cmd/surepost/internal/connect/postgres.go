package connect

import (
	"context"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost/cmd/surepost/internal/config"
	"github.com/surepost/surepost/sqlstore"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

func openPostgres(ctx context.Context, c *config.Config, raw string) (*Database, error) {
	made, err := poolConfig(c, raw)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, made)
	if err != nil {
		return nil, err
	}
	store, err := pgxstore.NewWithConfig(pool, postgresTables(c))
	if err != nil {
		pool.Close()
		return nil, err
	}
	return &Database{Store: store, Kind: PostgreSQL, close: func() {
		bounded, cancel := context.WithTimeout(context.Background(), closeGrace)
		defer cancel()
		store.Close(bounded)
		pool.Close()
	}}, nil
}

func postgresTables(c *config.Config) sqlstore.Config {
	return sqlstore.Config{Schema: c.Database.Schema, Prefix: c.Database.Prefix}
}

// poolConfig makes a pool's config of the URL and the other keys. What the URL says in libpq's parameters goes on working.
func poolConfig(c *config.Config, raw string) (*pgxpool.Config, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, kept{"can't be parsed", "write postgres://user@host:5432/name"}
	}
	query := u.Query()
	if t := c.Database.TLS; t.IsSet() {
		if err := addTLS(query, t); err != nil {
			return nil, err
		}
	}
	safe := query.Get("default_query_exec_mode") == ""
	u.RawQuery = query.Encode()
	made, err := pgxpool.ParseConfig(u.String())
	if err != nil {
		return nil, kept{"is refused by the driver (" + afterURL(err) + ")", "correct the URL or the file that it names"}
	}
	if safe { // statements that are not prepared work through every pooler
		made.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	if !query.Has("pool_max_conns") {
		made.MaxConns = int32(min(c.Database.MaxConnections, 10_000))
	}
	if made.ConnConfig.ConnectTimeout == 0 {
		made.ConnConfig.ConnectTimeout = c.Database.ConnectTimeout
	}
	if made.ConnConfig.RuntimeParams["application_name"] == "" {
		made.ConnConfig.RuntimeParams["application_name"] = "surepost"
	}
	named(made.ConnConfig, c.Database.TLS.ServerName)
	password := passwordSource{c.Database.Password, c.Database.PasswordFile}
	secured := u.String()
	made.BeforeConnect = func(_ context.Context, conn *pgx.ConnConfig) error {
		if conn.TLSConfig != nil { // the files of certificates are read anew
			fresh, err := pgx.ParseConfig(secured)
			if err != nil {
				return kept{"the database's TLS files are refused by the driver (" + afterURL(err) + ")", "correct them"}
			}
			conn.TLSConfig, conn.Fallbacks = fresh.TLSConfig, fresh.Fallbacks
			named(conn, c.Database.TLS.ServerName)
		}
		if password == (passwordSource{}) {
			return nil
		}
		word, err := password.read()
		conn.Password = word
		return err
	}
	return made, nil
}

// named sets the name that the server's certificate must have, unless it is that of the host.
func named(conn *pgx.ConnConfig, name string) {
	if name == "" {
		return
	}
	if conn.TLSConfig != nil {
		conn.TLSConfig.ServerName = name
	}
	for _, fallback := range conn.Fallbacks {
		if fallback.TLSConfig != nil {
			fallback.TLSConfig.ServerName = name
		}
	}
}

// addTLS says in libpq's words what the keys say.
func addTLS(query url.Values, t config.TLS) error {
	switch mode := query.Get("sslmode"); mode {
	case "":
		query.Set("sslmode", "verify-full")
	case "verify-full", "verify-ca":
	default:
		return kept{"has sslmode=" + mode + ", which doesn't verify what database.tls names", "write sslmode=verify-full, or remove one of both"}
	}
	for name, file := range map[string]string{"sslrootcert": t.CAFile, "sslcert": t.CertFile, "sslkey": t.KeyFile} {
		if file == "" {
			continue
		}
		if query.Has(name) {
			return kept{"has " + name + ", and database.tls names a file for the same", "remove one"}
		}
		query.Set(name, file)
	}
	return nil
}

// afterURL returns what pgx says behind the URL that it quotes, which has no password but need not be shown.
func afterURL(err error) string {
	s := err.Error()
	if i := strings.LastIndex(s, "`: "); i >= 0 {
		return s[i+3:]
	}
	if i := strings.LastIndex(s, ": "); i >= 0 {
		return s[i+2:]
	}
	return "its parameters"
}

package connect

import (
	"context"
	"crypto/tls"
	"database/sql"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/surepost/surepost/cmd/surepost/internal/config"
	"github.com/surepost/surepost/sqlstore/mysqlstore"
)

// closeGrace bounds what is done in good order at the end.
const closeGrace = 5 * time.Second

func openMySQL(c *config.Config, raw string) (*Database, error) {
	made, err := mysqlConfig(c, raw)
	if err != nil {
		return nil, err
	}
	connector, err := mysql.NewConnector(made)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(c.Database.MaxConnections)
	store, err := mysqlstore.NewWithConfig(db, mysqlstore.Config{Prefix: c.Database.Prefix})
	if err != nil {
		db.Close()
		return nil, err
	}
	return &Database{Store: store, Kind: MySQL, close: func() {
		store.Close(context.Background())
		db.Close()
	}}, nil
}

// mysqlConfig makes the driver's config of the URL: the parameters are the driver's own.
func mysqlConfig(c *config.Config, raw string) (*mysql.Config, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, kept{"can't be parsed", "write mysql://user@host:3306/name"}
	}
	name := strings.TrimPrefix(u.Path, "/")
	if u.Hostname() == "" || name == "" || strings.Contains(name, "/") {
		return nil, kept{"names no host or no database", "write mysql://user@host:3306/name"}
	}
	// Parameters alone are parsed, so that no character of a password can be taken for something else.
	made, err := mysql.ParseDSN("/?" + u.RawQuery)
	if err != nil {
		return nil, kept{"has a parameter that the driver refuses (" + strings.TrimPrefix(err.Error(), "invalid DSN: ") + ")",
			"see the parameters of github.com/go-sql-driver/mysql"}
	}
	port := u.Port()
	if port == "" {
		port = "3306"
	}
	made.Net, made.Addr, made.DBName = "tcp", net.JoinHostPort(u.Hostname(), port), name
	made.User = u.User.Username()
	made.Passwd, _ = u.User.Password()
	if made.Timeout == 0 {
		made.Timeout = c.Database.ConnectTimeout
	}
	if c.Database.TLS.IsSet() {
		if mode := u.Query().Get("tls"); mode != "" && mode != "true" {
			return nil, kept{"has tls=" + mode + ", which doesn't verify what database.tls names", "remove one of both"}
		}
		secured, err := tlsConfig(c.Database.TLS)
		if err != nil {
			return nil, err
		}
		if secured.ServerName == "" {
			secured.ServerName = u.Hostname()
		}
		made.TLSConfig, made.TLS = "", secured
	}
	password := passwordSource{c.Database.Password, c.Database.PasswordFile}
	files := c.Database.TLS
	err = made.Apply(mysql.BeforeConnect(func(_ context.Context, conn *mysql.Config) error {
		if password != (passwordSource{}) {
			word, err := password.read()
			if err != nil {
				return err
			}
			conn.Passwd = word
		}
		if files.IsSet() {
			secured, err := tlsConfig(files)
			if err != nil {
				return err
			}
			conn.TLS = renewed(conn.TLS, secured)
		}
		return nil
	}))
	return made, err
}

// renewed returns the new files' config with the old one's server name.
func renewed(old, secured *tls.Config) *tls.Config {
	if secured.ServerName == "" && old != nil {
		secured.ServerName = old.ServerName
	}
	return secured
}

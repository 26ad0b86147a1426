package mysqlstore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/surepost/surepost/internal/mysqlerr"
	"github.com/surepost/surepost/relay"
)

// ErrNoPool is returned where a store without a database handle is asked for more than writing.
var ErrNoPool = errors.New("mysqlstore: this store was made without a *sql.DB: it can write events and record handled " +
	"ones in transactions of the caller, no more")

// misfit is an error that waiting doesn't mend.
func misfit(format string, args ...any) error {
	return fmt.Errorf("mysqlstore: %w: %s", relay.ErrHalt, fmt.Sprintf(format, args...))
}

// explain says what was being done and, for the errors that operators meet, what to do about it. The cause stays in
// the chain.
func explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	if hint := hint(err); hint != "" {
		return fmt.Errorf("mysqlstore: %s: %w (%s)", doing, err, hint)
	}
	return fmt.Errorf("mysqlstore: %s: %w", doing, err)
}

// hint returns the remedy for a server's error (MySQL 8.0 Error Message Reference).
func hint(err error) string {
	switch mysqlerr.Find(err) {
	case 1146: // no such table
		return "Surepost's tables aren't where this connection looks: migrate the database, or set Config.Database and " +
			"Config.Prefix to where they are"
	case 1054: // unknown column
		return "Surepost's tables are of another version: migrate the database"
	case 1142, 1143, 1044, 1227: // privileges on a table, a column, a database; SUPER and the like
		return "grant the user SELECT, INSERT, UPDATE and DELETE on Surepost's tables, and to whoever migrates CREATE and ALTER"
	case 1045, 1698:
		return "correct user and password in the DSN"
	case 1049:
		return "create the database, or correct its name in the DSN"
	case 1046:
		return "name a database in the DSN, or set Config.Database"
	case 1040, 1203, 1226: // too many connections: of all, of this user; a user's resource limit
		return "the relay keeps two connections: raise max_connections (or the user's limit) or lower the pools"
	case 1290, 1836, 1792: // --read-only, read-only mode, read-only transaction
		return "Surepost must read and write on the primary: check that the DSN doesn't lead to a replica"
	case 1665: // binlog_format = STATEMENT and READ COMMITTED
		return "set binlog_format to ROW or MIXED"
	case 1153:
		return "raise max_allowed_packet, or lower outbox.Config.MaxDataBytes"
	case 1205:
		return "another transaction held the row for longer than innodb_lock_wait_timeout"
	}
	if strings.Contains(err.Error(), "packet for query is too large") { // the driver's own limit
		return "raise maxAllowedPacket in the DSN, or lower outbox.Config.MaxDataBytes"
	}
	return ""
}

// explainConnect says what to look at where no connection came about.
func explainConnect(err error) error {
	if mysqlerr.Find(err) != 0 || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return explain("connect to the server", err)
	}
	return fmt.Errorf("mysqlstore: connect to the server: %w (is it running, and are host and port in the DSN right?)", err)
}

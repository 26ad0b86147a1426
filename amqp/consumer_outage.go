package amqp

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"reflect"
	"syscall"

	"github.com/surepost/surepost/internal/sqlitecode"
)

// IsOutage reports whether err says that something the handler needs is out of order (its database can't be reached,
// is shutting down, starting up, read-only after a failover, or out of resources), rather than that the event can't
// be handled. It is the default of ConsumerConfig.ErrorIsOutage: such failures are retried for as long as it takes
// and spend no attempt.
//
// It looks at every error that err wraps. It knows PostgreSQL's and the SQL standard's error classes by a method
// "SQLState() string", pgx's by "SafeToRetry() bool", SQLite's result codes by its drivers' types, and the network's
// by the standard library's types. A failure because time ran out (HandlerTimeout, or a context of the handler's own)
// is an outage only if it happened while connecting, or while sqlitestore waited for the file's write lock: a handler
// that hangs on one event must spend its attempts.
//
// A handler that decodes data by itself should mark its errors with inbox.Permanent: io.ErrUnexpectedEOF from a JSON
// decoder can't be told from that of a cut connection.
func IsOutage(err error) bool {
	outOfTime := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	return anyError(err, func(e error) bool {
		return isConnectFailure(e) || isOutageSQLState(e) || isOutageSQLite(e) || !outOfTime && isCutConnection(e)
	})
}

// isConnectFailure reports whether no connection came about. Whatever the reason, the event didn't cause it.
func isConnectFailure(err error) bool {
	switch e := err.(type) {
	case *net.OpError:
		return e.Op == "dial"
	case *net.DNSError:
		return true
	}
	// pgx's error for every failed connect, by name so that this package needn't import pgx. It covers what the cases
	// above don't: a connect that timed out, a password that is being rotated, a database that is being restored.
	return reflect.TypeOf(err).String() == "*pgconn.ConnectError"
}

// isCutConnection reports whether a connection broke, or was found broken, while it was used.
func isCutConnection(err error) bool {
	switch err {
	case driver.ErrBadConn, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed,
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE,
		syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH:
		return true
	}
	switch e := err.(type) {
	case *net.OpError:
		return true
	case interface{ SafeToRetry() bool }: // pgx: the statement was never sent
		// But not because the connection was in use: that is a handler that forgot to close its rows, and always will
		// be.
		return e.SafeToRetry() && err.Error() != "conn busy"
	case net.Error:
		return e.Timeout()
	}
	return false
}

// isOutageSQLState reports whether the database itself said that it can't serve, by its SQLSTATE (PostgreSQL,
// Appendix A).
func isOutageSQLState(err error) bool {
	state := sqlState(err)
	if len(state) != 5 {
		return false
	}
	switch {
	case state[:2] == "08": // connection exception
		return true
	case state[:2] == "53": // insufficient resources: too many connections, disk full, out of memory
		return true
	case state[:3] == "57P": // operator intervention: admin shutdown, crash shutdown, cannot connect now
		return true
	case state == "25006": // read-only transaction: still connected to the old primary after a failover
		return true
	}
	return false
}

// isOutageSQLite reports whether SQLite itself said that it can't serve (sqlite.org/rescode.html): the disk is full or
// fails, the file can't be opened or written. A lock that didn't become free is an outage where sqlitestore waited for
// it, before the handler was called, and has its SQLSTATE then.
func isOutageSQLite(err error) bool {
	switch sqlitecode.Of(err) & 0xff {
	case sqlitecode.NoMem, sqlitecode.ReadOnly, sqlitecode.IOErr, sqlitecode.Full, sqlitecode.CantOpen, sqlitecode.Protocol:
		return true
	}
	return false
}

// isConflict reports whether the transaction lost against another one. Trying again is the remedy, and the event is
// no worse for it, but it isn't an outage either: a handler that always deadlocks must come to an end.
func isConflict(err error) bool {
	return anyError(err, func(e error) bool {
		switch sqlState(e) {
		case "40001", "40P01", "55P03": // serialization failure, deadlock detected, lock not available
			return true
		}
		// Another connection has the lock. Where the handler writes through two connections, that is itself.
		code := sqlitecode.Of(e)
		return code&0xff == sqlitecode.Busy || code == sqlitecode.LockedSharedCache
	})
}

func sqlState(err error) string {
	if e, ok := err.(interface{ SQLState() string }); ok {
		return e.SQLState()
	}
	return ""
}

// anyError reports whether is holds for err or an error in the tree that it wraps. errors.As wouldn't do: it stops at
// the first error that fits the type, and of several joined errors another one may be the outage.
func anyError(err error, is func(error) bool) bool {
	if err == nil {
		return false
	}
	if is(err) {
		return true
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return anyError(e.Unwrap(), is)
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			if anyError(inner, is) {
				return true
			}
		}
	}
	return false
}

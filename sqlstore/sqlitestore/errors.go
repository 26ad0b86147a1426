package sqlitestore

import (
	"errors"
	"fmt"
	"strings"

	"github.com/surepost/surepost/internal/sqlitecode"
)

// errNoDB is returned where a store without a database handle is asked for more than writing.
var errNoDB = errors.New("sqlitestore: this store was made without a *sql.DB: it can write events and record handled " +
	"ones in transactions of the caller, no more")

// explain says what was being done and, for the errors that operators meet, what to do about it. The cause stays in
// the chain.
func explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	code, text := codeIn(err)
	if hint := hint(code, text); hint != "" {
		err = fmt.Errorf("sqlitestore: %s: %w (%s)", doing, err, hint)
	} else {
		err = fmt.Errorf("sqlitestore: %s: %w", doing, err)
	}
	if code&0xff == sqlitecode.Busy && code != sqlitecode.BusySnapshot {
		return busyError{err}
	}
	return err
}

// busyError says that the file's write lock didn't become free in time for a statement of the store's own. No event is
// to blame for that, so it has the SQLSTATE "cannot connect now", which amqp.IsOutage knows. The same error from a
// handler's statement may be the handler's fault: one that writes through a second connection waits for itself.
type busyError struct{ error }

func (e busyError) Unwrap() error { return e.error }

func (busyError) SQLState() string { return "57P03" }

// codeIn returns the first result code in err's chain, and the driver's words.
func codeIn(err error) (code int, text string) {
	for ; err != nil; err = errors.Unwrap(err) {
		if code := sqlitecode.Of(err); code != 0 {
			return code, err.Error()
		}
	}
	return 0, ""
}

// hint returns the remedy for a result code.
func hint(code int, text string) string {
	switch code {
	case sqlitecode.BusySnapshot:
		return "the transaction read before it wrote, and another one wrote in between: roll back and run it again, and let it " +
			"take the write lock at its beginning: add _txlock=immediate to the data source name"
	}
	switch code & 0xff {
	case sqlitecode.Busy:
		return "another connection held the file's write lock for longer than busy_timeout: keep write transactions short, or " +
			"raise the timeout"
	case sqlitecode.ReadOnly:
		return "Surepost must be able to write the file: check its permissions and those of its directory, where SQLite puts " +
			`-wal and -shm beside it, and the data source name for "mode=ro" or "immutable"`
	case sqlitecode.CantOpen:
		return "check that the file's directory exists and that this user may write in it: SQLite puts -wal and -shm beside " +
			"the file"
	case sqlitecode.Full:
		return "the disk is full, or PRAGMA max_page_count is reached: make room"
	case sqlitecode.IOErr:
		return "the disk or the file system failed: SQLite needs a local one, with working locks"
	case sqlitecode.Corrupt:
		return "the file is damaged: restore it from a backup, or see sqlite.org/recovery.html"
	case sqlitecode.NotADB:
		return "the file isn't an SQLite database, or it is encrypted: correct the data source name"
	case sqlitecode.Error:
		if strings.Contains(text, "no such table") {
			return "Surepost's tables aren't in this file: call Store.Migrate, or correct the data source name or Config.Prefix"
		}
		if strings.Contains(text, "no such column") || strings.Contains(text, "has no column") {
			return "Surepost's tables are of another version: call Store.Migrate"
		}
	}
	return ""
}

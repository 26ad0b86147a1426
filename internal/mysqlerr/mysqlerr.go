// Package mysqlerr reads the errors of MySQL and MariaDB without importing a driver.
package mysqlerr

import "reflect"

// Number returns the server's error number (MySQL 8.0 Error Message Reference; MariaDB's are the same below 1900), or
// 0 if err itself, not what it wraps, isn't an error that the server sent.
//
// Drivers have no method for it that a caller could ask for by an interface. go-sql-driver/mysql's MySQLError, and
// those of the drivers that were made from it, are told by their fields instead: Number uint16 and SQLState [5]byte.
func Number(err error) int {
	v := reflect.ValueOf(err)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return 0
	}
	number, state := v.Elem().FieldByName("Number"), v.Elem().FieldByName("SQLState")
	if !number.IsValid() || number.Kind() != reflect.Uint16 || !state.IsValid() || state.Type() != reflect.TypeFor[[5]byte]() {
		return 0
	}
	return int(number.Uint())
}

// Find returns the number of the first server error in the tree that err wraps, or 0.
func Find(err error) int {
	if err == nil {
		return 0
	}
	if n := Number(err); n != 0 {
		return n
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		return Find(e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			if n := Find(inner); n != 0 {
				return n
			}
		}
	}
	return 0
}

// The numbers that more than one package asks for.
const (
	LockWaitTimeout = 1205
	Deadlock        = 1213
	NoWait          = 3572 // MySQL; MariaDB says LockWaitTimeout
	RecordChanged   = 1020 // MariaDB, innodb_snapshot_isolation: the row has changed since the transaction's snapshot
)

// Package sqlite has an error of the shape of modernc.org/sqlite's.
package sqlite

type Error struct{ N int }

func (e *Error) Error() string { return "modernc" }
func (e *Error) Code() int     { return e.N }

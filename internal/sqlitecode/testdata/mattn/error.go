// Package sqlite3 has errors of the shape of github.com/mattn/go-sqlite3's.
package sqlite3

type (
	ErrNo         int
	ErrNoExtended int
)

func (ErrNo) Error() string { return "mattn, bare" }

type Error struct {
	Code         ErrNo
	ExtendedCode ErrNoExtended
}

func (Error) Error() string { return "mattn" }

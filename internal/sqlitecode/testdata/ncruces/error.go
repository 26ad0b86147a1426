// Package sqlite3 has errors of the shape of github.com/ncruces/go-sqlite3's.
package sqlite3

type (
	ErrorCode         uint8
	ExtendedErrorCode uint16
)

func (ExtendedErrorCode) Error() string { return "ncruces, bare" }

type Error struct{ N uint64 }

func (*Error) Error() string                     { return "ncruces" }
func (e *Error) Code() ErrorCode                 { return ErrorCode(e.N) }
func (e *Error) ExtendedCode() ExtendedErrorCode { return ExtendedErrorCode(e.N) }

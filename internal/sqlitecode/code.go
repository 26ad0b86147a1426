// Package sqlitecode reads SQLite's result codes (sqlite.org/rescode.html) from the errors of its drivers, without
// importing one.
package sqlitecode

import "reflect"

// Result codes that Surepost tells apart. The low byte of an extended code is its primary code.
const (
	Error             = 1
	Busy              = 5
	NoMem             = 7
	ReadOnly          = 8
	IOErr             = 10
	Corrupt           = 11
	Full              = 13
	CantOpen          = 14
	Protocol          = 15
	NotADB            = 26
	LockedSharedCache = 262 // 6 | 1<<8
	BusySnapshot      = 517 // 5 | 2<<8
)

// Of returns the result code of err itself, extended where the driver tells, and 0 if err isn't an SQLite driver's
// error. It doesn't look at what err wraps.
//
// The types are known by name: modernc.org/sqlite's has a method, github.com/mattn/go-sqlite3's is a struct with
// fields, github.com/ncruces/go-sqlite3's has methods with types of its own; the last two also return bare codes.
func Of(err error) int {
	if err == nil {
		return 0
	}
	switch v := reflect.ValueOf(err); v.Type().String() {
	case "*sqlite.Error":
		if e, ok := err.(interface{ Code() int }); ok {
			return e.Code()
		}
	case "sqlite3.Error":
		return firstInt(v.FieldByName("ExtendedCode"), v.FieldByName("Code"))
	case "*sqlite3.Error":
		return firstInt(called(v.MethodByName("ExtendedCode")), called(v.MethodByName("Code")))
	case "sqlite3.ErrNo", "sqlite3.ErrorCode", "sqlite3.ExtendedErrorCode":
		return firstInt(v)
	}
	return 0
}

// firstInt returns the first of the values that is a number other than 0.
func firstInt(values ...reflect.Value) int {
	for _, v := range values {
		switch {
		case !v.IsValid():
		case v.CanInt() && v.Int() != 0:
			return int(v.Int())
		case v.CanUint() && v.Uint() != 0:
			return int(v.Uint())
		}
	}
	return 0
}

// called returns what a method without arguments returns, or nothing if there is no such method.
func called(method reflect.Value) reflect.Value {
	if !method.IsValid() || method.Type().NumIn() != 0 || method.Type().NumOut() != 1 {
		return reflect.Value{}
	}
	return method.Call(nil)[0]
}

package sqltoken

import (
	"strings"
	"testing"
)

func TestANameThatEndsItsQuoteIsFound(t *testing.T) {
	rename := func(got, want string) bool { return strings.HasPrefix(want, "s") }
	for _, c := range []struct {
		got, want string
		same      bool
	}{
		{`SELECT 1 FROM "a""; DROP TABLE b; --"."t"`, `SELECT 1 FROM "s"."t"`, true},
		{`SELECT 1 FROM "a"; DROP TABLE b; --"."t"`, `SELECT 1 FROM "s"."t"`, false},
		{`SELECT '"a'b"'::regclass`, `SELECT '"s"'::regclass`, false},
		{`SELECT '"a''b"'::regclass`, `SELECT '"s"'::regclass`, true},
		{`DO $x$ SELECT "a$x$; DROP TABLE b; --" $x$`, `DO $x$ SELECT "s" $x$`, false},
		{`DO $x$ SELECT "a" $x$`, `DO $x$ SELECT "s" $x$`, true},
		{`SELECT format('"a%s" %I', b)`, `SELECT format('"s" %I', b)`, false},
		{`SELECT '"a\"'`, `SELECT '"s"'`, false},
		{`SELECT $1::text, s_x FROM t /* ; */ -- "`, `SELECT $1::text, s_y FROM t`, true},
		{`SELECT $1::text, x FROM t`, `SELECT $1::text, y FROM t`, false},
		{`SELECT 'a'`, `SELECT 'b'`, false},
	} {
		if err := PostgreSQL.Same(c.got, c.want, rename); (err == nil) != c.same {
			t.Errorf("%s: %v", c.got, err)
		}
	}
	if MySQL.Same("SELECT `a``b`.`t`", "SELECT `s`.`t`", rename) != nil || MySQL.Same("SELECT `a`b`.`t`", "SELECT `s`.`t`", rename) == nil {
		t.Error("backticks")
	}
}

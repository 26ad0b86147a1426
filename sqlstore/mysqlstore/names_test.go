package mysqlstore

import (
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/surepost/surepost/sqlstore/internal/sqltoken"
)

// allStatements are the texts that a config makes.
func allStatements(c Config) (list []string) {
	var collect func(v reflect.Value)
	collect = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			list = append(list, v.String())
		case reflect.Struct:
			for i := range v.NumField() {
				collect(v.Field(i))
			}
		case reflect.Slice, reflect.Array:
			for i := range v.Len() {
				collect(v.Index(i))
			}
		}
	}
	collect(reflect.ValueOf(newStatements(c)))
	for _, m := range migrations {
		list = append(list, c.migrationStatements(m)...)
	}
	return append(list, c.migrationTable(), (&Store{config: c}).MigrationSQL(0))
}

const plainDatabase, plainPrefix = "plain_database", "plain_prefix_"

var plainStatements = allStatements(Config{Database: plainDatabase, Prefix: plainPrefix})

// FuzzNames: a database and a prefix are refused with a remedy, or are one identifier each wherever they stand.
func FuzzNames(f *testing.F) {
	f.Add("", "surepost_")
	f.Add("d`; DROP TABLE orders; --", "p")
	f.Add("d'; DROP TABLE orders; --", "p")
	f.Add("a${outbox}b${p}", "p")
	f.Add("d", "${p}")
	f.Add("a\\", "p")
	f.Add("a", "a;b")
	f.Add("Ünï—cödé Größe", "P")
	f.Add("a\n-- b", "p")
	f.Add(strings.Repeat("é", 64), strings.Repeat("y", 32))
	f.Add("a\xff\x00", "_")
	f.Fuzz(func(t *testing.T, database, prefix string) {
		c := Config{Database: database, Prefix: prefix}.withDefaults()
		if err := c.validate(); err != nil {
			text := err.Error()
			if !utf8.ValidString(text) || len(text) > 1<<10 || !strings.Contains(text, "Config.Database") && !strings.Contains(text, "Config.Prefix") {
				t.Fatalf("%q: %.300q", database, text)
			}
			return
		}
		if c.Database == "" {
			c.Database = plainDatabase // the statements without one have other tokens
		}
		same := func(got, want string) bool {
			if want == plainDatabase {
				return got == c.Database
			}
			name, ours := strings.CutPrefix(want, plainPrefix)
			return ours && got == c.Prefix+name && len(got) <= 64
		}
		for i, statement := range allStatements(c) {
			if err := sqltoken.MySQL.Same(statement, plainStatements[i], same); err != nil {
				t.Fatalf("%+v: %v in\n%.300s", c, err, plainStatements[i])
			}
		}
	})
}

// FuzzTexts: a list of texts in a statement is hexadecimal digits, whatever the texts are.
func FuzzTexts(f *testing.F) {
	f.Add("'); DROP TABLE orders; --", "\\\x00")
	f.Fuzz(func(t *testing.T, a, b string) {
		list := texts([]string{a, b})
		if strings.Trim(list, "(x',)0123456789abcdef") != "" || strings.Count(list, "'") != 4 || len(list) != 2*(len(a)+len(b))+len("(x'',x'')") {
			t.Fatalf("%q", list)
		}
	})
}

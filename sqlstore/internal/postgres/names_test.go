package postgres

import (
	"reflect"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/internal/sqltoken"
)

// allStatements are the texts that a config makes: the engine's statements, those that are made when they are needed, the
// migrations and their script.
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
		list = append(list, c.expand(m.sql), c.migrationRecord(m))
	}
	e := &Engine{config: c}
	lane := relay.Lane{Index: 1, Of: 3}
	return append(list, c.migrationLock(), c.migrationTable(), c.ringLock(), c.readStatement(lane, 10, true), c.readStatement(relay.Lane{Of: 1}, 10, false),
		c.backlogStatement(10), c.moveDueStatement(10), c.selectStatement("", 10), c.countStatement(""), e.SQL(0))
}

const plainSchema, plainPrefix = "plain_schema", "plain_prefix_"

var plainStatements = allStatements(Config{Schema: plainSchema, Prefix: plainPrefix})

// staysInside reports where a config's names change a statement's meaning.
func staysInside(t *testing.T, c Config) {
	t.Helper()
	same := func(got, want string) bool {
		if want == plainSchema {
			return got == c.Schema
		}
		name, ours := strings.CutPrefix(want, plainPrefix)
		return ours && got == c.Prefix+name && len(got) <= 63
	}
	for i, statement := range allStatements(c) {
		if err := sqltoken.PostgreSQL.Same(statement, plainStatements[i], same); err != nil {
			t.Fatalf("%+v: %v in\n%.300s", c, err, plainStatements[i])
		}
	}
}

// FuzzNames: a schema and a prefix are refused with a remedy, or are one identifier each wherever they stand.
func FuzzNames(f *testing.F) {
	f.Add("", "surepost_")
	f.Add(`s"; DROP TABLE orders; --`, "p")
	f.Add("s'; DROP TABLE orders; --", "p")
	f.Add("$write$; DROP TABLE orders; --", "p")
	f.Add("%I%s", "p")
	f.Add("${outbox}${leaf}", "p")
	f.Add("a\\", "p")
	f.Add("a", "a;b")
	f.Add("a", "${p}")
	f.Add("Ünï—cödé Größe", "P")
	f.Add("a\n-- b", "p")
	f.Add(strings.Repeat("x", 63), strings.Repeat("y", 32))
	f.Add(strings.Repeat("é", 32), strings.Repeat("y", 33))
	f.Add("a\xff\x00", "_")
	f.Fuzz(func(t *testing.T, schema, prefix string) {
		c := Config{Schema: schema, Prefix: prefix}.withDefaults()
		err := c.validate()
		if err != nil {
			text := err.Error()
			if !utf8.ValidString(text) || len(text) > 1<<10 || !strings.Contains(text, "Config.Schema") && !strings.Contains(text, "Config.Prefix") {
				t.Fatalf("%q: %.300q", schema, text)
			}
			return
		}
		if c.Schema == "" {
			c.Schema = plainSchema // the statements without one have other tokens
		}
		staysInside(t, c)
	})
}

func TestNoSchemaEndsItsQuotes(t *testing.T) {
	for _, schema := range []string{`s"; DROP TABLE orders; --`, "Ünï cödé", "public", "SELECT", strings.Repeat("x", 63), "a;b", "a/*b", "--", "a{p}b", `""`} {
		if _, err := New(nil, Config{Schema: schema}); err != nil {
			t.Errorf("%q: %v", schema, err)
		}
		staysInside(t, Config{Schema: schema, Prefix: strings.Repeat("p", 32)})
	}
	for _, schema := range []string{"a'b", "$write$", "%s", "${outbox}", `a\`, "a\nb", "a\x00", "a\xff", strings.Repeat("x", 64)} {
		if _, err := New(nil, Config{Schema: schema}); err == nil || !strings.Contains(err.Error(), "Config.Schema") {
			t.Errorf("%q: %v", schema, err)
		}
	}
}

// FuzzSnapshot: what isn't a snapshot is refused, what is one is written as it was read.
func FuzzSnapshot(f *testing.F) {
	f.Add("10:20:12,15")
	f.Add("1:1:")
	f.Add("18446744073709551616:1:,")
	f.Add("+1:_1:0x1")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseSnapshot(text)
		if err != nil {
			if len(err.Error()) > 1<<10 || !utf8.ValidString(err.Error()) {
				t.Fatalf("%.300q", err)
			}
			return
		}
		again, err := parseSnapshot(s.String())
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Fatalf("%q is %+v, which is written %q, which is %+v (%v)", text, s, s, again, err)
		}
	})
}

// FuzzArray: an array literal has the elements that it was made of, whatever they hold (PostgreSQL manual §8.15.2).
func FuzzArray(f *testing.F) {
	f.Add("a", `"},{"`, `\`)
	f.Add("", "NULL", "{")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		want := []string{a, b, c}
		if got := readArray(textArray(3, func(i int) string { return want[i] })); !reflect.DeepEqual(got, want) {
			t.Fatalf("%q became %q", want, got)
		}
	})
}

// readArray reads the literal of a one-dimensional array as the manual describes it.
func readArray(literal string) []string {
	literal = strings.TrimSuffix(strings.TrimPrefix(literal, "{"), "}")
	var list []string
	var element strings.Builder
	quoted := false
	for i := 0; i < len(literal); i++ {
		switch c := literal[i]; {
		case c == '\\':
			i++
			element.WriteByte(literal[i])
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			list = append(list, element.String())
			element.Reset()
		default:
			element.WriteByte(c)
		}
	}
	return append(list, element.String())
}

// FuzzInboxLeaf: each id has a leaf of the ring, and the same whatever the case of its digits.
func FuzzInboxLeaf(f *testing.F) {
	f.Add("0190d8a0-7a1b-7c3d-8e4f-0123456789ab")
	f.Add("+190d8a0-7a1b-7")
	f.Add("0190_8a0-7a1b-7")
	f.Add("ééé")
	f.Fuzz(func(t *testing.T, id string) {
		leaf := inboxLeaf(id)
		if leaf < 0 || leaf > inboxLeaves {
			t.Fatalf("%q: leaf %d", id, leaf)
		}
		digits := len(id) >= 15 && strings.Trim(id[:8]+id[9:13], "0123456789abcdefABCDEF") == ""
		if isUUIDv7 := digits && id[8] == '-' && id[13:15] == "-7"; isUUIDv7 != (leaf < inboxLeaves) {
			t.Fatalf("%q: leaf %d, though migration 008 takes it for a UUIDv7: %v", id, leaf, isUUIDv7)
		} else if isUUIDv7 {
			if millis, err := strconv.ParseInt(id[:8]+id[9:13], 16, 64); err != nil || millis/345600000%16 != leaf {
				t.Fatalf("%q: leaf %d, migration 008 says %d", id, leaf, millis/345600000%16)
			}
		}
	})
}

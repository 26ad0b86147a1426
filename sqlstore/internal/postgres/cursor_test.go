package postgres

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func snap(t *testing.T, s string) snapshot {
	t.Helper()
	parsed, err := parseSnapshot(s)
	if err != nil {
		t.Fatal(err)
	}
	if parsed.String() != s {
		t.Fatalf("%q became %q", s, parsed)
	}
	return parsed
}

func TestTheCursorAdvances(t *testing.T) {
	start := cursor{hot: 100, snap: snap(t, "10:20:12,15"), next: 25}
	seen := read{snap: snap(t, "11:30:15"), next: 33, drawn: 150}
	pinned := start
	pinned.pin = &pin{snap: snap(t, "11:28:15"), next: 29, after: 60}
	for name, c := range map[string]struct {
		from              cursor
		stragglers, fresh []int64
		want              string
	}{
		"nothing there: past the numbers that were drawn":   {start, nil, nil, "150 11:30:15 33, 0 0 false"},
		"all that is visible":                               {start, []int64{90}, []int64{101, 120}, "150 11:30:15 33, 1 2 false"},
		"a full page of fresh rows":                         {start, nil, []int64{101, 102, 103}, "103 11:30:15 33, 0 3 true"},
		"stragglers take room from fresh rows":              {start, []int64{90, 91}, []int64{101, 102, 103}, "101 11:30:15 33, 2 1 true"},
		"stragglers fill the page: fresh rows wait":         {start, []int64{90, 91, 92}, []int64{101}, "100 10:20:12,15 25 pin 11:30:15 33 after 92, 3 0 true"},
		"more stragglers of the pinned snapshot":            {pinned, []int64{61, 62, 63}, nil, "100 10:20:12,15 25 pin 11:28:15 29 after 63, 3 0 true"},
		"the last of them: on with the pinned snapshot":     {pinned, []int64{61}, nil, "100 11:28:15 29, 1 0 true"},
		"none of them left: on with the pinned snapshot":    {pinned, nil, nil, "100 11:28:15 29, 0 0 true"},
		"stragglers and fresh rows fill the page just so":   {start, []int64{90}, []int64{101, 102}, "150 11:30:15 33, 1 2 false"},
		"a full page and stragglers besides: some wait":     {start, []int64{90}, []int64{101, 102, 103}, "102 11:30:15 33, 1 2 true"},
		"a number below the cursor's doesn't turn it back ": {cursor{hot: 200, snap: start.snap, next: 25}, nil, nil, "200 11:30:15 33, 0 0 false"},
	} {
		after, s, f, full := c.from.advance(seen, c.stragglers, c.fresh, 3)
		got := fmt.Sprintf("%d %s %d", after.hot, after.snap, after.next)
		if after.pin != nil {
			got += fmt.Sprintf(" pin %s %d after %d", after.pin.snap, after.pin.next, after.pin.after)
		}
		if got += fmt.Sprintf(", %d %d %v", s, f, full); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, c.want)
		}
	}
	if pinned.pin.after != 60 {
		t.Error("advancing changed a cursor that may be stored as a checkpoint still")
	}
}

func TestEveryTransactionThatMayBeLateIsProbed(t *testing.T) {
	single, from, to := cursor{snap: snap(t, "10:20:12,15"), next: 23}.probes()
	if !slices.Equal(single, []uint64{12, 15, 20, 21, 22}) || from != to {
		t.Errorf("probes %v and [%d, %d)", single, from, to)
	}
	single, from, to = cursor{snap: snap(t, "10:20:12"), next: 5020}.probes()
	if !slices.Equal(single, []uint64{12}) || from != 20 || to != 5020 {
		t.Errorf("probes %v and [%d, %d)", single, from, to)
	}
}

func TestNonsenseIsNoSnapshot(t *testing.T) {
	for _, s := range []string{"", "1", "1:2", "a:2:", "1:2:x", "1:2:3:4"} {
		if _, err := parseSnapshot(s); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
}

func TestNamesAreQuotedAndPrefixesChecked(t *testing.T) {
	c := Config{Schema: `a"b`, Prefix: "p_"}
	if got := c.expand("${outbox} ${p}x ${schema}"); got != `"a""b"."p_outbox" p_x "a""b"` {
		t.Error(got)
	}
	for _, prefix := range []string{"Bad", "1x", "a-b", `a"`, strings.Repeat("x", 33)} {
		if _, err := New(nil, Config{Prefix: prefix}); err == nil || !strings.Contains(err.Error(), "Prefix") {
			t.Errorf("prefix %q: %v", prefix, err)
		}
	}
	if _, err := New(nil, Config{Schema: strings.Repeat("x", 64)}); err == nil || !strings.Contains(err.Error(), "Schema") {
		t.Error(err)
	}
}

func TestArrayLiterals(t *testing.T) {
	values := []string{`a`, ``, `"q"`, `b\`, `{,}`, "ä\n", "NULL"}
	if got, want := textArray(len(values), func(i int) string { return values[i] }), `{"a","","\"q\"","b\\","{,}","ä`+"\n"+`","NULL"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := intArray([]uint64{1, 1<<63 + 1}); got != "{1,9223372036854775809}" {
		t.Error(got)
	}
}

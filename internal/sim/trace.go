package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// trace is what happened, in order. Nothing of it is formatted before it is printed.
type trace struct {
	lines  []line
	digest uint64 // of the effects: notes may come from goroutines that run at the same instant
}

type line struct {
	at       time.Duration
	who      string
	what, on string
	err      error
	remark   string
	notes    []note
}

type note struct {
	format string
	args   []any
}

func (t *trace) note(at time.Duration, who, format string, args ...any) {
	t.lines = append(t.lines, line{at: at, who: who, notes: []note{{format, args}}})
}

// begin opens a line for an effect, which detail adds to until end.
func (t *trace) begin(at time.Duration, who, what, on string) {
	t.lines = append(t.lines, line{at: at, who: who, what: what, on: on})
	t.mix(uint64(at) ^ hash(who) ^ hash(what)*3 ^ hash(on)*5)
}

func (t *trace) detail(format string, args ...any) {
	l := &t.lines[len(t.lines)-1]
	l.notes = append(l.notes, note{format, args})
}

func (t *trace) end(err error, remark string) {
	l := &t.lines[len(t.lines)-1]
	l.err, l.remark = err, remark
	if err != nil {
		t.mix(hash(remark) + 1)
	}
}

// mix adds to the digest, by which two runs are compared.
func (t *trace) mix(v uint64) { t.digest = (t.digest ^ v) * 1099511628211 }

func (t *trace) String() string {
	var b strings.Builder
	for _, l := range t.lines {
		fmt.Fprintf(&b, "%14.6f  %-10s", l.at.Seconds(), l.who)
		if l.what != "" {
			fmt.Fprintf(&b, "  %s %s", l.what, l.on)
		}
		for _, n := range l.notes {
			fmt.Fprintf(&b, "  "+n.format, n.args...)
		}
		switch {
		case l.err != nil && l.remark != "":
			fmt.Fprintf(&b, "  -> %v (%s)", l.err, l.remark)
		case l.err != nil:
			fmt.Fprintf(&b, "  -> %v", l.err)
		case l.remark != "":
			fmt.Fprintf(&b, "  (%s)", l.remark)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// effects returns the lines of effects, without those of notes.
func (t *trace) effects() *trace {
	return &trace{lines: slices.DeleteFunc(slices.Clone(t.lines), func(l line) bool { return l.what == "" })}
}

// differs returns the first effects that are different, and those before them.
func (t *trace) differs(other *trace) string {
	const before = 5
	a, b := t.effects(), other.effects()
	for i := range a.lines {
		if i >= len(b.lines) || a.lines[i].at != b.lines[i].at || a.lines[i].who != b.lines[i].who || a.lines[i].what != b.lines[i].what {
			from := max(0, i-before)
			a.lines, b.lines = a.lines[from:i+1], b.lines[from:min(i+1, len(b.lines))]
			return fmt.Sprintf("once\n%sand once\n%s", a, b)
		}
	}
	return "one is longer"
}

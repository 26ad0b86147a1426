package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// printOne prints one object, for people by show.
func printOne[T any](s *session, item T, show func(w io.Writer, item T)) error {
	if s.grammar.JSON {
		return printJSON(s.Out, item)
	}
	show(s.Out, item)
	return nil
}

// printList prints a list: one object a line, or a table.
func printList[T any](s *session, items []T, columns []string, row func(T) []string) error {
	if s.grammar.JSON {
		for _, item := range items {
			if err := printJSON(s.Out, item); err != nil {
				return err
			}
		}
		return nil
	}
	rows := make([][]string, len(items))
	for i, item := range items {
		rows[i] = row(item)
	}
	return printTable(s.Out, s.colour(), columns, rows)
}

func printJSON(w io.Writer, item any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(item)
}

// colour reports whether people see the output and like it coloured (no-color.org).
func (s *session) colour() bool {
	return s.OutTerminal && !slices.ContainsFunc(s.Environment, func(v string) bool {
		name, value, _ := strings.Cut(v, "=")
		return name == "NO_COLOR" && value != "" || name == "TERM" && value == "dumb"
	})
}

const (
	bold  = "\x1b[1m"
	red   = "\x1b[31m"
	amber = "\x1b[33m"
	green = "\x1b[32m"
	plain = "\x1b[0m"
)

// printTable prints columns that are as wide as their widest cell. The last one isn't filled up.
func printTable(w io.Writer, colour bool, columns []string, rows [][]string) error {
	width := make([]int, len(columns))
	all := append([][]string{columns}, rows...)
	for _, row := range all {
		for i := range row {
			row[i] = printable(row[i])
			width[i] = max(width[i], utf8.RuneCountInString(row[i]))
		}
	}
	for n, row := range all {
		var b strings.Builder
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+2))
			}
		}
		line := strings.TrimRight(b.String(), " ")
		if n == 0 && colour {
			line = bold + line + plain
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// printable keeps what others wrote from doing anything to the terminal: an event's key may hold any character.
func printable(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}

// ago says how long before now it was.
func (s *session) ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return span(s.now().Sub(t)) + " ago"
}

// span writes a duration with the precision that people need.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + span(-d)
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(time.Second / 10).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}

// when returns a time for JSON: RFC 3339 in UTC, null for none.
func when(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// clock writes a time for people.
func clock(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Format("2006-01-02T15:04:05.000Z")
}

// diskSize writes a size for people.
func diskSize(n int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.size {
			return fmt.Sprintf("%.1f %s", float64(n)/float64(u.size), u.name)
		}
	}
	return fmt.Sprintf("%d B", n)
}

// orDash is what a table shows for nothing.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

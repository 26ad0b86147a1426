package postgres

import (
	"strconv"
	"strings"
)

// textArray writes an array literal (PostgreSQL manual §8.15.2). Passing arrays as text, and casting them in the
// statement, works alike with every driver and through every pooler.
func textArray(n int, at func(i int) string) string {
	return array(n, at, `""`)
}

// nullableArray is textArray with NULL for what is empty.
func nullableArray(n int, at func(i int) string) string {
	return array(n, at, "NULL")
}

func array(n int, at func(i int) string, empty string) string {
	size := 2
	for i := range n {
		size += len(at(i)) + len(`"",`) + 8 // some room for quotes
	}
	var b strings.Builder
	b.Grow(size)
	b.WriteByte('{')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		s := at(i)
		if s == "" {
			b.WriteString(empty)
			continue
		}
		b.WriteByte('"')
		for {
			j := strings.IndexAny(s, `"\`)
			if j < 0 {
				break
			}
			b.WriteString(s[:j])
			b.WriteByte('\\')
			b.WriteByte(s[j])
			s = s[j+1:]
		}
		b.WriteString(s)
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}

// intArray writes an array literal of numbers.
func intArray[T ~int | ~int64 | ~uint64](values []T) string {
	b := []byte{'{'}
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		if v < 0 {
			b = strconv.AppendInt(b, int64(v), 10)
		} else {
			b = strconv.AppendUint(b, uint64(v), 10)
		}
	}
	return string(append(b, '}'))
}

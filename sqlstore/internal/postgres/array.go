package postgres

import (
	"strconv"
	"strings"
)

// textArray writes an array literal (PostgreSQL manual §8.15.2). Passing arrays as text, and casting them in the
// statement, works alike with every driver and through every pooler.
func textArray(n int, at func(i int) string) string {
	var b strings.Builder
	b.WriteByte('{')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		s := at(i)
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

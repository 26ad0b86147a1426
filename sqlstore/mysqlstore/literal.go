package mysqlstore

import (
	"encoding/hex"
	"strconv"
	"strings"
)

// Lists are written into the statement: a placeholder for each element would make every length another statement to
// prepare, and the number of placeholders has a limit. Numbers and hexadecimal literals need no quoting, and the
// latter are bytes whatever the character set of the connection.

// numbers writes (1,2,3).
func numbers(list []int64) string { return "(" + joined(list) + ")" }

// array writes [1,2,3].
func array(list []int64) string { return "[" + joined(list) + "]" }

func joined(list []int64) string {
	var b []byte
	for i, n := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, n, 10)
	}
	return string(b)
}

// texts writes (x'61', x'62').
func texts[T ~string](list []T) string {
	var b strings.Builder
	for i, s := range list {
		if i == 0 {
			b.WriteString("(x'")
		} else {
			b.WriteString(",x'")
		}
		b.WriteString(hex.EncodeToString([]byte(s)))
		b.WriteByte('\'')
	}
	b.WriteByte(')')
	return b.String()
}

// placeholders writes rows × (?, …) of width each.
func placeholders(rows, width int) string {
	one := "(" + strings.TrimSuffix(strings.Repeat("?,", width), ",") + "),"
	return strings.TrimSuffix(strings.Repeat(one, rows), ",")
}

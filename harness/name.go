package harness

import (
	"crypto/rand"
	"strings"
)

// uniqueName returns a name for a database or a virtual host that begins like the given one and that
// no other test has, here or in another process. It consists of a-z, 0-9 and _, so that it needs no
// quoting anywhere, and is shorter than PostgreSQL's limit of 63 bytes (NAMEDATALEN).
func uniqueName(like string) string {
	plain := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '_'
	}, like)
	return "surepost_" + plain[:min(len(plain), 40)] + "_" + strings.ToLower(rand.Text()[:10])
}

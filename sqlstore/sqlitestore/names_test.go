package sqlitestore

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzNames: a prefix is refused with a remedy, or needs no quotes wherever it stands.
func FuzzNames(f *testing.F) {
	for _, prefix := range []string{"surepost_", `p"; DROP TABLE orders; --`, "p'", "${p}", "P", "é", "a\n", "1", "_", "sqlite_x", strings.Repeat("x", 33)} {
		f.Add(prefix)
	}
	f.Fuzz(func(t *testing.T, prefix string) {
		c := Config{Prefix: prefix}.withDefaults()
		if err := c.validate(); err != nil {
			if text := err.Error(); !utf8.ValidString(text) || len(text) > 1<<10 || !strings.Contains(text, "Config.Prefix") {
				t.Fatalf("%.300q", text)
			}
			return
		}
		if name := c.expand("${outbox}"); name != c.Prefix+"outbox" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" ||
			len(name) > 63 || strings.Trim(name[:1], "0123456789_") == "" || strings.HasPrefix(name, "sqlite_") {
			t.Fatalf("%q", name)
		}
	})
}

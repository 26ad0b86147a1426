package cli

import (
	"fmt"
	"time"

	"github.com/surepost/surepost/cmd/surepost/internal/config"
)

// moment is a time on the command line: RFC 3339, a day, or how long ago it was.
type moment struct {
	time.Time
	relative bool // it was said by how long ago it was
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *moment) UnmarshalText(text []byte) error {
	s := string(text)
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			m.Time = t
			return nil
		}
	}
	if d, err := config.ParseDuration(s); err == nil && d >= 0 {
		m.Time, m.relative = time.Now().Add(-d), true
		return nil
	}
	return fmt.Errorf("%q is no time: write 2026-01-31T08:00:00Z, 2026-01-31 (UTC), or how long ago, such as 90m or 7d", s)
}

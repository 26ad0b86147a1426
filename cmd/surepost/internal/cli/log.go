package cli

import (
	"log/slog"

	"github.com/surepost/surepost/cmd/surepost/internal/config"
)

// logger writes to standard error as the configuration says.
func (s *session) logger(c *config.Config) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Log.Level)) // one of those that it knows: the key allows no other
	options := &slog.HandlerOptions{Level: level}
	if c.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(s.Err, options))
	}
	return slog.New(slog.NewTextHandler(s.Err, options))
}

package cli

import (
	"log/slog"

	"github.com/surepost/surepost/cmd/surepost/internal/config"
)

// logger writes to standard error as the configuration says.
func (s *session) logger(c *config.Config) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Log.Level)) // one of those that it knows: the key allows no other
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if err, is := a.Value.Any().(error); is && err != nil {
			a.Value = slog.StringValue(c.InKeys(err.Error()))
		}
		return a
	}}
	if c.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(s.Err, options))
	}
	return slog.New(slog.NewTextHandler(s.Err, options))
}

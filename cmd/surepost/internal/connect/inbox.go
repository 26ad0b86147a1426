package connect

import (
	"log/slog"

	"github.com/surepost/surepost/cmd/surepost/internal/config"
	"github.com/surepost/surepost/inbox"
)

// InboxRetention returns what the keys say of the inbox.
func InboxRetention(c *config.Config, logger *slog.Logger) inbox.Retention {
	i := c.Inbox
	return inbox.Retention{Window: i.Window, Redelivery: i.Redelivery, Queued: i.Queued, Redrive: i.Redrive, Replay: i.Replay, Logger: logger}
}

// ValidateInbox says whether the window is long enough. Only who removes records needs it to be.
func ValidateInbox(c *config.Config) config.Problems {
	return c.Translate(InboxRetention(c, nil).Validate())
}

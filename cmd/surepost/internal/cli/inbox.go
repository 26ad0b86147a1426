package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/surepost/surepost/cmd/surepost/internal/config"
	"github.com/surepost/surepost/cmd/surepost/internal/connect"
	"github.com/surepost/surepost/inbox"
)

type inboxGroup struct {
	Prune inboxPrune `cmd:"" help:"Remove records of what was handled before the window (inbox.window): those events would be handled again."`
}

type inboxPrune struct{ consent }

// Run removes what is old once: for a timer's use. A relay with inbox.prune, and consumers by inbox.Prune, do it each hour.
func (cmd inboxPrune) Run(s *session) error {
	db, err := s.open(connect.Needs{Database: true}, false)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := connect.ValidateInbox(db.config).OrNil(); err != nil {
		return err
	}
	store, err := able[inbox.Pruner](db, "prune its inbox")
	if err != nil {
		return err
	}
	window := db.config.Inbox.Window
	if err := s.confirm(cmd.consent, "forget what was handled more than "+config.FormatDuration(window)+" ago"); err != nil {
		return err
	}
	report, err := store.PruneInbox(s.ctx, window)
	if err != nil {
		return err
	}
	view := PruneView{report.Emptied, report.Removed, report.Attempts, report.Held, window.Seconds()}
	return printOne(s, view, func(w io.Writer, v PruneView) {
		fmt.Fprintf(w, "%s emptied, %s and %s of attempts removed.\n", plural(v.Emptied, "partition"), plural(int(v.Removed), "record"), plural(int(v.Attempts), "record"))
		for _, held := range v.Held {
			fmt.Fprintln(w, "held: "+printable(held))
		}
	})
}

// prune removes old records of the inbox, if the configuration says so, until the returned function is called.
func (s *session) prune(db *opened, logger *slog.Logger) (stop func(), err error) {
	if !db.config.Inbox.Prune {
		return func() {}, nil
	}
	store, err := able[inbox.Pruner](db, "prune its inbox")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(s.ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := inbox.Prune(ctx, store, connect.InboxRetention(db.config, logger)); err != nil {
			logger.Error("the inbox isn't pruned", "err", err) // not reached: the configuration was validated
		}
	}()
	return func() { cancel(); <-ended }, nil
}

package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
	"github.com/surepost/surepost/relay"
)

// planted are faults of this program's own, made on purpose: the ledger must find each. What is wrong with each is said where
// it is planted. By their names, with the processes that have them.
var planted = map[string][]string{
	"checkpoint-before-confirm": {"relay-1", "relay-2", "relay-3"},
	"event-outside-transaction": {"producer-go", "producer-sql"},
	"no-row-lock":               {"producer-go", "producer-sql"},
	"no-follow-up":              {shipping},
	"no-inbox":                  {billing, audit},
	"ack-before-commit":         {audit},
}

// hasty is a store whose readers pass as published what they have only read.
type hasty struct{ logStore }

// logStore is what the stores for PostgreSQL can do that the relays here ask for.
type logStore interface {
	relay.LaneStore
	relay.Retainer
}

func (h hasty) Open(ctx context.Context, lease relay.Lease) (relay.Log, error) {
	log, err := h.logStore.Open(ctx, lease)
	return hastyLog{log}, err
}

type hastyLog struct{ relay.Log }

func (h hastyLog) Read(ctx context.Context, limit int) (relay.Page, error) {
	page, err := h.Log.Read(ctx, limit)
	if err == nil {
		err = h.Log.Checkpoint(ctx, page.After, nil)
	}
	return page, err
}

// withoutInbox is a handler that doesn't know what it has handled.
type withoutInbox[TX any] struct{ *service[TX] }

func (w withoutInbox[TX]) Handle(ctx context.Context, event surepost.Event) (inbox.Result, error) {
	err := w.begin(ctx, func(tx TX) error { return w.handle(surepost.WithHandling(ctx, event), tx, event) })
	return inbox.Handled, err
}

// ackFirst is a handler that says that it is done before it is.
type ackFirst struct {
	inbox interface {
		Handle(context.Context, surepost.Event) (inbox.Result, error)
	}
}

func (a ackFirst) Handle(ctx context.Context, event surepost.Event) (inbox.Result, error) {
	go func() {
		time.Sleep(shortly)
		if _, err := a.inbox.Handle(context.WithoutCancel(ctx), event); err != nil {
			slog.Info("too late to say that it failed", "event", event.ID, "err", err)
		}
	}()
	return inbox.Handled, nil
}

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// settlePoll is how often the databases are asked: not so often that they feel it.
	settlePoll = 400 * time.Millisecond
	// quietFor is how long nothing may have moved before all is taken to be settled.
	quietFor = time.Second
	// stallLimit is how long the end waits for what is still missing while nothing moves. What comes later is as good
	// as lost.
	stallLimit = 20 * time.Second
)

// standing is how far everything is, by the databases and the broker.
type standing struct {
	orderEvents, stockEvents              int64 // in the logs
	reserved, notified                    int64
	inventoryCopies, notificationCopies   int64
	inventoryWaiting, notificationWaiting int // messages in the queues
	seen, copies, copiesToCome            int64
}

// complete reports whether nothing is known to be missing.
func (s standing) complete() bool {
	return s.reserved >= s.orderEvents && s.notified >= s.orderEvents+s.stockEvents &&
		s.inventoryWaiting == 0 && s.notificationWaiting == 0 && s.copiesToCome == 0
}

// settle waits until everything that was written has had its effects, or until nothing moves any more though
// something is missing.
func (st *stage) settle(ctx context.Context, tick func()) error {
	last, moved := standing{}, time.Now()
	for {
		now, err := st.standing(ctx)
		if err != nil {
			return err
		}
		if now != last {
			last, moved = now, time.Now()
		}
		still := time.Since(moved)
		switch {
		case now.complete() && still >= quietFor:
			return nil
		case still >= stallLimit:
			st.progress.Say("nothing has moved for %v, though something is missing: what isn't there now counts as lost", stallLimit)
			return nil
		}
		tick()
		select {
		case <-time.After(settlePoll):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (st *stage) standing(ctx context.Context) (s standing, err error) {
	counts := func(pool *pgxpool.Pool, sql string, into ...any) {
		if err == nil {
			if err = pool.QueryRow(ctx, sql).Scan(into...); err != nil {
				err = fmt.Errorf("look how far everything is: %w", err)
			}
		}
	}
	counts(st.orders, `SELECT count(*) FROM surepost_outbox`, &s.orderEvents)
	// Events, not rows: an effect that happened twice must not stand for one that is missing.
	counts(st.inventory, `
		SELECT (SELECT count(*) FROM surepost_outbox), (SELECT count(*) FROM (SELECT DISTINCT event_id FROM reservations) AS events),
			(SELECT count(*) FROM dropped_copies)`, &s.stockEvents, &s.reserved, &s.inventoryCopies)
	counts(st.notification, `
		SELECT (SELECT count(*) FROM (SELECT DISTINCT event_id FROM notifications) AS events),
			(SELECT count(*) FROM dropped_copies)`, &s.notified, &s.notificationCopies)
	if err == nil {
		s.inventoryWaiting, err = st.redelivery.ready(inventoryQueue)
	}
	if err == nil {
		s.notificationWaiting, err = st.redelivery.ready(notificationQueue)
	}
	s.seen, s.copies, s.copiesToCome = st.redelivery.seen.Load(), st.redelivery.copies.Load(), st.redelivery.toCome.Load()
	return s, err
}

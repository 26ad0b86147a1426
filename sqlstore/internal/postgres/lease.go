package postgres

import (
	"context"
	"time"

	"github.com/surepost/surepost/relay"
)

// Acquire implements relay.Store.
func (e *Engine) Acquire(ctx context.Context, lane relay.Lane, owner string, ttl time.Duration) (relay.Lease, error) {
	lease := relay.Lease{Lane: lane, Owner: owner}
	err := e.control.do(ctx, func(q Querier) error {
		got, err := queryRow(ctx, q, e.sql.acquire, []any{lane.Destination, int64(lane.Index), int64(lane.Of), owner, ttl.Milliseconds()}, &lease.Epoch)
		if err != nil {
			return e.explain("take the lane's lease", err)
		}
		if got {
			return nil
		}
		held := &relay.LeaseHeldError{Lane: lane}
		var expiresMillis int64
		if _, err := queryRow(ctx, q, e.sql.holder, []any{lane.Destination, int64(lane.Index)}, &held.Owner, &expiresMillis); err != nil {
			return e.explain("see who holds the lane's lease", err)
		}
		held.Expires = time.Duration(expiresMillis) * time.Millisecond
		return held
	})
	if err != nil {
		return relay.Lease{}, err
	}
	return lease, nil
}

// Renew implements relay.Store.
func (e *Engine) Renew(ctx context.Context, lease relay.Lease, ttl time.Duration) error {
	return e.control.do(ctx, func(q Querier) error {
		n, err := q.Exec(ctx, e.sql.renew, lease.Lane.Destination, int64(lease.Lane.Index), lease.Epoch, ttl.Milliseconds(), lease.Owner)
		if err != nil {
			return e.explain("renew the lane's lease", err)
		}
		if n == 0 {
			return relay.ErrLeaseLost
		}
		return nil
	})
}

// Release implements relay.Store.
func (e *Engine) Release(ctx context.Context, lease relay.Lease) error {
	return e.control.do(ctx, func(q Querier) error {
		_, err := q.Exec(ctx, e.sql.release, lease.Lane.Destination, int64(lease.Lane.Index), lease.Epoch, lease.Owner)
		return e.explain("release the lane's lease", err)
	})
}

package postgres

import (
	"context"
	"time"

	"github.com/surepost/surepost/relay"
)

// Acquire implements relay.Store.
func (e *Engine) Acquire(ctx context.Context, lane relay.Lane, owner string, ttl time.Duration) (lease relay.Lease, err error) {
	err = e.control.do(ctx, func(q Querier) error {
		lease, err = e.acquire(ctx, q, lane, owner, ttl)
		return err
	})
	return lease, err
}

func (e *Engine) acquire(ctx context.Context, q Querier, lane relay.Lane, owner string, ttl time.Duration) (relay.Lease, error) {
	args := []any{lane.Destination, int64(lane.Index), int64(lane.Of), owner, ttl.Milliseconds()}
	for created := false; ; created = true {
		lease := relay.Lease{Lane: lane, Owner: owner}
		got, err := queryRow(ctx, q, e.sql.acquire, args, &lease.Epoch)
		if err != nil {
			return relay.Lease{}, e.explain("take the lane's lease", err)
		}
		if got {
			return lease, nil
		}
		held := &relay.LeaseHeldError{Lane: lane}
		var lanes, expiresMillis int64
		known, err := queryRow(ctx, q, e.sql.holder, args[:2], &lanes, &held.Owner, &expiresMillis)
		switch {
		case err != nil:
			return relay.Lease{}, e.explain("see who holds the lane's lease", err)
		case known && int(lanes) != lane.Of:
			return relay.Lease{}, &relay.LanesChangedError{Destination: lane.Destination, Lanes: int(lanes)}
		case known || created:
			held.Expires = time.Duration(expiresMillis) * time.Millisecond
			return relay.Lease{}, held
		}
		if _, err := q.Exec(ctx, e.sql.found, lane.Destination, int64(lane.Of)); err != nil {
			return relay.Lease{}, e.explain("create the destination", err)
		}
	}
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

// Join implements relay.LaneStore.
func (e *Engine) Join(
	ctx context.Context, destination, owner, instance string, lanes int, ttl time.Duration,
) (m relay.Membership, err error) {
	err = e.control.do(ctx, func(q Querier) error {
		if err := e.signOfLife(ctx, q, destination, owner, instance, ttl); err != nil {
			return err
		}
		m, err = e.membership(ctx, q, destination)
		if err == nil && m.Lanes == 0 {
			if _, err := q.Exec(ctx, e.sql.found, destination, int64(lanes)); err != nil {
				return e.explain("create the destination", err)
			}
			m, err = e.membership(ctx, q, destination)
		}
		return err
	})
	return m, err
}

func (e *Engine) signOfLife(ctx context.Context, q Querier, destination, owner, instance string, ttl time.Duration) error {
	n, err := q.Exec(ctx, e.sql.join, destination, owner, instance, ttl.Milliseconds())
	if err != nil {
		return e.explain("say that the relay is alive", err)
	}
	if n > 0 {
		return nil
	}
	taken := &relay.OwnerTakenError{Destination: destination, Owner: owner}
	var expiresMillis int64
	found, err := queryRow(ctx, q, e.sql.namesake, []any{destination, owner}, &taken.Instance, &taken.ExpiresAt, &expiresMillis)
	if err != nil {
		return e.explain("see which relay has the owner's name", err)
	}
	if !found {
		return e.signOfLife(ctx, q, destination, owner, instance, ttl) // it left just now
	}
	taken.Expires = time.Duration(expiresMillis) * time.Millisecond
	return taken
}

// membership is empty if there is no such destination.
func (e *Engine) membership(ctx context.Context, q Querier, destination string) (m relay.Membership, err error) {
	const doing = "see how the lanes and their relays stand"
	rows, err := q.Query(ctx, e.sql.members, destination)
	if err != nil {
		return m, e.explain(doing, err)
	}
	defer rows.Close()
	for rows.Next() {
		var (
			kind, lane int64 // a relay has no lane
			s          relay.LeaseState
			lanes      int64
		)
		if err := rows.Scan(&kind, &lanes, &lane, &s.Owner, &s.Epoch, &s.ExpiresAt, &s.Expired); err != nil {
			return m, e.explain(doing, err)
		}
		m.Lanes = int(lanes)
		switch kind {
		case memberRelay:
			m.Relays = append(m.Relays, s.Owner)
		case memberLease:
			s.Lane = relay.Lane{Destination: destination, Index: int(lane), Of: m.Lanes}
			m.Leases = append(m.Leases, s)
		}
	}
	return m, e.explain(doing, rows.Err())
}

// The kinds of rows that the statement members returns.
const (
	memberDestination = iota // it is there
	memberRelay
	memberLease
)

// Leave implements relay.LaneStore.
func (e *Engine) Leave(ctx context.Context, destination, owner, instance string) error {
	return e.control.do(ctx, func(q Querier) error {
		_, err := q.Exec(ctx, e.sql.leave, destination, owner, instance)
		return e.explain("take the relay off", err)
	})
}

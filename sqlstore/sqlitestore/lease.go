package sqlitestore

import (
	"context"
	"database/sql"
	"time"

	"github.com/surepost/surepost/relay"
)

// A lease's clock is the machine's: all processes that use the file run on it. A clock that jumps ends a lease early or
// late, and no more: whoever held a lower epoch writes nothing.

// Acquire implements relay.Store.
func (s *Store) Acquire(ctx context.Context, lane relay.Lane, owner string, ttl time.Duration) (relay.Lease, error) {
	lease := relay.Lease{Lane: lane, Owner: owner}
	err := s.transact(ctx, func(tx *sql.Tx) error {
		now := time.Now()
		got, err := exec(ctx, tx, s.sql.acquire,
			lane.Destination, int64(lane.Index), int64(lane.Of), owner, micros(now.Add(ttl)), micros(now))
		if err != nil {
			return explain("take the lane's lease", err)
		}
		held := &relay.LeaseHeldError{Lane: lane}
		var expires int64
		err = tx.QueryRowContext(ctx, s.sql.holder, lane.Destination, int64(lane.Index)).Scan(&held.Owner, &lease.Epoch, &expires)
		if err != nil {
			return explain("see who holds the lane's lease", err)
		}
		if got == 0 {
			held.Expires = time.Duration(expires-micros(now)) * time.Microsecond
			return held
		}
		return nil
	})
	if err != nil {
		return relay.Lease{}, err
	}
	return lease, nil
}

// Renew implements relay.Store.
func (s *Store) Renew(ctx context.Context, lease relay.Lease, ttl time.Duration) error {
	if s.db == nil {
		return errNoDB
	}
	n, err := exec(ctx, s.db, s.sql.renew,
		micros(time.Now().Add(ttl)), lease.Lane.Destination, int64(lease.Lane.Index), lease.Epoch, lease.Owner)
	if err != nil {
		return explain("renew the lane's lease", err)
	}
	if n == 0 {
		return relay.ErrLeaseLost
	}
	return nil
}

// Release implements relay.Store.
func (s *Store) Release(ctx context.Context, lease relay.Lease) error {
	if s.db == nil {
		return errNoDB
	}
	_, err := s.db.ExecContext(ctx, s.sql.release,
		micros(time.Now()), lease.Lane.Destination, int64(lease.Lane.Index), lease.Epoch, lease.Owner)
	return explain("release the lane's lease", err)
}

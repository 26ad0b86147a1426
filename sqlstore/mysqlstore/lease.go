package mysqlstore

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/surepost/surepost/relay"
)

// Acquire implements relay.Store. As the log's events are deleted once they are published, it has one destination.
func (s *Store) Acquire(ctx context.Context, lane relay.Lane, owner string, ttl time.Duration) (relay.Lease, error) {
	if lane.Destination != relay.DefaultDestination {
		return relay.Lease{}, misfit("destination %q: this log's events are deleted once they are published, so it has only the "+
			"destination %q: leave relay.Config.Destination empty; let the broker pass events on to another, or write those that another "+
			"is to have to a store with a Config.Prefix of its own", lane.Destination, relay.DefaultDestination)
	}
	lease := relay.Lease{Lane: lane, Owner: owner}
	err := s.lead(ctx, func(tx *sql.Tx) error {
		holder, err := s.holder(ctx, tx, lane)
		if err != nil {
			return explain("see who holds the lane's lease", err)
		}
		if holder.owner != "" && holder.owner != owner && holder.expires >= 0 {
			return &relay.LeaseHeldError{Lane: lane, Owner: holder.owner, Expires: holder.expires}
		}
		_, err = tx.ExecContext(ctx, s.sql.acquire, []byte(owner), lane.Of, ttl.Microseconds(), lane.Index)
		lease.Epoch = holder.epoch + 1
		return explain("take the lane's lease", err)
	})
	if err != nil {
		return relay.Lease{}, err
	}
	return lease, nil
}

// holder is the lane's row in the lease table.
type holder struct {
	owner   string
	epoch   int64
	expires time.Duration // from now
	settled int64
}

// holder locks and reads the lane's row, and makes it where there is none.
func (s *Store) holder(ctx context.Context, tx *sql.Tx, lane relay.Lane) (h holder, err error) {
	var micros int64
	read := func() error {
		return tx.QueryRowContext(ctx, s.sql.holder, lane.Index).Scan(&h.owner, &h.epoch, &micros, &h.settled)
	}
	if err = read(); errors.Is(err, sql.ErrNoRows) {
		if _, err = tx.ExecContext(ctx, s.sql.laneThere, lane.Index, lane.Of); err == nil {
			err = read()
		}
	}
	h.expires = time.Duration(micros) * time.Microsecond
	return h, err
}

// Renew implements relay.Store.
func (s *Store) Renew(ctx context.Context, lease relay.Lease, ttl time.Duration) error {
	if lease.Lane.Destination != relay.DefaultDestination {
		return relay.ErrLeaseLost // nobody was given such a lease
	}
	return s.lead(ctx, func(tx *sql.Tx) error {
		return explain("renew the lane's lease", held(tx.ExecContext(ctx, s.sql.renew, ownLeaseArgs(lease, ttl.Microseconds())...)))
	})
}

// Release implements relay.Store.
func (s *Store) Release(ctx context.Context, lease relay.Lease) error {
	if lease.Lane.Destination != relay.DefaultDestination {
		return nil // nobody was given such a lease
	}
	return s.lead(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, s.sql.release, ownLeaseArgs(lease)...)
		return explain("release the lane's lease", err)
	})
}

// ownLeaseArgs are the arguments of a statement that ends with ownLease.
func ownLeaseArgs(lease relay.Lease, before ...any) []any {
	return append(before, lease.Lane.Index, lease.Epoch, []byte(lease.Owner))
}

// held turns a statement guarded by the lease that has changed nothing into ErrLeaseLost.
func held(result sql.Result, err error) error {
	if err != nil {
		return err
	}
	affected, err := result.RowsAffected()
	if err == nil && affected == 0 {
		return relay.ErrLeaseLost
	}
	return err
}

package mysqlstore

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/surepost/surepost/relay"
)

// Acquire implements relay.Store. As the log's events are deleted once they are published, it has one destination: the
// first. Another one is refused.
func (s *Store) Acquire(ctx context.Context, lane relay.Lane, owner string, ttl time.Duration) (relay.Lease, error) {
	lease := relay.Lease{Lane: lane, Owner: owner}
	err := s.lead(ctx, func(tx *sql.Tx) error {
		holder, err := s.holder(ctx, tx, lane)
		if err != nil {
			return explain("see who holds the lane's lease", err)
		}
		if holder.epoch > 0 && holder.destination != lane.Destination {
			return s.secondDestination(lane, holder.destination)
		}
		if holder.owner != "" && holder.owner != owner && holder.expires >= 0 {
			return &relay.LeaseHeldError{Lane: lane, Owner: holder.owner, Expires: holder.expires}
		}
		_, err = tx.ExecContext(ctx, s.sql.acquire, []byte(lane.Destination), []byte(owner), lane.Of, ttl.Microseconds(), lane.Index)
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
	destination, owner string
	epoch              int64
	expires            time.Duration // from now
}

// holder locks and reads the lane's row, and makes it where there is none.
func (s *Store) holder(ctx context.Context, tx *sql.Tx, lane relay.Lane) (h holder, err error) {
	var micros int64
	read := func() error {
		return tx.QueryRowContext(ctx, s.sql.holder, lane.Index).Scan(&h.destination, &h.owner, &h.epoch, &micros)
	}
	if err = read(); errors.Is(err, sql.ErrNoRows) {
		if _, err = tx.ExecContext(ctx, s.sql.laneThere, lane.Index, lane.Of, []byte(lane.Destination)); err == nil {
			err = read()
		}
	}
	h.expires = time.Duration(micros) * time.Microsecond
	return h, err
}

func (s *Store) secondDestination(lane relay.Lane, first string) error {
	return misfit("this log is published to destination %[1]q, and its events are deleted then, so a relay to %[2]q would get only "+
		"some of them: let the broker of %[1]q pass them on, or give the events of %[2]q a store with a Config.Prefix of its own. If %[1]q is to be "+
		"called %[2]q from now on, stop its relays and run: UPDATE %[3]s SET destination = '%[2]s'; UPDATE %[4]s SET destination = '%[2]s'",
		first, lane.Destination, s.config.name("lease"), s.config.name("parked"))
}

// Renew implements relay.Store.
func (s *Store) Renew(ctx context.Context, lease relay.Lease, ttl time.Duration) error {
	return s.lead(ctx, func(tx *sql.Tx) error {
		return explain("renew the lane's lease", held(tx.ExecContext(ctx, s.sql.renew, ownLeaseArgs(lease, ttl.Microseconds())...)))
	})
}

// Release implements relay.Store.
func (s *Store) Release(ctx context.Context, lease relay.Lease) error {
	return s.lead(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, s.sql.release, ownLeaseArgs(lease)...)
		return explain("release the lane's lease", err)
	})
}

// ownLeaseArgs are the arguments of a statement that ends with ownLease.
func ownLeaseArgs(lease relay.Lease, before ...any) []any {
	return append(before, lease.Lane.Index, lease.Epoch, []byte(lease.Owner), []byte(lease.Lane.Destination))
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

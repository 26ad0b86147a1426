package mysqlstore

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"time"

	"github.com/surepost/surepost/relay"
)

// Status returns how the outbox stands. The log's events are deleted once they are published, and those that are left are
// the backlog: it is counted up to 10,000 and estimated by the numbers beyond; parked events are counted up to 100,000.
// Sizes are the server's estimates. CheckpointAt isn't known.
func (s *Store) Status(ctx context.Context) (status relay.OutboxStatus, err error) {
	if s.db == nil {
		return status, ErrNoPool
	}
	err = snapshot(ctx, s.db, func(tx *sql.Tx) error {
		status = relay.OutboxStatus{}
		d := relay.DestinationStatus{Destination: relay.Destination{Name: relay.DefaultDestination, Lanes: 1}}
		lane, err := s.laneStatus(ctx, tx)
		if err != nil {
			return err
		}
		d.LanesStatus, status.OldestEvent = []relay.LaneStatus{lane}, lane.OldestUnpublished
		if err := s.parkedStatus(ctx, tx, &d); err != nil {
			return err
		}
		status.Destinations = []relay.DestinationStatus{d}
		for table, bytes := range map[string]*int64{"outbox": &status.LogBytes, "inbox": &status.InboxBytes} {
			err := tx.QueryRowContext(ctx, "SELECT CAST(COALESCE(SUM(data_length + index_length), 0) AS SIGNED) FROM information_schema.tables "+
				"WHERE table_schema = COALESCE(NULLIF(?, ''), DATABASE()) AND table_name = ?", s.config.Database, s.config.Prefix+table).Scan(bytes)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return status, explain("read how the outbox stands", err)
}

const (
	backlogCounted = 10_000
	parkedCounted  = 100_000
)

func (s *Store) laneStatus(ctx context.Context, tx *sql.Tx) (lane relay.LaneStatus, err error) {
	lane.Lane = relay.Lane{Destination: relay.DefaultDestination, Of: 1}
	var micros, settled int64
	err = tx.QueryRowContext(ctx, s.config.expand("SELECT owner, epoch, TIMESTAMPDIFF(MICROSECOND, UTC_TIMESTAMP(6), expires_at), settled FROM ${lease} WHERE lane = 0")).
		Scan(&lane.Owner, &lane.Epoch, &micros, &settled)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return lane, err
	}
	if lane.Owner != "" {
		lane.Expires = time.Duration(micros) * time.Microsecond
	}
	// Up to settled there is nothing but what wasn't purged. Plans: ranges of the primary key, as many rows as are counted,
	// and its end.
	var last, drawn int64
	var oldest sql.NullString
	err = tx.QueryRowContext(ctx, s.config.expand("SELECT COUNT(*), CAST(MIN(time) AS CHAR), COALESCE(MAX(seq), 0), COALESCE((SELECT MAX(seq) FROM ${outbox}), 0) "+
		"FROM (SELECT seq, time FROM ${outbox} FORCE INDEX (PRIMARY) WHERE seq > ? ORDER BY seq LIMIT "+strconv.Itoa(backlogCounted)+") newest"), settled).
		Scan(&lane.Backlog, &oldest, &last, &drawn)
	if oldest.Valid {
		lane.OldestUnpublished = readTimestamp(oldest.String)
	}
	if lane.Backlog == backlogCounted {
		lane.Backlog += max(drawn-last, 0)
	}
	return lane, err
}

func (s *Store) parkedStatus(ctx context.Context, tx *sql.Tx, d *relay.DestinationStatus) error {
	var at sql.NullString
	err := tx.QueryRowContext(ctx, s.config.expand("SELECT COUNT(*), COUNT(DISTINCT CASE WHEN `key` <> '' AND NOT behind AND retry_at IS NULL THEN `key` END), CAST(MIN(parked_at) AS CHAR) "+
		"FROM (SELECT `key`, behind, retry_at, parked_at FROM ${parked} WHERE destination = ? LIMIT "+strconv.Itoa(parkedCounted)+") p"), []byte(d.Name)).
		Scan(&d.Parked, &d.ParkedKeys, &at)
	if at.Valid {
		d.ParkedAt = readTimestamp(at.String)
	}
	return err
}

package sqlitestore

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/surepost/surepost/relay"
)

// Status returns how the outbox stands. It takes no lock. A lane's backlog is counted up to 10,000 and estimated by the
// numbers beyond, parked events are counted up to 100,000; LogBytes is the size of the whole file, since SQLite doesn't
// tell a table's.
func (s *Store) Status(ctx context.Context) (status relay.OutboxStatus, err error) {
	if s.db == nil {
		return status, errNoDB
	}
	names, err := column(ctx, s.db, s.config.expand(`SELECT destination FROM ${lease} UNION SELECT destination FROM ${checkpoint} UNION SELECT destination FROM ${parked} ORDER BY 1`))
	if err != nil {
		return status, explain("list the destinations", err)
	}
	if len(names) == 0 {
		names = []string{relay.DefaultDestination}
	}
	for _, name := range names {
		d, err := s.destinationStatus(ctx, name)
		if err != nil {
			return status, explain("read how destination "+name+" stands", err)
		}
		status.Destinations = append(status.Destinations, d)
	}
	var oldest sql.NullInt64
	err = s.db.QueryRowContext(ctx, s.config.expand(`SELECT (SELECT page_count FROM pragma_page_count) * (SELECT page_size FROM pragma_page_size), (SELECT time FROM ${outbox} ORDER BY seq LIMIT 1)`)).
		Scan(&status.LogBytes, &oldest)
	if oldest.Valid {
		status.OldestEvent = timeOf(oldest.Int64)
	}
	return status, explain("read the size of the file", err)
}

const (
	backlogCounted = 10_000
	parkedCounted  = 100_000
)

func (s *Store) destinationStatus(ctx context.Context, name string) (d relay.DestinationStatus, err error) {
	d.Name, d.Lanes = name, 1
	lane := relay.LaneStatus{Lane: relay.Lane{Destination: name, Of: 1}}
	var (
		expires, at, oldest, parkedAt sql.NullInt64
		hot, last, drawn              int64
	)
	// Plan: probes of primary keys.
	err = s.db.QueryRowContext(ctx, s.config.expand(`SELECT coalesce(l.owner, ''), coalesce(l.epoch, 0), l.expires_at, c.at, coalesce(c.seq, 0),
    max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = '${outbox}'), 0), coalesce((SELECT max(seq) FROM ${outbox}), 0))
FROM (SELECT ? AS name) d LEFT JOIN ${lease} l ON l.destination = d.name AND l.lane = 0 LEFT JOIN ${checkpoint} c ON c.destination = d.name AND c.lane = 0`), name).
		Scan(&lane.Owner, &lane.Epoch, &expires, &at, &hot, &drawn)
	if err != nil {
		return d, err
	}
	if lane.Owner != "" {
		lane.Expires = time.Until(time.UnixMicro(expires.Int64))
	}
	if at.Valid {
		lane.CheckpointAt = timeOf(at.Int64)
	}
	// Plan: SEARCH of the outbox by rowid, as many rows as are counted.
	err = s.db.QueryRowContext(ctx, s.config.expand(fmt.Sprintf(`SELECT count(*), min(time), coalesce(max(seq), 0) FROM (SELECT seq, time FROM ${outbox} WHERE seq > ? ORDER BY seq LIMIT %d)`, backlogCounted)), hot).
		Scan(&lane.Backlog, &oldest, &last)
	if err != nil {
		return d, err
	}
	if oldest.Valid {
		lane.OldestUnpublished = timeOf(oldest.Int64)
	}
	if lane.Backlog == backlogCounted {
		lane.Backlog += max(drawn-last, 0)
	}
	d.LanesStatus = []relay.LaneStatus{lane}
	err = s.db.QueryRowContext(ctx, s.config.expand(fmt.Sprintf(`SELECT count(*), count(DISTINCT CASE WHEN key <> '' AND behind = 0 AND retry_at IS NULL THEN key END), min(parked_at)
FROM (SELECT key, behind, retry_at, parked_at FROM ${parked} WHERE destination = ? LIMIT %d)`, parkedCounted)), name).
		Scan(&d.Parked, &d.ParkedKeys, &parkedAt)
	if parkedAt.Valid {
		d.ParkedAt = timeOf(parkedAt.Int64)
	}
	return d, err
}

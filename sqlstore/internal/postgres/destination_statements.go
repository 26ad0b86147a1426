package postgres

// destinationStatements are the SQL texts of destinations and replays.
type destinationStatements struct {
	moment            string
	destinations      string
	lockDestinations  string
	createDestination string
	removeDestination []string
	aliveOn           string
	countParked       string
	replayPart        string
	replayDone        string
}

const destinations = `SELECT name, lanes, created_at, filter IS NOT NULL, coalesce(filter::text, ''), coalesce(created_by, ''), done_at FROM ${destination} ORDER BY name`

func newDestinationStatements(c Config) destinationStatements {
	return destinationStatements{
		// In the order of evaluation that readStatement explains.
		moment: c.expand(`SELECT ` + drawn + `, pg_current_snapshot()::text,
       (pg_snapshot_xmax(pg_current_snapshot())::text::bigint + age(pg_snapshot_xmax(pg_current_snapshot())::xid))::text FROM ${sequence} s`),

		destinations:     c.expand(destinations),
		lockDestinations: c.expand(destinations + ` FOR UPDATE`),

		// Checkpoints of epoch 0 are older than any relay's. What another process knows of a destination of this name, and be
		// it only a lease, is in the way: its place would win over the one that is asked for.
		createDestination: c.expand(`WITH made AS (
    INSERT INTO ${destination} (name, filter, until_seq, created_by, until_snap)
    SELECT $1, nullif($5::text, '')::json, nullif($6::bigint, 0), nullif($7::text, ''), nullif($8::text, '')::pg_snapshot
    WHERE NOT EXISTS (SELECT FROM ${lease} WHERE destination = $1) AND NOT EXISTS (SELECT FROM ${checkpoint} WHERE destination = $1)
    ON CONFLICT DO NOTHING RETURNING name, created_at
), placed AS (
    INSERT INTO ${checkpoint} (destination, lane, epoch, n, hot, snap, next)
    SELECT name, 0, 0, 0, $2::bigint, nullif($3::text, '')::pg_snapshot, nullif($4::text, '')::xid8 FROM made WHERE $3::text <> ''
)
SELECT created_at FROM made`),

		removeDestination: []string{
			c.expand(`DELETE FROM ${checkpoint} WHERE destination = $1`),
			c.expand(`DELETE FROM ${lease} WHERE destination = $1`),
			c.expand(`DELETE FROM ${relay} WHERE destination = $1`),
			c.expand(`DELETE FROM ${destination} WHERE name = $1`),
		},

		aliveOn: c.expand(`SELECT owner FROM ${relay} WHERE destination = $1 AND expires_at > clock_timestamp()
UNION SELECT owner FROM ${lease} WHERE destination = $1 AND owner <> '' AND expires_at > clock_timestamp() ORDER BY 1`),

		countParked: c.expand(`SELECT count(*) FROM ${parked} WHERE destination = $1`),

		replayPart: c.expand(`SELECT filter::text, until_seq, until_snap::text FROM ${destination} WHERE name = $1 AND filter IS NOT NULL`),

		// Done when every lane has come to the end. Plan: an index probe of the checkpoints' primary key for each lane.
		replayDone: c.expand(`UPDATE ${destination} d SET done_at = clock_timestamp()
WHERE name = $1 AND done_at IS NULL AND filter IS NOT NULL AND NOT EXISTS (
    SELECT FROM generate_series(0, d.lanes - 1) AS l (lane)
    WHERE coalesce((SELECT hot FROM ${checkpoint} c WHERE c.destination = d.name AND c.lane = l.lane ORDER BY epoch DESC, n DESC LIMIT 1), -1) < d.until_seq)`),
	}
}

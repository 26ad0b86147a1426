package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/surepost/surepost/diagnosis"
	"github.com/surepost/surepost/relay"
)

// checkLanes sees whether all that is written is also published.
func (p *practice) checkLanes(ctx context.Context, q Querier) (found []diagnosis.Finding, err error) {
	var status relay.OutboxStatus
	if err := p.engine.readStatus(ctx, q, &status); err != nil {
		return nil, err
	}
	var now time.Time
	if _, err := queryRow(ctx, q, `SELECT clock_timestamp()`, nil, &now); err != nil {
		return nil, err
	}
	for _, d := range status.Destinations {
		found = append(found, judgeDestination(d, p.limits, now)...)
	}
	found = append(found, judgeSchedule(status, now)...)
	return append(found, judgeRetention(status, p.limits, now)...), nil
}

// judgeDestination says what is wrong with a destination's relays and lanes.
func judgeDestination(d relay.DestinationStatus, limits diagnosis.Limits, now time.Time) (found []diagnosis.Finding) {
	if d.Replay != nil && !d.Replay.DoneAt.IsZero() {
		return nil
	}
	led := 0
	for _, l := range d.LanesStatus {
		if l.Owner != "" && l.Expires > 0 {
			led++
		}
	}
	if led == 0 && len(d.Relays) == 0 {
		return []diagnosis.Finding{noRelay(d, now)}
	}
	for _, l := range d.LanesStatus {
		if f, wrong := judgeLane(l, limits, now); wrong {
			found = append(found, f)
		}
	}
	return fewer(found)
}

// noRelay is about a destination that nobody publishes for.
func noRelay(d relay.DestinationStatus, now time.Time) diagnosis.Finding {
	f := diagnosis.Finding{Code: "no-relay", Severity: diagnosis.Warning, Subject: "destination " + d.Name, Cause: "no relay is alive, and no event waits yet",
		Remedy: "start one (surepost relay, or relay.Relay.Run), or see why it can't reach the database; a destination that is of no use any more also holds " +
			"back the log's retention: surepost destinations remove " + d.Name}
	if n := d.Backlog(); n > 0 {
		f.Severity = diagnosis.Critical
		f.Cause = fmt.Sprintf("no relay is alive: %d events wait%s", n, oldestSince(d.OldestUnpublished(), now))
	}
	if d.Replay != nil {
		f.Severity = diagnosis.Notice
		f.Cause = fmt.Sprintf("the replay isn't done, and nobody runs it: %d events are left", d.Backlog())
		f.Remedy = "run it (surepost replay), or remove it: until then it holds back the log's retention"
	}
	return f
}

func oldestSince(oldest, now time.Time) string {
	if oldest.IsZero() {
		return ""
	}
	return fmt.Sprintf(", the oldest for %v", short(now.Sub(oldest)))
}

// judgeLane says what is wrong with a lane of a destination that has relays.
func judgeLane(l relay.LaneStatus, limits diagnosis.Limits, now time.Time) (f diagnosis.Finding, wrong bool) {
	f = diagnosis.Finding{Severity: diagnosis.Warning, Subject: "lane " + l.Lane.String()}
	behind := !l.OldestUnpublished.IsZero() && now.Sub(l.OldestUnpublished) > limits.Behind
	if behind {
		f.Severity = diagnosis.Critical
	}
	waiting := fmt.Sprintf("%d events wait%s", l.Backlog, oldestSince(l.OldestUnpublished, now))
	switch {
	case l.Owner == "":
		f.Code, f.Cause = "lane-unowned", "no relay has the lane: "+waiting
		f.Remedy = "within some seconds a relay takes it; if none does, see the relays' logs for why"
	case l.Expires <= 0:
		f.Code, f.Cause = "lease-expired", fmt.Sprintf("the lease of %s ran out %v ago, and no relay has taken the lane: %s", l.Owner, short(-l.Expires), waiting)
		f.Remedy = "within some seconds another relay takes it; if none does, see the relays' logs, and whether " + l.Owner + " runs and reaches the database"
	case behind:
		f.Code = "lane-behind"
		if now.Sub(l.OldestUnpublished) <= 10*limits.Behind {
			f.Severity = diagnosis.Warning
		}
		moved := "it has published nothing yet"
		if !l.CheckpointAt.IsZero() {
			moved = fmt.Sprintf("it came forward %v ago", short(now.Sub(l.CheckpointAt)))
		}
		f.Cause = fmt.Sprintf("%s; %s has the lane, and %s", waiting, l.Owner, moved)
		f.Remedy = "if it doesn't come forward, the broker takes nothing or the relay is stuck: see its log, and what the doctor says of the broker; " +
			"if it does and doesn't catch up, use more lanes (surepost destinations lanes)"
	default:
		return f, false
	}
	return f, true
}

// judgeSchedule says whether events that are due stay in the schedule.
func judgeSchedule(s relay.OutboxStatus, now time.Time) []diagnosis.Finding {
	const grace = 10 * time.Second // they are moved within a second
	if late := now.Sub(s.ScheduledDue); s.Scheduled > 0 && !s.ScheduledDue.IsZero() && late > grace {
		return []diagnosis.Finding{{Code: "schedule-overdue", Severity: diagnosis.Critical,
			Cause:  fmt.Sprintf("scheduled events don't enter the log: of %d, the first was due %v ago", s.Scheduled, short(late)),
			Remedy: "a relay moves them: start one, or see its log"}}
	}
	return nil
}

// checkParked finds events that an operator has to decide about.
func (p *practice) checkParked(ctx context.Context, q Querier) (found []diagnosis.Finding, err error) {
	rows, err := q.Query(ctx, p.engine.config.expand(fmt.Sprintf(`SELECT destination, count(*), count(DISTINCT key) FILTER (WHERE key <> ''), count(*) FILTER (WHERE retry_at IS NOT NULL),
       coalesce(extract(epoch FROM clock_timestamp() - min(parked_at)), 0)::float8, coalesce((array_agg(DISTINCT left(reason, 200)) FILTER (WHERE NOT behind))[1], '')
FROM (SELECT destination, key, retry_at, parked_at, reason, behind FROM ${parked} LIMIT %d) p GROUP BY destination ORDER BY destination`, parkedCounted)))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name, reason string
		var events, keys, retrying int64
		var age float64
		if err := rows.Scan(&name, &events, &keys, &retrying, &age, &reason); err != nil {
			return nil, err
		}
		found = append(found, judgeParked(name, events, keys, retrying, short(duration(age)), reason))
	}
	return fewer(found), rows.Err()
}

func judgeParked(name string, events, keys, retrying int64, age time.Duration, reason string) diagnosis.Finding {
	f := diagnosis.Finding{Code: "parked", Severity: diagnosis.Warning, Subject: "destination " + name,
		Cause:  fmt.Sprintf("%d events of %d keys are parked, the first for %v", events, keys, age),
		Remedy: "surepost parked list, then retry or discard them once the reason is mended"}
	if reason != "" {
		f.Cause += "; one reason: " + reason
	}
	if retrying == events {
		f.Severity = diagnosis.Notice
		f.Cause += "; all are being retried"
		f.Remedy = "wait for the relay, then look again"
	}
	return f
}

// judgeRetention says whether events are kept for longer than they should be.
func judgeRetention(s relay.OutboxStatus, limits diagnosis.Limits, now time.Time) []diagnosis.Finding {
	age := now.Sub(s.OldestEvent)
	if limits.Retention == 0 || s.OldestEvent.IsZero() || age <= 2*limits.Retention {
		return nil
	}
	return []diagnosis.Finding{{Code: "retention-overdue", Severity: diagnosis.Warning,
		Cause: fmt.Sprintf("the log still has an event from %v ago, though they are kept for %v: it takes %d MiB and grows", short(age), limits.Retention, s.LogBytes>>20),
		Remedy: "see the findings about destinations and lanes that are behind, and about transactions that hold the log: events are removed when all " +
			"destinations have passed them and nobody locks their part of the log; a relay does it"}}
}

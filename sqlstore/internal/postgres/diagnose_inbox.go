package postgres

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/surepost/surepost/diagnosis"
)

// checkWindow compares how long the inbox remembers with how late a message can come again.
func (p *practice) checkWindow(context.Context, Querier) ([]diagnosis.Finding, error) {
	return judgeWindow(p.limits), nil
}

func judgeWindow(l diagnosis.Limits) []diagnosis.Finding {
	if l.RedeliveryHorizon == 0 && l.DedupeWindow == 0 || l.DedupeWindow > l.RedeliveryHorizon {
		return nil
	}
	return []diagnosis.Finding{{Code: "dedupe-window-short", Severity: diagnosis.Critical,
		Cause:  fmt.Sprintf("the inbox forgets what was handled after %v, and a message can come again after %v: it would be handled twice", l.DedupeWindow, l.RedeliveryHorizon),
		Remedy: "make the inbox's window longer than the redelivery horizon, or shorten retry delays and the time in which dead letters are redriven"}}
}

const (
	consumersLookedAt = 100
	// inboxSample is how many of a consumer's first and last events, by id, are looked at. Ids that begin with a time (UUIDv7,
	// which the library gives) come in its order: these are the oldest and the newest. Of random ids they are a sample, whose
	// newest is about a hundredth of the inbox's span away from the newest of all.
	inboxSample = 100
)

// inboxState is about when a consumer has handled the oldest and the newest event that the inbox knows.
type inboxState struct {
	consumer       string
	oldest, newest time.Time
}

// checkInbox finds what was handled by consumers that seem to be no more, and what should have been forgotten.
func (p *practice) checkInbox(ctx context.Context, q Querier) (found []diagnosis.Finding, err error) {
	var may bool
	var user string
	if _, err := queryRow(ctx, q, `SELECT has_table_privilege(to_regclass($1), 'SELECT'), current_user::text`, []any{p.engine.config.name("inbox")}, &may, &user); err != nil {
		return nil, err
	}
	if !may {
		return []diagnosis.Finding{{Code: "inbox-hidden", Severity: diagnosis.Notice, Subject: user, Cause: "this user may not read the inbox: it wasn't looked at",
			Remedy: grants([]string{"SELECT ON " + p.engine.config.name("inbox")}, user)}}, nil
	}
	n := strconv.Itoa(inboxSample)
	// Plan: the primary key: a probe for each consumer, and the ends of its part.
	rows, err := q.Query(ctx, p.engine.config.expand(`WITH RECURSIVE consumers AS (
    (SELECT consumer FROM ${inbox} ORDER BY consumer LIMIT 1)
    UNION ALL
    SELECT (SELECT i.consumer FROM ${inbox} i WHERE i.consumer > c.consumer ORDER BY i.consumer LIMIT 1) FROM consumers c WHERE c.consumer IS NOT NULL
)
SELECT c.consumer, s.oldest, s.newest, clock_timestamp()
FROM (SELECT consumer FROM consumers WHERE consumer IS NOT NULL LIMIT `+strconv.Itoa(consumersLookedAt)+`) c CROSS JOIN LATERAL (
    SELECT min(handled_at) AS oldest, max(handled_at) AS newest FROM (
        (SELECT handled_at FROM ${inbox} i WHERE i.consumer = c.consumer ORDER BY i.event_id LIMIT `+n+`)
        UNION ALL
        (SELECT handled_at FROM ${inbox} i WHERE i.consumer = c.consumer ORDER BY i.event_id DESC LIMIT `+n+`)) ends) s`))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var s inboxState
		var now time.Time
		if err := rows.Scan(&s.consumer, &s.oldest, &s.newest, &now); err != nil {
			return nil, err
		}
		found = append(found, judgeInbox(s, p.limits, now)...)
	}
	return fewer(found), rows.Err()
}

func judgeInbox(s inboxState, limits diagnosis.Limits, now time.Time) (found []diagnosis.Finding) {
	subject := "consumer " + s.consumer
	if idle := now.Sub(s.newest); idle > limits.ConsumerIdle {
		found = append(found, diagnosis.Finding{Code: "consumer-idle", Severity: diagnosis.Notice, Subject: subject,
			Cause:  fmt.Sprintf("it seems to have handled nothing for %v", short(idle)),
			Remedy: "see whether it runs and its queue is bound; if it is no more, what the inbox remembers of it can be deleted"})
	}
	if age := now.Sub(s.oldest); limits.DedupeWindow > 0 && age > 2*limits.DedupeWindow {
		found = append(found, diagnosis.Finding{Code: "inbox-unpruned", Severity: diagnosis.Notice, Subject: subject,
			Cause:  fmt.Sprintf("the inbox still knows what was handled %v ago, and its window is %v: nobody prunes it", short(age), limits.DedupeWindow),
			Remedy: "let a relay or a consumer of this version run on this database, which does it (Store.PruneInbox)"})
	}
	return found
}

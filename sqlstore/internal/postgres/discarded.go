package postgres

import (
	"context"
	"slices"

	"github.com/surepost/surepost/relay"
)

// What an operator discarded is never published, though it is read again: after a change of the number of lanes, which begin at
// the oldest of the old places. The record of the discard, which was written in the statement that discarded, says so.
//
// A discard that was committed before a read is of an event that the read leaves out, as long as the lease is held: an event is
// discarded only once it was parked, which is after it was read, by this lane or by one that had its slot before. If that was an
// earlier log of any lease up to this one, its number had been drawn when this log was opened, and is looked for (load,
// leaveOut). If it was this log, it isn't read again: no event of a page is repeated by a later page.
//
// A discard that is committed after the read, but before the event would be parked again, is found by the checkpoint's statement,
// which parks nothing that its snapshot sees parked or discarded: an event that was ever parked, and wasn't published since, is
// one of the two in every snapshot, since one statement takes it out and records it. So ON CONFLICT alone wouldn't do: it waits for
// the discard to commit, and then inserts. Whether the relay then believes that the event's key is parked doesn't matter: the key's next
// event is parked behind nothing, is released at once, and with it the key is found clear.
//
// What remains is the event that the relay had read again, and not published yet, when the operator discarded it. A
// relay asks nobody before it sends: such an event is still published, as is one that was about to be published after a retry.
//
// A discard is one destination's: others, and replays, publish the event, and so does a destination that was removed and
// created anew. The event's id is compared too, since a number that a sequence gave out twice is another event's.

// discardedEvents are the rows of parked_action that count for destination $1: those since it was created. Plan: Index Scan of
// parked_action_discarded; an InitPlan with one row of the destinations' primary key.
const discardedEvents = `FROM ${parked_action} a
WHERE a.destination = $1 AND a.action = 'discard' AND a.at >= (SELECT created_at FROM ${destination} WHERE name = $1)`

// leaveOut takes out of a page what an operator has discarded. The position behind the page stays: it passes that as well.
func (l *log) leaveOut(ctx context.Context, p relay.Page) (relay.Page, error) {
	behind := func(e relay.Entry) bool { return e.Seq <= l.drawn }
	if !slices.ContainsFunc(p.Entries, behind) {
		return p, nil
	}
	discarded, err := l.discarded(ctx, p.Entries[:p.Stragglers], p.Entries[p.Stragglers:])
	if err != nil || len(discarded) == 0 {
		return p, l.engine.explain("see what was discarded", err)
	}
	kept := make([]relay.Entry, 0, len(p.Entries))
	stragglers := p.Stragglers
	for i, e := range p.Entries {
		switch {
		case !slices.Contains(discarded[e.Seq], e.Event.ID):
			kept = append(kept, e)
		case i < p.Stragglers:
			stragglers--
		}
	}
	p.Entries, p.Stragglers = kept, stragglers
	// The relay takes an empty page for one whose position needn't be stored, unless there is more to come. But these rows are to be
	// passed: retention waits for that.
	p.Full = p.Full || len(kept) == 0 && !p.Done
	return p, nil
}

// discarded returns the ids of the events that were discarded, by their numbers: of those among the stragglers, and between the
// first and the last of the fresh ones, which are in order.
func (l *log) discarded(ctx context.Context, stragglers, fresh []relay.Entry) (map[int64][]string, error) {
	var first, last int64
	if n := len(fresh); n > 0 {
		first, last = fresh[0].Seq, fresh[n-1].Seq
	}
	rows, err := l.conn.Query(ctx, l.engine.sql.discarded, l.lease.Lane.Destination, intArray(seqs(stragglers)), first, last)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	ids := map[int64][]string{}
	for rows.Next() {
		var seq int64
		var id string
		if err := rows.Scan(&seq, &id); err != nil {
			return nil, err
		}
		ids[seq] = append(ids[seq], id)
	}
	return ids, rows.Err()
}

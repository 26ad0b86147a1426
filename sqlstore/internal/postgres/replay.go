package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/surepost/surepost/relay"
)

// replayLog reads the part of the log that a replay takes.
//
// It has no cut to care for: its part is what was committed when the replay was created, and every later snapshot sees all of
// that. So a number is its whole cursor, nothing commits late, and it ends. What was being written at that time isn't part
// of it: the other destinations publish that when it commits.
//
// The order per key holds as it does for the rest of the log: the part is read in order of seq, and if B's transaction waited
// for A's commit, seq(A) < seq(B); and a snapshot that sees B sees A.
type replayLog struct {
	*log
	selection
}

// openReplay returns the log of the lane's destination if that is a replay.
func (l *log) openReplay(ctx context.Context) (relay.Log, bool, error) {
	r := &replayLog{log: l, selection: selection{lane: l.lease.Lane}}
	var filter string
	found, err := queryRow(ctx, l.conn, l.engine.sql.replayPart, []any{l.lease.Lane.Destination}, &filter, &r.until, &r.snap)
	if err != nil || !found {
		return nil, false, l.engine.explain("see what the destination takes of the log", err)
	}
	if r.filter, err = decodeFilter(filter); err != nil {
		return nil, false, fmt.Errorf("sqlstore: %w: replay %q: %w: remove it and create it anew", relay.ErrHalt, l.lease.Lane.Destination, err)
	}
	return r, true, nil
}

// Read implements relay.Log.
func (r *replayLog) Read(ctx context.Context, limit int) (relay.Page, error) {
	if r.at.hot >= r.until {
		return relay.Page{After: r.at, Done: true}, nil
	}
	p, err := r.selection.read(ctx, r.conn, r.engine.config, r.at.hot, limit)
	if err != nil {
		return relay.Page{}, r.engine.explain("read the log", err)
	}
	if p.server != r.server {
		return relay.Page{}, errServerChanged
	}
	r.at.hot = p.after
	done := r.at.hot >= r.until
	return r.leaveOut(ctx, relay.Page{Entries: r.marked(p.entries), After: r.at, Full: !done, Done: done})
}

// Released implements relay.Log.
func (r *replayLog) Released(ctx context.Context, limit int) ([]relay.Entry, error) {
	entries, err := r.log.Released(ctx, limit)
	return r.marked(entries), err
}

// marked gives the entries, which nobody else has, the header of this replay.
func (r *replayLog) marked(entries []relay.Entry) []relay.Entry {
	for i := range entries {
		entries[i].Event = relay.Replayed(entries[i].Event, r.log.lease.Lane.Destination)
	}
	return entries
}

// Checkpoint implements relay.Log. The one of the last lane to reach the end also notes that the replay is done. If a crash
// comes in between, the next relay finds that there is nothing left, and stores the same position again.
func (r *replayLog) Checkpoint(ctx context.Context, at relay.Position, parked []relay.Parked) error {
	if err := r.log.Checkpoint(ctx, at, parked); err != nil {
		return err
	}
	if c := at.(cursor); c.hot < r.until {
		return nil
	}
	_, err := r.conn.Exec(ctx, r.engine.sql.replayDone, r.log.lease.Lane.Destination)
	return r.engine.explain("note that the replay is done", err)
}

// CreateReplay makes a destination of what the filter selects of the log as it is now. Its relay publishes that, and ends.
func (e *Engine) CreateReplay(ctx context.Context, name string, f relay.EventFilter, by string) (relay.Destination, error) {
	if err := relay.ValidDestination(name); err != nil {
		return relay.Destination{}, err
	}
	if err := f.Validate(); err != nil {
		return relay.Destination{}, err
	}
	filter, err := encodeFilter(f)
	if err != nil {
		return relay.Destination{}, err
	}
	d := relay.Destination{Name: name, Lanes: 1, Replay: &relay.Replay{Filter: f, CreatedBy: by}}
	err = e.onConn(ctx, func(q Querier) error {
		m, err := e.now(ctx, q)
		if err != nil {
			return e.explain("look at the log", err)
		}
		all := selection{part: m.all(f), lane: whole}
		first, found, err := all.first(ctx, q, e.config, 0)
		if err != nil {
			return e.explain("look for the replay's first event", err)
		}
		if !found {
			return fmt.Errorf("sqlstore: %w: check its values, and that the log still goes back that far (its oldest events are removed in time)", relay.ErrNothingSelected)
		}
		at := cursor{hot: first.Seq - 1, snap: m.snap, next: m.next}
		d.CreatedAt, err = e.create(ctx, q, name, &at, replayColumns{filter, m.drawn, by, all.snap})
		return err
	})
	if err != nil {
		return relay.Destination{}, err
	}
	return d, nil
}

// replayColumns are what a destination's row says about a replay.
type replayColumns struct {
	filter string
	until  int64
	by     string
	snap   string
}

// storedFilter is a filter as the database has it.
type storedFilter struct {
	Types         []string   `json:"types,omitempty"`
	Keys          []string   `json:"keys,omitempty"`
	Sources       []string   `json:"sources,omitempty"`
	IDs           []string   `json:"ids,omitempty"`
	CorrelationID string     `json:"correlationId,omitempty"`
	Since         *time.Time `json:"since,omitempty"`
	Until         *time.Time `json:"until,omitempty"`
}

func encodeFilter(f relay.EventFilter) (string, error) {
	s := storedFilter{Types: f.Types, Keys: f.Keys, Sources: f.Sources, IDs: f.IDs, CorrelationID: f.CorrelationID}
	if since := f.Since.UTC(); !since.IsZero() {
		s.Since = &since
	}
	if until := f.Until.UTC(); !until.IsZero() {
		s.Until = &until
	}
	text, err := json.Marshal(s)
	return string(text), err
}

func decodeFilter(text string) (relay.EventFilter, error) {
	var s storedFilter
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return relay.EventFilter{}, fmt.Errorf("its filter can't be read: %w", err)
	}
	f := relay.EventFilter{Types: s.Types, Keys: s.Keys, Sources: s.Sources, IDs: s.IDs, CorrelationID: s.CorrelationID}
	if s.Since != nil {
		f.Since = *s.Since
	}
	if s.Until != nil {
		f.Until = *s.Until
	}
	return f, nil
}

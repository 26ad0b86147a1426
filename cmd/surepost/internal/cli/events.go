package cli

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/relay"
)

// selection is the flags that select events.
type selection struct {
	Type          []string `help:"Only events of this type; may be repeated." placeholder:"TYPE"`
	Key           []string `help:"Only events of this key; may be repeated." placeholder:"KEY" sep:"none"`
	Source        []string `help:"Only events of this source; may be repeated." placeholder:"SOURCE"`
	ID            []string `name:"id" help:"Only the event of this id; may be repeated." placeholder:"ID" sep:"none"`
	CorrelationID string   `help:"Only events of this flow." placeholder:"ID"`
	From          moment   `help:"Only events of this time or later: 2026-01-31T08:00:00Z, 2026-01-31 (UTC), or how long ago, such as 90m or 7d." placeholder:"TIME"`
	Until         moment   `help:"Only events before this time." placeholder:"TIME"`
}

// filter returns the selection as the stores know it, or a usage error that says all that is wrong with it.
func (f selection) filter() (relay.EventFilter, error) {
	filter := relay.EventFilter{
		Types: f.Type, Keys: f.Key, Sources: f.Source, IDs: f.ID, CorrelationID: f.CorrelationID, Since: f.From.Time, Until: f.Until.Time,
	}
	if !filter.Since.IsZero() && !filter.Until.IsZero() && !filter.Since.Before(filter.Until) {
		if filter.Since.Equal(filter.Until) {
			return filter, usage("--from and --until are the same time, so that nothing is selected", "set --until behind the last event that is meant")
		}
		return filter, usage(fmt.Sprintf("--from (%s) is after --until (%s)", filter.Since.UTC().Format(time.RFC3339), filter.Until.UTC().Format(time.RFC3339)),
			"exchange them")
	}
	if err := filter.Validate(); err != nil {
		return filter, &fault{what: err.Error(), code: exitUsage}
	}
	return filter, nil
}

func filterView(f relay.EventFilter) FilterView {
	return FilterView{f.Types, f.Keys, f.Sources, f.IDs, f.CorrelationID, when(f.Since), when(f.Until)}
}

type eventsGroup struct {
	List eventsList `cmd:"" help:"List events of the log, the oldest first."`
	Show eventsShow `cmd:"" help:"Show one event, with its data."`
	Tail eventsTail `cmd:"" help:"Print events as they are committed, until interrupted."`
}

type eventsList struct {
	selection
	After  int64 `help:"Only those behind this number in the log, to page on." placeholder:"SEQ"`
	Newest bool  `help:"The newest ones instead of the oldest, the newest first."`
	Limit  int   `help:"How many at most: 1 to 10,000." default:"100"`
}

func (cmd eventsList) Run(s *session) error {
	filter, err := cmd.filter()
	if err != nil {
		return err
	}
	if err := checkLimit(cmd.Limit); err != nil {
		return err
	}
	if cmd.Newest && cmd.After != 0 {
		return usage("--after and --newest are both set", "leave one out: --newest begins at the log's end")
	}
	return with(s, "list its events", func(_ *opened, store canEvents) error {
		var entries []relay.Entry
		var err error
		if cmd.Newest {
			entries, err = store.Newest(s.ctx, filter, cmd.Limit)
		} else {
			entries, err = store.Events(s.ctx, filter, cmd.After, cmd.Limit)
		}
		if err != nil {
			return err
		}
		views := make([]EventView, len(entries))
		for i := range entries {
			views[i] = eventView(entries[i])
		}
		return printList(s, views, eventColumns, eventRow)
	})
}

func checkLimit(limit int) error {
	if limit < 1 || limit > 10_000 {
		return usage(fmt.Sprintf("--limit is %d", limit), "use 1 to 10000")
	}
	return nil
}

var eventColumns = []string{"SEQ", "TIME", "TYPE", "KEY", "SOURCE", "ID"}

func eventRow(e EventView) []string {
	return []string{fmt.Sprint(e.Seq), clock(e.Time), e.Type, orDash(e.Key), orDash(e.Source), e.ID}
}

func eventView(entry relay.Entry) EventView {
	e := entry.Event
	return EventView{
		Seq: entry.Seq, ID: e.ID, Type: e.Type, Time: when(e.Time), Version: e.Version, Source: e.Source,
		CorrelationID: e.CorrelationID, CausationID: e.CausationID, Key: e.Key, Category: string(e.Category),
		Headers: e.Headers, Data: dataView(e),
	}
}

// dataView is the data as it is, if that is JSON. The log has bytes.
func dataView(e surepost.Event) json.RawMessage {
	raw, ok := e.Data.(json.RawMessage)
	if !ok {
		if b, isBytes := e.Data.([]byte); isBytes {
			raw, ok = b, true
		}
	}
	switch {
	case ok && len(raw) == 0:
		return json.RawMessage("null")
	case ok && json.Valid(raw):
		return raw
	case ok:
		quoted, _ := json.Marshal(base64.StdEncoding.EncodeToString(raw)) // a text can always be written
		return quoted
	}
	encoded, err := json.Marshal(e.Data)
	if err != nil {
		return json.RawMessage("null")
	}
	return encoded
}

type eventsShow struct {
	ID string `arg:"" help:"The event's id."`
}

func (cmd eventsShow) Run(s *session) error {
	return with(s, "show its events", func(_ *opened, store canEvents) error {
		entries, err := store.Events(s.ctx, relay.EventFilter{IDs: []string{cmd.ID}}, 0, 1)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			return failed(fmt.Sprintf("the log has no event with the id %q", cmd.ID), "it was never committed, or its time in the log is over")
		}
		return printOne(s, eventView(entries[0]), showEvent)
	})
}

func showEvent(w io.Writer, e EventView) {
	lines := [][2]string{
		{"seq", fmt.Sprint(e.Seq)}, {"id", e.ID}, {"type", e.Type}, {"time", clock(e.Time)}, {"version", e.Version}, {"source", e.Source},
		{"key", e.Key}, {"category", e.Category}, {"correlation id", e.CorrelationID}, {"causation id", e.CausationID},
	}
	for _, name := range slices.Sorted(maps.Keys(e.Headers)) {
		lines = append(lines, [2]string{"header " + name, e.Headers[name]})
	}
	for _, l := range lines {
		if l[1] != "" {
			fmt.Fprintf(w, "%-16s%s\n", printable(l[0]), printable(l[1]))
		}
	}
	// Data is valid JSON, in which control characters are escaped.
	indented, err := json.MarshalIndent(e.Data, "", "  ")
	if err != nil {
		indented = e.Data
	}
	fmt.Fprintf(w, "\n%s\n", indented)
}

type eventsTail struct {
	selection
	Interval time.Duration `help:"How often to look." default:"500ms"`
}

// lateness is how far behind the newest events a tail looks again: a transaction that drew its numbers early and commits
// late would be missed otherwise. One that takes longer is missed, by the tail; never by a relay.
const lateness = time.Minute

// Run prints what is there from --from on, and then what comes.
func (cmd eventsTail) Run(s *session) error {
	filter, err := cmd.filter()
	if err != nil {
		return err
	}
	if cmd.Interval < 10*time.Millisecond {
		return usage(fmt.Sprintf("--interval is %s", cmd.Interval), "use 10ms or more")
	}
	if filter.Since.IsZero() {
		filter.Since = s.now()
	}
	return with(s, "list its events", func(_ *opened, store canEvents) error {
		t := tail{seen: map[int64]time.Time{}}
		for {
			fresh, err := t.look(s, store, filter)
			if s.ctx.Err() != nil {
				return nil
			}
			if err != nil {
				return err
			}
			for _, e := range fresh {
				if err := printTailed(s, e); err != nil {
					return err
				}
			}
			if !pause(s.ctx, cmd.Interval) {
				return nil
			}
		}
	})
}

// tail remembers what was printed lately.
type tail struct {
	seen  map[int64]time.Time // by number, when it was first seen
	floor int64               // everything up to it was seen long ago
}

func (t *tail) look(s *session, store canEvents, filter relay.EventFilter) (fresh []EventView, err error) {
	const page = 1000
	now := s.now()
	for after := t.floor; ; {
		entries, err := store.Events(s.ctx, filter, after, page)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			after = e.Seq
			if _, known := t.seen[e.Seq]; !known {
				t.seen[e.Seq] = now
				fresh = append(fresh, eventView(e))
			}
		}
		if len(entries) < page {
			break
		}
	}
	for _, seq := range slices.Sorted(maps.Keys(t.seen)) {
		if now.Sub(t.seen[seq]) < lateness {
			break
		}
		t.floor = seq
		delete(t.seen, seq)
	}
	return fresh, nil
}

func printTailed(s *session, e EventView) error {
	if s.grammar.JSON {
		return printJSON(s.Out, e)
	}
	_, err := fmt.Fprintf(s.Out, "%s  %-24s  %-16s  %s  %s\n", clock(e.Time), printable(e.Type), printable(orDash(e.Key)), printable(e.ID), shorten(string(e.Data), 120))
	return err
}

// shorten shows the beginning of a text.
func shorten(s string, runes int) string {
	r := []rune(printable(s))
	if len(r) <= runes {
		return string(r)
	}
	return string(r[:runes]) + "…"
}

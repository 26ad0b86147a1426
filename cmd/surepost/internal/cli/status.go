package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/surepost/surepost/relay"
)

type statusCommand struct{}

func (statusCommand) Run(s *session) error {
	return with(s, "tell its status", func(db *opened, store canStatus) error {
		status, err := store.Status(s.ctx)
		if err != nil {
			return err
		}
		return printOne(s, statusView(status, string(db.Kind)), s.showStatus)
	})
}

func statusView(o relay.OutboxStatus, kind string) StatusView {
	v := StatusView{
		Database: kind, LogBytes: o.LogBytes, InboxBytes: o.InboxBytes, OldestEvent: when(o.OldestEvent),
		Scheduled: o.Scheduled, ScheduledDue: when(o.ScheduledDue), Destinations: []DestinationView{},
	}
	for _, d := range o.Destinations {
		view := destinationView(d.Destination)
		backlog := d.Backlog()
		view.Backlog, view.OldestUnpublished = &backlog, when(d.OldestUnpublished())
		view.Parked, view.ParkedKeys, view.ParkedSince = &d.Parked, &d.ParkedKeys, when(d.ParkedAt)
		for _, l := range d.LanesStatus {
			view.LaneStates = append(view.LaneStates, LaneView{
				Lane: l.Lane.Index, Of: l.Lane.Of, Owner: l.Owner, Epoch: l.Epoch, ExpiresSeconds: l.Expires.Seconds(),
				CheckpointAt: when(l.CheckpointAt), OldestUnpublished: when(l.OldestUnpublished), Backlog: l.Backlog,
			})
		}
		for _, r := range d.Relays {
			view.Relays = append(view.Relays, RelayView{r.Owner, when(r.Since), r.Expires.Seconds()})
		}
		v.Destinations = append(v.Destinations, view)
	}
	return v
}

func (s *session) showStatus(w io.Writer, v StatusView) {
	fmt.Fprintf(w, "%s: log %s, inbox %s", v.Database, diskSize(v.LogBytes), diskSize(v.InboxBytes))
	if v.OldestEvent != nil {
		fmt.Fprintf(w, ", oldest event %s", s.ago(*v.OldestEvent))
	}
	fmt.Fprintln(w)
	if v.Scheduled > 0 {
		due := ""
		if v.ScheduledDue != nil {
			due = ", the first due at " + clock(v.ScheduledDue)
		}
		fmt.Fprintf(w, "%d scheduled%s\n", v.Scheduled, due)
	}
	if len(v.Destinations) == 0 {
		fmt.Fprintln(w, "No relay has worked here yet.")
	}
	for _, d := range v.Destinations {
		s.showDestination(w, d)
	}
}

func (s *session) showDestination(w io.Writer, d DestinationView) {
	kind := "destination"
	if d.Replay != nil {
		kind = "replay"
	}
	var facts []string
	switch {
	case d.Backlog == nil:
	case *d.Backlog == 0:
		facts = append(facts, "nothing waits")
	default:
		fact := fmt.Sprintf("%d events wait", *d.Backlog)
		if d.OldestUnpublished != nil {
			fact += ", the oldest is of " + s.ago(*d.OldestUnpublished)
		}
		facts = append(facts, fact)
	}
	if d.Parked != nil && *d.Parked > 0 {
		fact := fmt.Sprintf("%d parked, %d keys wait", *d.Parked, *d.ParkedKeys)
		if s.colour() {
			fact = red + fact + plain
		}
		facts = append(facts, fact)
	}
	if len(d.Relays) > 0 {
		facts = append(facts, plural(len(d.Relays), "relay"))
	}
	fmt.Fprintf(w, "\n%s %s: %s\n", kind, printable(d.Name), strings.Join(facts, "; "))
	var rows [][]string
	for _, l := range d.LaneStates {
		owner, lease := l.Owner, "expires in "+span(time.Duration(l.ExpiresSeconds*float64(time.Second)))
		if l.ExpiresSeconds < 0 {
			lease = "ran out " + span(time.Duration(-l.ExpiresSeconds*float64(time.Second))) + " ago"
		}
		if owner == "" {
			owner, lease = "nobody", "-"
		}
		oldest := "-"
		if l.OldestUnpublished != nil {
			oldest = s.ago(*l.OldestUnpublished)
		}
		rows = append(rows, []string{fmt.Sprintf("%d of %d", l.Lane, l.Of), owner, lease, fmt.Sprint(l.Backlog), oldest, clock(l.CheckpointAt)})
	}
	if len(rows) > 0 {
		_ = printTable(w, s.colour(), []string{"LANE", "RELAY", "LEASE", "WAITING", "OLDEST", "CHECKPOINT"}, rows)
	}
}

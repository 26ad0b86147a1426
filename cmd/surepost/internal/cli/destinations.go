package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/surepost/surepost/relay"
)

type destinationsGroup struct {
	List   destinationsList   `cmd:"" help:"List the destinations, replays included."`
	Add    destinationsAdd    `cmd:"" help:"Make a destination that begins somewhere else than at the log's beginning."`
	Remove destinationsRemove `cmd:"" help:"Remove a destination, and all that is known of how far it came."`
	Lanes  destinationsLanes  `cmd:"" help:"Change a destination's number of lanes, while its relays run."`
}

type destinationsList struct{}

func (destinationsList) Run(s *session) error {
	return with(s, "have several destinations", func(_ *opened, store canDestinations) error {
		return printDestinations(s, store, func(relay.Destination) bool { return true })
	})
}

func printDestinations(s *session, store canDestinations, wanted func(relay.Destination) bool) error {
	all, err := store.Destinations(s.ctx)
	if err != nil {
		return err
	}
	var views []DestinationView
	for _, d := range all {
		if wanted(d) {
			views = append(views, destinationView(d))
		}
	}
	return printList(s, views, []string{"NAME", "LANES", "CREATED", "REPLAY OF", "BY", "DONE"}, func(d DestinationView) []string {
		row := []string{d.Name, fmt.Sprint(d.Lanes), clock(d.CreatedAt), "-", "-", "-"}
		if d.Replay != nil {
			row[3], row[4], row[5] = d.Replay.Filter.String(), d.Replay.By, clock(d.Replay.DoneAt)
		}
		return row
	})
}

func destinationView(d relay.Destination) DestinationView {
	v := DestinationView{Name: d.Name, Lanes: d.Lanes, CreatedAt: when(d.CreatedAt)}
	if d.Replay != nil {
		v.Replay = &ReplayView{Filter: filterView(d.Replay.Filter), By: d.Replay.CreatedBy, DoneAt: when(d.Replay.DoneAt)}
	}
	return v
}

// String writes a filter in one line.
func (f FilterView) String() string {
	var parts []string
	for _, list := range []struct {
		name   string
		values []string
	}{{"type", f.Types}, {"key", f.Keys}, {"source", f.Sources}, {"id", f.IDs}} {
		if len(list.values) > 0 {
			parts = append(parts, list.name+" "+strings.Join(list.values, ","))
		}
	}
	if f.CorrelationID != "" {
		parts = append(parts, "correlation id "+f.CorrelationID)
	}
	if f.From != nil {
		parts = append(parts, "from "+clock(f.From))
	}
	if f.Until != nil {
		parts = append(parts, "until "+clock(f.Until))
	}
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, ", ")
}

type destinationsAdd struct {
	Name string  `arg:"" help:"The destination's name."`
	From startAt `help:"Where it begins: beginning, now, or a time (2026-01-31T08:00:00Z, or how long ago: 90m, 7d)." default:"beginning" placeholder:"START"`
}

// startAt is where a destination begins, on the command line.
type startAt struct{ relay.Start }

// UnmarshalText implements encoding.TextUnmarshaler.
func (a *startAt) UnmarshalText(text []byte) error {
	switch string(text) {
	case "beginning":
		a.Start = relay.FromBeginning()
	case "now":
		a.Start = relay.FromNow()
	default:
		var m moment
		if err := m.UnmarshalText(text); err != nil {
			return fmt.Errorf("%q is no start: write beginning, now, a time such as 2026-01-31T08:00:00Z, or how long ago, such as 7d", text)
		}
		a.Start = relay.FromTime(m.Time)
	}
	return nil
}

func (cmd destinationsAdd) Run(s *session) error {
	if err := relay.ValidDestination(cmd.Name); err != nil {
		return &fault{what: err.Error(), code: exitUsage}
	}
	return with(s, "have several destinations", func(_ *opened, store canDestinations) error {
		if err := store.CreateDestination(s.ctx, cmd.Name, cmd.From.Start); err != nil {
			return aboutDestination(err, cmd.Name)
		}
		return s.done("destinations add", cmd.Name, "The destination %s is there. Its relay: surepost relay --relay-destination=%[1]s")
	})
}

type destinationsRemove struct {
	Name string `arg:"" help:"The destination's name."`
	consent
}

func (cmd destinationsRemove) Run(s *session) error {
	return with(s, "have several destinations", func(_ *opened, store canDestinations) error {
		if err := s.confirm(cmd.consent, fmt.Sprintf("remove the destination %s and forget what it has published", printable(cmd.Name))); err != nil {
			return err
		}
		if err := store.RemoveDestination(s.ctx, cmd.Name); err != nil {
			return aboutDestination(err, cmd.Name)
		}
		return s.done("destinations remove", cmd.Name, "The destination %s is removed.")
	})
}

type destinationsLanes struct {
	Name  string `arg:"" help:"The destination's name."`
	Lanes int    `arg:"" help:"How many lanes it is to have."`
}

func (cmd destinationsLanes) Run(s *session) error {
	if cmd.Lanes < 1 {
		return usage(fmt.Sprintf("a destination can't have %d lanes", cmd.Lanes), "use 1 or more")
	}
	return with(s, "have several lanes", func(_ *opened, store canLanes) error {
		if err := store.SetLanes(s.ctx, cmd.Name, cmd.Lanes); err != nil {
			return aboutDestination(err, cmd.Name)
		}
		return s.done("destinations lanes", cmd.Name, fmt.Sprintf("The destination %%s has %s now. Its relays share them within a lease.", plural(cmd.Lanes, "lane")))
	})
}

// aboutDestination adds a remedy to what the store says.
func aboutDestination(err error, name string) error {
	switch {
	case errors.Is(err, relay.ErrDestinationExists):
		return &fault{what: fmt.Sprintf("there is a destination or replay %q already", name), remedy: "choose another name; surepost destinations list shows all",
			code: exitFailure, cause: err}
	case errors.Is(err, relay.ErrNoDestination):
		return &fault{what: fmt.Sprintf("there is no destination or replay %q", name), remedy: "surepost destinations list shows all", code: exitFailure, cause: err}
	}
	return err
}

// done says that an action on one thing was done.
func (s *session) done(action, name, format string) error {
	return printOne(s, DoneView{action, name}, func(w io.Writer, v DoneView) { fmt.Fprintf(w, format+"\n", printable(v.Name)) })
}

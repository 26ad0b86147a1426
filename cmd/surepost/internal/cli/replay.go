package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/surepost/surepost/cmd/surepost/internal/connect"
	"github.com/surepost/surepost/relay"
)

type replayGroup struct {
	Start  replayStart  `cmd:"" help:"Make a replay of a part of the log, and publish it."`
	Resume replayResume `cmd:"" help:"Go on with a replay that was interrupted."`
	Cancel replayCancel `cmd:"" help:"Give a replay up, or forget one that is done."`
	List   replayList   `cmd:"" help:"List the replays."`
}

// target is where a replay goes, and how fast. It isn't stored with the replay.
type target struct {
	Rate     int    `help:"The most events a second. Default: no limit." placeholder:"EVENTS"`
	Exchange string `help:"Publish to this exchange, whatever the rules say. Default: where the events went the first time." placeholder:"NAME"`
	Queue    string `help:"Publish straight to this queue, past all exchanges: nobody else sees the events again." placeholder:"NAME"`
}

func (t target) check() error {
	if t.Rate < 0 {
		return usage(fmt.Sprintf("--rate is %d", t.Rate), "use a positive number, or leave it out for no limit")
	}
	if t.Exchange != "" && t.Queue != "" {
		return usage("--exchange and --queue are both set", "remove one")
	}
	return nil
}

func (t target) String() string {
	switch {
	case t.Queue != "":
		return "the queue " + printable(t.Queue)
	case t.Exchange != "":
		return "the exchange " + printable(t.Exchange)
	}
	return "where they went the first time, to every consumer"
}

type replayStart struct {
	Name string `arg:"" help:"The replay's name: consumers see it in the header surepost-replay."`
	selection
	All bool `help:"The whole log."`
	target
	DryRun bool   `help:"Count, and change nothing."`
	By     string `help:"Who is recorded for it. Default: the user of the operating system." placeholder:"NAME"`
	consent
}

func (cmd replayStart) Run(s *session) error {
	filter, err := cmd.filter()
	if err != nil {
		return err
	}
	if err := cmd.check(); err != nil {
		return err
	}
	if err := relay.ValidDestination(cmd.Name); err != nil {
		return &fault{what: err.Error(), code: exitUsage}
	}
	none := len(filter.Types)+len(filter.Keys)+len(filter.Sources)+len(filter.IDs) == 0 && filter.CorrelationID == "" &&
		filter.Since.IsZero() && filter.Until.IsZero()
	switch {
	case none && !cmd.All:
		return usage("nothing was chosen", "choose by --from, --until, --type, --key, --source, --id or --correlation-id, or the whole log by --all")
	case !none && cmd.All:
		return usage("--all goes with no other choice", "leave it out, or leave out the others")
	}
	db, err := s.open(connect.Needs{Database: true, Broker: !cmd.DryRun}, false)
	if err != nil {
		return err
	}
	defer db.Close()
	store, err := able[canReplay](db, "replay its log")
	if err != nil {
		return err
	}
	counts, err := store.CountEvents(s.ctx, filter)
	if err != nil {
		return err
	}
	view := ReplayCountView{ByType: counts}
	for _, n := range counts {
		view.Events += n
	}
	if cmd.DryRun {
		return printOne(s, view, showCounts)
	}
	if view.Events == 0 {
		return failed("the choice selects no event of the log", "nothing was changed; try it with --dry-run")
	}
	if err := s.confirm(cmd.consent, fmt.Sprintf("publish %s again, to %s", plural(int(view.Events), "event"), cmd.target)); err != nil {
		return err
	}
	if _, err := store.CreateReplay(s.ctx, cmd.Name, filter, by(cmd.By)); err != nil {
		if errors.Is(err, relay.ErrDestinationExists) {
			return &fault{what: fmt.Sprintf("there is a destination or replay %q already", cmd.Name),
				remedy: fmt.Sprintf("choose another name, or go on with it: surepost replay resume %s", cmd.Name), code: exitFailure, cause: err}
		}
		return err
	}
	return s.replay(db, cmd.Name, cmd.target)
}

func showCounts(w io.Writer, v ReplayCountView) {
	for _, t := range slices.Sorted(maps.Keys(v.ByType)) {
		fmt.Fprintf(w, "%10d  %s\n", v.ByType[t], printable(t))
	}
	fmt.Fprintf(w, "%10d  events would be published\n", v.Events)
}

// replay publishes what is left of a replay, until it is done or the program is asked to stop.
func (s *session) replay(db *opened, name string, to target) error {
	logger := s.logger(db.config)
	tracing, err := s.tracing(db, logger)
	if err != nil {
		return err
	}
	defer tracing.Close(s.ctx)
	publisher := connect.NewPublisher(db.config, logger, connect.Target{Exchange: to.Exchange, Queue: to.Queue})
	settings := connect.RelayConfig(db.config, logger, tracing.Hooks(publisher))
	settings.Destination, settings.Replay, settings.MaxEventsPerSecond = name, true, to.Rate
	r, err := relay.New(db.Store, publisher, settings)
	if err != nil {
		return err
	}
	if err := r.Run(s.ctx); err != nil {
		if errors.Is(err, relay.ErrNoDestination) {
			return aboutDestination(err, name)
		}
		return err
	}
	report := r.Report()
	view := ReplayResultView{Name: name, Done: report.Done, Published: report.Published, Parked: report.Parked}
	err = printOne(s, view, func(w io.Writer, v ReplayResultView) {
		fmt.Fprintf(w, "%s published, %d parked.\n", plural(int(v.Published), "event"), v.Parked)
		if v.Parked > 0 {
			fmt.Fprintf(w, "Look at the parked ones: surepost parked list --relay-destination=%s\n", printable(v.Name))
		}
	})
	if err == nil && !view.Done {
		return failed("the replay was interrupted", "go on with it: surepost replay resume "+name)
	}
	return err
}

type replayResume struct {
	Name string `arg:"" help:"The replay's name."`
	target
}

func (cmd replayResume) Run(s *session) error {
	if err := cmd.check(); err != nil {
		return err
	}
	db, err := s.open(connect.Needs{Database: true, Broker: true}, false)
	if err != nil {
		return err
	}
	defer db.Close()
	store, err := able[canReplay](db, "replay its log")
	if err != nil {
		return err
	}
	if err := findReplay(s, store, cmd.Name); err != nil {
		return err
	}
	return s.replay(db, cmd.Name, cmd.target)
}

// findReplay returns an error unless there is a replay of that name: an ordinary destination must not be taken for one.
func findReplay(s *session, store canDestinations, name string) error {
	all, err := store.Destinations(s.ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(d relay.Destination) bool { return d.Name == name })
	switch {
	case i < 0:
		return failed(fmt.Sprintf("there is no replay %q", name), "surepost replay list shows those that there are")
	case all[i].Replay == nil:
		return failed(fmt.Sprintf("%q is an ordinary destination and no replay", name), "surepost replay list shows the replays")
	}
	return nil
}

type replayCancel struct {
	Name string `arg:"" help:"The replay's name."`
	consent
}

func (cmd replayCancel) Run(s *session) error {
	return with(s, "replay its log", func(_ *opened, store canReplay) error {
		if err := findReplay(s, store, cmd.Name); err != nil {
			return err
		}
		if err := s.confirm(cmd.consent, fmt.Sprintf("cancel the replay %s and forget how far it came", printable(cmd.Name))); err != nil {
			return err
		}
		if err := store.RemoveDestination(s.ctx, cmd.Name); err != nil {
			return aboutDestination(err, cmd.Name)
		}
		return s.done("replay cancel", cmd.Name, "The replay %s is cancelled.")
	})
}

type replayList struct{}

func (replayList) Run(s *session) error {
	return with(s, "replay its log", func(_ *opened, store canReplay) error {
		return printDestinations(s, store, func(d relay.Destination) bool { return d.Replay != nil })
	})
}

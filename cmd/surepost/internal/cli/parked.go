package cli

import (
	"fmt"
	"io"

	"github.com/surepost/surepost/relay"
)

type parkedGroup struct {
	List    parkedList    `cmd:"" help:"List parked events, the oldest first."`
	Show    parkedShow    `cmd:"" help:"Show one parked event, with its data."`
	Retry   parkedRetry   `cmd:"" help:"Have the relay publish parked events again. Those behind them follow by themselves."`
	Discard parkedDiscard `cmd:"" help:"Remove parked events for good. Those behind them are published then."`
	Log     parkedLog     `cmd:"" help:"List who retried and discarded what, the newest first."`
}

// parkedSelection is the flags that select parked events. The destination is relay.destination.
type parkedSelection struct {
	ID     []string `name:"id" help:"Only the event of this id; may be repeated." placeholder:"ID" sep:"none"`
	Key    string   `help:"Only events of this key." placeholder:"KEY"`
	Type   string   `help:"Only events of this type." placeholder:"TYPE"`
	Reason string   `help:"Only those whose reason contains this." placeholder:"TEXT"`
}

func (p parkedSelection) filter(db *opened) relay.ParkedFilter {
	return relay.ParkedFilter{Destination: db.config.Relay.Destination, IDs: p.ID, Key: p.Key, Type: p.Type, Reason: p.Reason}
}

func (p parkedSelection) empty() bool {
	return len(p.ID) == 0 && p.Key == "" && p.Type == "" && p.Reason == ""
}

// deliberate is the flags of what is done to parked events.
type deliberate struct {
	parkedSelection
	All bool   `help:"All parked events of the destination."`
	By  string `help:"Who is recorded for it. Default: the user of the operating system." placeholder:"NAME"`
}

// check demands a choice: a flag that was forgotten must not mean everything.
func (d deliberate) check() error {
	switch {
	case d.empty() && !d.All:
		return usage("no event was chosen", "choose by --id, --key, --type or --reason, or all of them by --all")
	case !d.empty() && d.All:
		return usage("--all goes with no other choice", "leave it out, or leave out the others")
	}
	return nil
}

type parkedList struct {
	parkedSelection
	Limit int `help:"How many at most: 1 to 10,000." default:"100"`
}

func (cmd parkedList) Run(s *session) error {
	if err := checkLimit(cmd.Limit); err != nil {
		return err
	}
	return with(s, "list parked events", func(db *opened, store canPark) error {
		list, err := store.Parked(s.ctx, cmd.filter(db), cmd.Limit)
		if err != nil {
			return err
		}
		views := make([]ParkedView, len(list))
		for i, p := range list {
			views[i] = parkedView(p)
		}
		return printList(s, views, []string{"PARKED", "STATE", "TYPE", "KEY", "ID", "REASON"}, func(p ParkedView) []string {
			return []string{clock(p.ParkedAt), p.state(), p.Event.Type, orDash(p.Event.Key), p.Event.ID, shorten(p.Reason, 100)}
		})
	})
}

func (p ParkedView) state() string {
	switch {
	case p.Retrying:
		return "retrying"
	case p.Behind:
		return "behind"
	}
	return "parked"
}

func parkedView(p relay.ParkedEvent) ParkedView {
	return ParkedView{p.Destination, p.Reason, p.Behind, p.Retrying, when(p.At), eventView(p.Entry)}
}

type parkedShow struct {
	ID string `arg:"" help:"The event's id."`
}

func (cmd parkedShow) Run(s *session) error {
	return with(s, "list parked events", func(db *opened, store canPark) error {
		destination := db.config.Relay.Destination
		list, err := store.Parked(s.ctx, relay.ParkedFilter{Destination: destination, IDs: []string{cmd.ID}}, 1)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return notParked(cmd.ID, destination)
		}
		return printOne(s, parkedView(list[0]), func(w io.Writer, p ParkedView) {
			fmt.Fprintf(w, "%-16s%s\n%-16s%s\n%-16s%s\n", "state", p.state(), "parked", clock(p.ParkedAt), "reason", printable(p.Reason))
			showEvent(w, p.Event)
		})
	})
}

func notParked(id, destination string) error {
	return failed(fmt.Sprintf("no event with the id %q is parked at the destination %q", id, destination),
		"surepost parked list shows those that are; --relay-destination names another destination")
}

type parkedRetry struct{ deliberate }

func (cmd parkedRetry) Run(s *session) error {
	if err := cmd.check(); err != nil {
		return err
	}
	return with(s, "retry parked events", func(db *opened, store canPark) error {
		n, err := store.RetryParked(s.ctx, cmd.filter(db), by(cmd.By))
		if err != nil {
			return err
		}
		return s.counted("parked retry", n, by(cmd.By), "The relay will publish %s again.", "no parked event was chosen that isn't being retried or waits behind another")
	})
}

type parkedDiscard struct {
	deliberate
	consent
}

func (cmd parkedDiscard) Run(s *session) error {
	if err := cmd.check(); err != nil {
		return err
	}
	return with(s, "discard parked events", func(db *opened, store canPark) error {
		doing := "discard the chosen parked events for good: they are published to nobody"
		if cmd.All {
			doing = "discard ALL parked events of the destination " + printable(db.config.Relay.Destination) + " for good: they are published to nobody"
		}
		if err := s.confirm(cmd.consent, doing); err != nil {
			return err
		}
		n, err := store.DiscardParked(s.ctx, cmd.filter(db), by(cmd.By))
		if err != nil {
			return err
		}
		return s.counted("parked discard", n, by(cmd.By), "%s removed.", "no parked event was chosen: it was discarded or published before")
	})
}

// counted says to how many events something was done. None is a failure: whoever asked expected some.
func (s *session) counted(action string, n int64, by, format, none string) error {
	if n == 0 {
		return failed(none, "nothing was changed; list them first")
	}
	return printOne(s, CountView{action, n, by}, func(w io.Writer, v CountView) { fmt.Fprintf(w, format+"\n", plural(int(v.Count), "event")) })
}

type parkedLog struct {
	parkedSelection
	Limit int `help:"How many at most: 1 to 10,000." default:"100"`
}

func (cmd parkedLog) Run(s *session) error {
	if err := checkLimit(cmd.Limit); err != nil {
		return err
	}
	return with(s, "record what was done", func(db *opened, store canPark) error {
		actions, err := store.ParkedActions(s.ctx, cmd.filter(db), cmd.Limit)
		if err != nil {
			return err
		}
		views := make([]ParkedActionView, len(actions))
		for i, a := range actions {
			views[i] = ParkedActionView{string(a.Action), a.By, when(a.At), a.Destination, a.Seq, a.EventID, a.Type, a.Key, a.Reason}
		}
		return printList(s, views, []string{"AT", "ACTION", "BY", "TYPE", "KEY", "ID", "REASON"}, func(a ParkedActionView) []string {
			return []string{clock(a.At), a.Action, a.By, a.Type, orDash(a.Key), a.ID, shorten(a.Reason, 100)}
		})
	})
}

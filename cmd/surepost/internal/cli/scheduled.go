package cli

import (
	"fmt"
	"time"

	"github.com/surepost/surepost/relay"
)

type scheduledGroup struct {
	List   scheduledList   `cmd:"" help:"List events that aren't due yet, the next one first."`
	Cancel scheduledCancel `cmd:"" help:"Take events back that aren't due yet."`
	Log    scheduledLog    `cmd:"" help:"List who took back what, the newest first."`
}

// scheduledSelection is the flags that select delayed events.
type scheduledSelection struct {
	ID     []string `name:"id" help:"Only the event of this id; may be repeated." placeholder:"ID" sep:"none"`
	Key    string   `help:"Only events of this key." placeholder:"KEY"`
	Type   string   `help:"Only events of this type." placeholder:"TYPE"`
	Source string   `help:"Only events of this source." placeholder:"SOURCE"`
	From   dueTime  `help:"Only those due at this time or later: 2026-01-31T08:00:00Z, or from now, such as 2h." placeholder:"TIME"`
	Until  dueTime  `help:"Only those due before this time." placeholder:"TIME"`
}

// dueTime is a time on the command line like moment, but a duration is one from now.
type dueTime struct{ time.Time }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *dueTime) UnmarshalText(text []byte) error {
	var m moment
	if err := m.UnmarshalText(text); err != nil {
		return fmt.Errorf("%q is no time: write 2026-01-31T08:00:00Z, 2026-01-31 (UTC), or how long from now, such as 90m or 7d", text)
	}
	d.Time = m.Time
	if now := time.Now(); m.relative {
		d.Time = now.Add(now.Sub(m.Time))
	}
	return nil
}

func (c scheduledSelection) filter() (relay.ScheduledFilter, error) {
	f := relay.ScheduledFilter{IDs: c.ID, Key: c.Key, Type: c.Type, Source: c.Source, Since: c.From.Time, Until: c.Until.Time}
	if !f.Since.IsZero() && !f.Until.IsZero() && !f.Since.Before(f.Until) {
		return f, usage("--from isn't before --until, so that nothing is selected", "exchange them")
	}
	return f, nil
}

func (c scheduledSelection) empty() bool {
	return len(c.ID) == 0 && c.Key == "" && c.Type == "" && c.Source == "" && c.From.IsZero() && c.Until.IsZero()
}

type scheduledList struct {
	scheduledSelection
	Limit int `help:"How many at most: 1 to 10,000." default:"100"`
}

func (cmd scheduledList) Run(s *session) error {
	filter, err := cmd.filter()
	if err != nil {
		return err
	}
	if err := checkLimit(cmd.Limit); err != nil {
		return err
	}
	return with(s, "delay events", func(_ *opened, store canSchedule) error {
		list, err := store.Scheduled(s.ctx, filter, cmd.Limit)
		if err != nil {
			return err
		}
		views := make([]ScheduledView, len(list))
		for i, e := range list {
			views[i] = ScheduledView{when(e.Event.NotBefore), when(e.WrittenAt), eventView(relay.Entry{Event: e.Event})}
		}
		return printList(s, views, []string{"DUE", "WRITTEN", "TYPE", "KEY", "ID"}, func(v ScheduledView) []string {
			return []string{clock(v.Due), clock(v.WrittenAt), v.Event.Type, orDash(v.Event.Key), v.Event.ID}
		})
	})
}

type scheduledCancel struct {
	scheduledSelection
	All bool   `help:"All delayed events."`
	By  string `help:"Who is recorded for it. Default: the user of the operating system." placeholder:"NAME"`
	consent
}

func (cmd scheduledCancel) Run(s *session) error {
	filter, err := cmd.filter()
	switch {
	case err != nil:
		return err
	case cmd.empty() && !cmd.All:
		return usage("no event was chosen", "choose by --id, --key, --type, --source, --from or --until, or all of them by --all")
	case !cmd.empty() && cmd.All:
		return usage("--all goes with no other choice", "leave it out, or leave out the others")
	}
	return with(s, "delay events", func(_ *opened, store canSchedule) error {
		doing := "take back the chosen delayed events: they are never published"
		if cmd.All {
			doing = "take back ALL delayed events: they are never published"
		}
		if err := s.confirm(cmd.consent, doing); err != nil {
			return err
		}
		n, err := store.CancelScheduled(s.ctx, filter, by(cmd.By))
		if err != nil {
			return err
		}
		return s.counted("scheduled cancel", n, by(cmd.By), "%s taken back.", "no delayed event was chosen: it was due or taken back before")
	})
}

type scheduledLog struct {
	scheduledSelection
	Limit int `help:"How many at most: 1 to 10,000." default:"100"`
}

func (cmd scheduledLog) Run(s *session) error {
	filter, err := cmd.filter()
	if err != nil {
		return err
	}
	if err := checkLimit(cmd.Limit); err != nil {
		return err
	}
	return with(s, "delay events", func(_ *opened, store canSchedule) error {
		list, err := store.Cancellations(s.ctx, filter, cmd.Limit)
		if err != nil {
			return err
		}
		views := make([]CancellationView, len(list))
		for i, c := range list {
			views[i] = CancellationView{c.By, when(c.At), c.EventID, c.Type, c.Key, c.Source, when(c.NotBefore)}
		}
		return printList(s, views, []string{"AT", "BY", "TYPE", "KEY", "ID", "WAS DUE"}, func(c CancellationView) []string {
			return []string{clock(c.At), c.By, c.Type, orDash(c.Key), c.ID, clock(c.Due)}
		})
	})
}

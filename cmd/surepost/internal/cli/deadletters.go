package cli

import (
	"fmt"
	"io"

	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/cmd/surepost/internal/connect"
)

type deadLettersGroup struct {
	List deadLettersList `cmd:"" help:"List dead letters, the oldest first, and leave them where they are."`
}

// letterSelection is the flags that select dead letters.
type letterSelection struct {
	Queue           string   `arg:"" help:"The queue that the letters came from."`
	DeadLetterQueue string   `help:"Where they are. Default: the queue's name and .dlq." placeholder:"NAME"`
	ID              []string `name:"id" help:"Only the event of this id; may be repeated." placeholder:"ID" sep:"none"`
	Type            []string `help:"Only events of this type; may be repeated." placeholder:"TYPE"`
	Key             []string `help:"Only events of this key; may be repeated." placeholder:"KEY" sep:"none"`
	Reason          []string `help:"Only those that are there for this reason; may be repeated." placeholder:"REASON"`
	From            moment   `help:"Only those dead-lettered at that time or later." placeholder:"TIME"`
	Until           moment   `help:"Only those dead-lettered before that time." placeholder:"TIME"`
}

func (l letterSelection) filter() amqp.DeadLetterFilter {
	filter := amqp.DeadLetterFilter{IDs: l.ID, Types: l.Type, Keys: l.Key, After: l.From.Time, Before: l.Until.Time}
	for _, r := range l.Reason {
		filter.Reasons = append(filter.Reasons, amqp.DeadLetterReason(r))
	}
	return filter
}

// check finds what the library would say about fields that nobody here knows.
func (l letterSelection) check() error {
	if !l.From.IsZero() && !l.Until.IsZero() && !l.From.Before(l.Until.Time) {
		return usage("--from isn't before --until, so that nothing is selected", "exchange them")
	}
	return nil
}

// broker validates the configuration and returns how to reach RabbitMQ.
func (s *session) broker() (amqp.Connection, error) {
	opened, err := s.open(connect.Needs{Broker: true}, false)
	if err != nil {
		return amqp.Connection{}, err
	}
	return connect.Connection(opened.config)
}

type deadLettersList struct {
	letterSelection
	Limit int `help:"How many at most: 1 to 10,000." default:"100"`
}

func (cmd deadLettersList) Run(s *session) error {
	if err := checkLimit(cmd.Limit); err != nil {
		return err
	}
	if err := cmd.check(); err != nil {
		return err
	}
	connection, err := s.broker()
	if err != nil {
		return err
	}
	letters, err := amqp.DeadLetters(s.ctx, amqp.DeadLettersConfig{
		Connection: connection, Queue: cmd.Queue, DeadLetterQueue: cmd.DeadLetterQueue, Select: cmd.filter(), Limit: cmd.Limit,
	})
	if err != nil {
		return err
	}
	views := make([]DeadLetterView, len(letters))
	for i, l := range letters {
		views[i] = DeadLetterView{l.ID, l.Type, l.Key, l.Queue, l.Exchange, l.RoutingKey, string(l.Reason), l.Error, l.Attempts, l.Redrives, when(l.At), l.Bytes}
	}
	return printList(s, views, []string{"AT", "REASON", "TYPE", "KEY", "ID", "ATTEMPTS", "ERROR"}, func(l DeadLetterView) []string {
		return []string{clock(l.At), l.Reason, orDash(l.Type), orDash(l.Key), orDash(l.ID), fmt.Sprint(l.Attempts), shorten(l.Error, 100)}
	})
}

type redriveCommand struct {
	letterSelection
	To          string `help:"Move them to this queue instead of those that they came from." placeholder:"NAME"`
	Limit       int    `help:"How many at most, the oldest first. Default: no limit."`
	IgnoreOrder bool   `help:"Move letters even if an earlier one of their key stays."`
	DryRun      bool   `help:"Count, and move nothing."`
	consent
}

func (cmd redriveCommand) Run(s *session) error {
	if err := cmd.check(); err != nil {
		return err
	}
	if cmd.Limit < 0 {
		return usage(fmt.Sprintf("--limit is %d", cmd.Limit), "use 1 or more, or leave it out for no limit")
	}
	connection, err := s.broker()
	if err != nil {
		return err
	}
	if !cmd.DryRun {
		if err := s.confirm(cmd.consent, "move dead letters of "+printable(cmd.Queue)+" back to be handled again"); err != nil {
			return err
		}
	}
	report, err := amqp.Redrive(s.ctx, amqp.RedriveConfig{
		Connection: connection, Queue: cmd.Queue, DeadLetterQueue: cmd.DeadLetterQueue, Select: cmd.filter(), To: cmd.To,
		Limit: cmd.Limit, IgnoreOrder: cmd.IgnoreOrder, DryRun: cmd.DryRun,
	})
	if err != nil && report.Waiting == 0 {
		return err
	}
	view := RedriveView{report.Waiting, report.Moved, report.NotSelected, report.Held, report.Failed, report.Unseen, report.Notes, cmd.DryRun}
	printed := printOne(s, view, showRedrive) // beside an error it says how far it came
	if err == nil && report.Failed > 0 {
		err = failed(fmt.Sprintf("%s couldn't be moved", plural(report.Failed, "letter")), "the notes say why")
	}
	if err != nil {
		return err
	}
	return printed
}

func showRedrive(w io.Writer, v RedriveView) {
	moved := "moved"
	if v.DryRun {
		moved = "would be moved"
	}
	fmt.Fprintf(w, "%d waiting: %d %s, %d not selected, %d held behind others of their key, %d failed, %d not looked at\n",
		v.Waiting, v.Moved, moved, v.NotSelected, v.Held, v.Failed, v.Unseen)
	for _, note := range v.Notes {
		fmt.Fprintln(w, "note: "+printable(note))
	}
}

package amqp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost/diagnosis"
)

// exchanges looks at the exchanges that the relay publishes to.
func (d *visit) exchanges(ctx context.Context) {
	routing, _ := d.config.Publisher.Routing.compile() // validated
	all := map[string]Exchange{}
	for _, name := range routing.exchanges() {
		all[name] = Exchange{Name: name}
	}
	for _, e := range d.config.Publisher.Exchanges {
		all[e.Name] = e
	}
	for _, c := range d.config.Consumers {
		if _, there := all[c.Exchange]; !there {
			all[c.Exchange] = Exchange{Name: c.Exchange}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		d.exchange(ctx, all[name].withDefaults())
	}
}

func (d *visit) exchange(ctx context.Context, e Exchange) {
	subject := "exchange " + e.Name
	l, err := d.connected(ctx)
	if err == nil {
		err = e.ensure(ctx, l, Verify)
	}
	var refused *TopologyError
	if errors.As(err, &refused) && refused.Code == amqp091.NotFound {
		d.add("exchange-missing", diagnosis.Critical, subject, "it isn't there: whatever is published to it ends the relay's session",
			"create it (surepost relay does, in mode declare), or correct the routing")
		return
	}
	if err != nil {
		d.unknown("exchange", subject, err)
		return
	}
	if err = e.ensure(ctx, l, Declare); err != nil {
		d.differs(subject, "exchange", d.config.Publisher.Mode, err)
		return
	}
	d.good("exchange", subject, "it is there, durable, of kind "+e.Kind)
}

// differs is about something that is there and couldn't be declared as it is configured.
func (d *visit) differs(subject, kind string, mode Mode, err error) {
	var refused *TopologyError
	switch {
	case !errors.As(err, &refused):
		d.unknown(kind, subject, err)
	case refused.Code == amqp091.AccessRefused:
		d.good(kind, subject, "it is there; this user may not compare its arguments (that takes the configure permission)")
	default:
		severity := diagnosis.Warning // nobody declares it, so it works
		if mode == Declare {
			severity = diagnosis.Critical // whoever connects is refused
		}
		d.add(kind+"-mismatch", severity, subject, refused.Problem, refused.Remedy)
	}
}

// subscription looks at a consumer's queues.
func (d *visit) subscription(ctx context.Context, c ConsumerConfig) {
	queues := []string{c.Queue}
	if c.Partitions > 0 {
		d.exchange(ctx, c.partitionExchange())
		queues = nil
		for i := range c.Partitions {
			queues = append(queues, c.partition(i))
		}
	}
	for _, name := range queues {
		d.consumed(ctx, c, name)
	}
	d.deadLetters(ctx, c)
	for _, delay := range c.RetryDelays {
		name := c.retryQueue(delay)
		if state, there := d.queue(ctx, name, "what waits for a retry is dropped, or comes back unhandled"); there {
			if d.compared(ctx, name, c.Mode, c.retryArgs(delay)) {
				d.good("retry-queue", "queue "+name, fmt.Sprintf("%d messages wait for their retry", state.Messages))
			}
		}
	}
}

// queue returns what the broker knows of a queue, and makes it a finding if it isn't there.
func (d *visit) queue(ctx context.Context, name, without string) (state amqp091.Queue, there bool) {
	subject := "queue " + name
	l, err := d.connected(ctx)
	if err == nil {
		state, there, err = inspectQueue(ctx, l, name)
	}
	switch {
	case err != nil:
		d.unknown("queue", subject, err)
		return state, false
	case !there:
		d.add("queue-missing", diagnosis.Critical, subject, "it isn't there: "+without, "start its consumer, which declares it (Mode Declare), or correct the name")
	}
	return state, there
}

// consumed looks at a queue that a consumer should be working on.
func (d *visit) consumed(ctx context.Context, c ConsumerConfig, name string) {
	state, there := d.queue(ctx, name, "events for it are unroutable, or go to other queues only")
	if !there {
		return
	}
	subject := "queue " + name
	fine := d.compared(ctx, name, c.Mode, c.queueArgs())
	switch {
	case state.Consumers > 0:
		if fine {
			d.good("queue", subject, fmt.Sprintf("%d consumers, %d messages ready", state.Consumers, state.Messages))
		}
	case state.Messages > 0:
		d.add("queue-unconsumed", diagnosis.Critical, subject, fmt.Sprintf("%d messages wait, and nobody consumes it", state.Messages),
			"start its consumer, or see its log for why it can't")
	default:
		d.add("queue-unconsumed", diagnosis.Notice, subject, "nobody consumes it; nothing waits yet", "start its consumer, or delete the queue if it is of no use any more")
	}
}

func (d *visit) deadLetters(ctx context.Context, c ConsumerConfig) {
	name := c.deadLetterQueue()
	state, there := d.queue(ctx, name, "what the broker gives up on is lost, and what the consumer gives up on holds it up")
	if !there {
		return
	}
	subject := "queue " + name
	if d.compared(ctx, name, c.Mode, deadLetterArgs(c.QueueType)) && state.Messages == 0 {
		d.good("dead-letters", subject, "it is empty")
	}
	if state.Messages > 0 {
		d.add("dead-letters", diagnosis.Warning, subject, fmt.Sprintf("%d messages couldn't be handled; their headers say why", state.Messages),
			"mend the cause, then take them back (amqp.Redrive)")
	}
}

// mostDifferences bounds how often a queue is declared to find all of its arguments that differ: the broker names one at a
// time.
const mostDifferences = 8

// compared declares a queue that is there, as it is configured, and reports whether it is as it should be. The broker
// creates nothing, since it is there, and names the first argument that differs: with that one as it is, the next declaration
// names the next.
func (d *visit) compared(ctx context.Context, name string, mode Mode, want amqp091.Table) (same bool) {
	subject := "queue " + name
	args := maps.Clone(want)
	same = true
	for range mostDifferences {
		l, err := d.connected(ctx)
		if err == nil {
			err = ensureQueue(ctx, l, Declare, name, args)
		}
		if err == nil {
			return same
		}
		var refused *TopologyError
		if !errors.As(err, &refused) || refused.Argument == "" {
			d.differs(subject, "queue", mode, err)
			return false
		}
		f := diagnosis.Finding{Code: "queue-mismatch", Severity: diagnosis.Warning, Subject: subject,
			Cause: refused.Problem + consequence(refused.Argument), Remedy: refused.Remedy}
		if mode == Declare || losesLetters(refused.Argument) {
			f.Severity = diagnosis.Critical
		}
		d.findings = append(d.findings, f)
		if !adopt(args, refused.Argument, refused.Current) {
			return false
		}
		same = false
	}
	return false
}

// consequence says what an argument that differs does, after what it is.
func consequence(argument string) string {
	switch argument {
	case amqp091.QueueTypeArg:
		return "; a queue that isn't a quorum queue lives on one node, and doesn't count deliveries"
	case "x-single-active-consumer":
		return "; without a single active consumer the order per key doesn't hold between consumers"
	case "x-dead-letter-exchange", "x-dead-letter-routing-key":
		return "; what the broker gives up on is dropped, or goes elsewhere"
	case "x-delivery-limit":
		return "; it is what catches a message that kills its consumer"
	}
	return ""
}

func losesLetters(argument string) bool { return strings.HasPrefix(argument, "x-dead-letter-") }

// currentValue is how RabbitMQ shows an argument's value, in the words of inequivalent.
var currentValue = regexp.MustCompile(`(?s)^the value '(.*)' of type '(\w+)'$`)

// adopt sets an argument to what the broker says that it is, and reports whether that is understood.
func adopt(args amqp091.Table, argument, current string) bool {
	if !strings.HasPrefix(argument, "x-") {
		return false // durable, auto_delete and exclusive aren't arguments
	}
	if current == "none" {
		delete(args, argument)
		return true
	}
	value, kind := current, "longstr"
	if m := currentValue.FindStringSubmatch(current); m != nil {
		value, kind = m[1], m[2]
	}
	switch kind {
	case "longstr":
		args[argument] = value
	case "bool":
		args[argument] = value == "true"
	default:
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return false
		}
		args[argument] = n
	}
	return true
}

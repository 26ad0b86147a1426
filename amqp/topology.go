package amqp

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// Mode says what to do about exchanges, queues and bindings when connecting.
type Mode int

const (
	// Declare creates what is missing. It fails where something is there with other arguments; it never deletes
	// anything. Needs the configure permission.
	Declare Mode = iota
	// Verify checks that exchanges and queues are there and creates nothing. RabbitMQ doesn't compare types and
	// arguments then, and has no way to look for a binding.
	Verify
	// None trusts that everything is there. What is missing shows as late as when an event is published: it ends the
	// session.
	None
)

func (m Mode) String() string {
	switch m {
	case Declare:
		return "Declare"
	case Verify:
		return "Verify"
	case None:
		return "None"
	}
	return fmt.Sprintf("Mode(%d)", int(m))
}

func (m Mode) validate() error {
	if m < Declare || m > None {
		return fmt.Errorf("amqp: Mode is %d: use amqp.Declare, amqp.Verify or amqp.None", int(m))
	}
	return nil
}

// Exchange is an exchange to publish to or to bind queues to. It is always durable.
type Exchange struct {
	// Name, at most 255 bytes. Those that begin with "amq." are RabbitMQ's own: they are verified, never declared.
	Name string
	// Kind is topic, direct, fanout, headers, or what a plugin adds ("x-consistent-hash"). Default topic.
	// A kind that the broker doesn't have shows when it is declared.
	Kind string
	// Args are further arguments, such as alternate-exchange. Prefer policies: arguments can't be changed later.
	Args map[string]any
}

func (e Exchange) withDefaults() Exchange {
	if e.Kind == "" {
		e.Kind = amqp091.ExchangeTopic
	}
	return e
}

func (e Exchange) validate() []error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf("amqp: "+format, args...)) }
	if e.Name == "" {
		add(`an exchange has no name: name it, for example "events"`)
	}
	if n := len(e.Name); n > maxShortString {
		add("the exchange name %.40q… is %d bytes long, the limit is %d: shorten it", e.Name, n, maxShortString)
	}
	switch e.Kind {
	case "", amqp091.ExchangeTopic, amqp091.ExchangeDirect, amqp091.ExchangeFanout, amqp091.ExchangeHeaders:
	default:
		if !strings.HasPrefix(e.Kind, "x-") {
			add("the kind of exchange %.40q is %.40q, which RabbitMQ doesn't have: "+
				"use topic, direct, fanout or headers, or a plugin's kind, which begins with \"x-\"", e.Name, e.Kind)
		}
	}
	if n := len(e.Kind); n > maxShortString {
		add("the kind of exchange %.40q is %d bytes long, the limit is %d: shorten it", e.Name, n, maxShortString)
	}
	if err := amqp091.Table(e.Args).Validate(); err != nil {
		add("an argument of exchange %.40q has a type that AMQP can't carry: use bool, int64, string or a table: %w",
			e.Name, err)
	}
	for name := range e.Args {
		if n := len(name); n > maxShortString { // the library would close the whole connection over it
			add("the argument %.40q… of exchange %.40q is %d bytes long, the limit is %d: shorten it",
				name, e.Name, n, maxShortString)
		}
	}
	return errs
}

// ensure declares or verifies the exchange, as mode asks.
func (e Exchange) ensure(ctx context.Context, l *link, mode Mode) error {
	if mode == Declare && strings.HasPrefix(e.Name, "amq.") {
		mode = Verify
	}
	return ensure(ctx, l, mode, entity{"exchange", e.Name}, func(ch *amqp091.Channel, passive bool) error {
		declare := ch.ExchangeDeclare
		if passive {
			declare = ch.ExchangeDeclarePassive
		}
		return declare(e.Name, e.Kind, true, false, false, false, amqp091.Table(e.Args))
	})
}

// entity is something that the broker holds, for messages.
type entity struct {
	Kind string // "exchange", "queue", "binding"
	Name string
}

func (e entity) String() string { return fmt.Sprintf("%s %q", e.Kind, e.Name) }

// ensure runs one declaration, passive in Mode Verify, and explains its error. In Mode None it does nothing.
func ensure(ctx context.Context, l *link, mode Mode, of entity, rpc func(ch *amqp091.Channel, passive bool) error) error {
	switch mode {
	case None:
		return nil
	case Verify:
		return declare(ctx, l, of, "verify", func(ch *amqp091.Channel) error { return rpc(ch, true) })
	default:
		return declare(ctx, l, of, "declare", func(ch *amqp091.Channel) error { return rpc(ch, false) })
	}
}

// declare runs one RPC about an entity on a channel of its own: the broker closes the channel of a declaration that
// it refuses. An error that the broker gave is a [*TopologyError]. The verb is "declare", "verify", "bind" or the
// like.
func declare(ctx context.Context, l *link, of entity, verb string, rpc func(ch *amqp091.Channel) error) error {
	ch, err := l.channel(ctx)
	if err != nil {
		return err
	}
	err = l.do(ctx, verb+" "+of.String(), func() error {
		if err := rpc(ch); err != nil {
			return err
		}
		return ch.Close()
	})
	return explainTopology(of, verb, l.vhost(), err)
}

// TopologyError says why the broker refused to declare, bind or find something.
type TopologyError struct {
	Verb   string // what was tried: "declare", "verify", "bind"
	Entity string // "exchange", "queue" or "binding"
	Name   string
	Vhost  string
	Code   int // AMQP's reply code: 403, 404, 405, 406

	// Where the entity is there with another type or argument (406): which, what was asked for and what is there, in
	// RabbitMQ's words.
	Argument, Asked, Current string

	Problem string
	Remedy  string
	Err     error // the broker's answer
}

func (e *TopologyError) Error() string {
	return fmt.Sprintf("amqp: %s %s %q in vhost %q: %s: %s (%v)",
		e.Verb, e.Entity, e.Name, e.Vhost, e.Problem, e.Remedy, e.Err)
}

// Unwrap returns the broker's answer.
func (e *TopologyError) Unwrap() error { return e.Err }

// inequivalent is how RabbitMQ words an argument that differs (rabbit_misc:assert_args_equivalence, and the same for
// type, durable, auto_delete and the like), from 3.10 to 4.3:
//
//	inequivalent arg 'type' for exchange 'events' in vhost '/': received 'fanout' but current is 'topic'
//	inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received the value '5' of type 'long' but current is none
var inequivalent = regexp.MustCompile(
	`(?s)inequivalent arg '([^']*)' for \w+ '(.*)' in vhost '(.*)': received (.*) but current is (.*)`)

// explainTopology turns the broker's refusal into words. Other errors, and nil, are returned as they are.
func explainTopology(of entity, verb, vhost string, err error) error {
	var answer *amqp091.Error
	if !errors.As(err, &answer) || !answer.Server {
		return err
	}
	e := &TopologyError{Verb: verb, Entity: of.Kind, Name: of.Name, Vhost: vhost, Code: answer.Code, Err: answer}
	switch answer.Code {
	case amqp091.PreconditionFailed:
		if m := inequivalent.FindStringSubmatch(answer.Reason); m != nil {
			e.Argument, e.Asked, e.Current = m[1], unquote(m[4]), unquote(m[5])
			e.Problem = fmt.Sprintf("it is there with another %s: asked for %s, there is %s", e.Argument, e.Asked, e.Current)
			e.Remedy = argumentRemedy(e.Argument) + ", or delete and create it anew in a maintenance window, " +
				"or use Mode Verify or None"
			break
		}
		if explainUnknownKind(e, answer.Reason) { // from 4.3 on
			break
		}
		e.Problem = "the broker refused it as it is"
		e.Remedy = "change what the broker names, or use Mode Verify or None if it is there already"
	case amqp091.CommandInvalid:
		if explainUnknownKind(e, answer.Reason) { // up to 4.2, and the connection is gone with it
			break
		}
		e.Problem = "the broker doesn't know such a command"
		e.Remedy = "see its answer, and RabbitMQ's log"
	case amqp091.NotFound:
		e.Problem = "it isn't there"
		e.Remedy = "create it, or use Mode Declare"
		if verb != "verify" {
			e.Problem = "something that it refers to isn't there"
			e.Remedy = "create what the broker names, or use Mode Declare for all parts"
		}
	case amqp091.AccessRefused:
		e.Problem = "the user has no permission"
		e.Remedy = fmt.Sprintf("grant it (rabbitmqctl set_permissions -p %s USER CONFIGURE WRITE READ), "+
			"or have it created by someone else and use Mode Verify or None", vhost)
	case amqp091.ResourceLocked:
		e.Problem = "another connection holds it exclusively"
		e.Remedy = "end that connection, or choose another name"
	case amqp091.InternalError:
		e.Problem = "the broker failed"
		e.Remedy = "wait until a majority of its nodes is up; see RabbitMQ's log"
	default:
		e.Problem = "the broker refused it"
		e.Remedy = "see its answer, and RabbitMQ's log"
	}
	return e
}

// argumentRemedy says how to declare something with the argument that is there.
func argumentRemedy(argument string) string {
	for _, a := range []struct{ argument, field string }{
		{"type", "the exchange's Kind (PublisherConfig.Exchanges)"},
		{amqp091.QueueTypeArg, "ConsumerConfig.QueueType"},
		{"x-single-active-consumer", "ConsumerConfig.Competing"},
		{"x-delivery-limit", "ConsumerConfig.DeliveryLimit"},
		{"x-dead-letter-routing-key", "ConsumerConfig.DeadLetterQueue"},
	} {
		if a.argument == argument {
			return "declare it as it is there, by " + a.field
		}
	}
	return "declare it as it is there"
}

// unknownKind is how RabbitMQ names a kind of exchange that it doesn't have (rabbit_exchange:check_type).
var unknownKind = regexp.MustCompile(`(?:unknown|invalid) exchange type '([^']*)'`)

// explainUnknownKind reports whether that is what the broker complains of.
func explainUnknownKind(e *TopologyError, reason string) bool {
	m := unknownKind.FindStringSubmatch(reason)
	if m == nil {
		return false
	}
	e.Problem = fmt.Sprintf("the broker has no exchanges of the kind %q", m[1])
	for _, p := range []struct{ kind, plugin string }{
		{"x-consistent-hash", "rabbitmq_consistent_hash_exchange"},
		{"x-modulus-hash", "rabbitmq_sharding"},
		{"x-random", "rabbitmq_random_exchange"},
		{"x-recent-history", "rabbitmq_recent_history_exchange"},
		{"x-jms-topic", "rabbitmq_jms_topic_exchange"},
	} {
		if p.kind == m[1] {
			e.Remedy = fmt.Sprintf("enable its plugin on every node (rabbitmq-plugins enable %s)", p.plugin)
			return true
		}
	}
	e.Remedy = "use topic, direct, fanout or headers, or enable the plugin that has it, on every node " +
		"(rabbitmq-plugins list)"
	return true
}

// unquote takes the quotes off RabbitMQ's 'topic'; longer wordings ("the value '5' of type 'long'", "none") stay as
// they are.
func unquote(s string) string {
	if inner, ok := strings.CutPrefix(s, "'"); ok {
		if inner, ok = strings.CutSuffix(inner, "'"); ok {
			return inner
		}
	}
	return s
}

package amqptest

import (
	"fmt"
	"time"
)

// settings are what a queue's arguments say.
type settings struct {
	quorum             bool
	ttl                time.Duration // of each message; negative: none
	expiresIdle        time.Duration // of the unused queue; 0: never
	maxLength          int           // ready messages; negative: no limit
	maxBytes           int           // of their bodies; negative: no limit
	rejectPublish      bool          // when full, instead of dropping the oldest
	deadLetterRefused  bool          // what is refused goes to the dead-letter exchange
	deadLetters        bool
	deadLetterExchange string
	hasDeadLetterKey   bool
	deadLetterKey      string
	singleActive       bool
	deliveryLimit      int           // of quorum queues; noLimit
	consumerTimeout    time.Duration // of deliveries; 0: the broker's
}

// comparedArgs are the arguments that must be the same when a queue is declared again (rabbit_amqqueue:declare_args).
var comparedArgs = []string{
	"x-expires", "x-message-ttl", "x-dead-letter-exchange", "x-dead-letter-routing-key", "x-dead-letter-strategy",
	"x-delivery-limit", "x-max-length", "x-max-length-bytes", "x-max-priority", "x-overflow", "x-queue-mode",
	"x-queue-type", "x-queue-version", "x-single-active-consumer", "x-quorum-initial-group-size",
}

// configure reads the queue's arguments.
func (q *queue) configure(r rules) error {
	s := settings{ttl: -1, maxLength: -1, maxBytes: -1, deliveryLimit: noLimit}
	bad := func(arg, what string) error { return refuse(406, "invalid arg '%s' for %s: %s", arg, q, what) }
	number := func(arg string, least int64, set func(int64)) error {
		value, ok := q.args[arg]
		if !ok {
			return nil
		}
		n, ok := integer(value)
		switch {
		case !ok:
			return bad(arg, "{unacceptable_type,"+typeName(value)+"}")
		case n < least:
			return bad(arg, fmt.Sprintf("{value_negative,%d}", n))
		}
		set(n)
		return nil
	}
	text := func(arg string, set func(string) bool) error {
		value, ok := q.args[arg]
		if !ok {
			return nil
		}
		str, ok := value.(string)
		if !ok {
			return bad(arg, "{unacceptable_type,"+typeName(value)+"}")
		}
		if !set(str) {
			return bad(arg, "invalid value '"+str+"'")
		}
		return nil
	}
	ms := func(d *time.Duration) func(int64) {
		return func(n int64) { *d = time.Duration(n) * time.Millisecond }
	}
	count := func(i *int) func(int64) { return func(n int64) { *i = int(n) } }
	for _, err := range []error{
		text("x-queue-type", func(kind string) bool {
			s.quorum = kind == "quorum"
			return s.quorum || kind == "classic"
		}),
		number("x-message-ttl", 0, ms(&s.ttl)),
		number("x-expires", 1, ms(&s.expiresIdle)),
		number("x-consumer-timeout", 0, func(n int64) {
			if r.queueTimeout {
				s.consumerTimeout = time.Duration(n) * time.Millisecond
			}
		}),
		number("x-max-length", 0, count(&s.maxLength)),
		number("x-max-length-bytes", 0, count(&s.maxBytes)),
		text("x-dead-letter-exchange", func(name string) bool {
			s.deadLetters, s.deadLetterExchange = true, name
			return true
		}),
		text("x-dead-letter-routing-key", func(key string) bool {
			s.hasDeadLetterKey, s.deadLetterKey = true, key
			return true
		}),
		text("x-overflow", func(how string) bool {
			s.deadLetterRefused = how == "reject-publish-dlx"
			s.rejectPublish = how == "reject-publish" || s.deadLetterRefused
			return s.rejectPublish || how == "drop-head"
		}),
	} {
		if err != nil {
			return err
		}
	}
	if value, ok := q.args["x-single-active-consumer"]; ok {
		if s.singleActive, ok = value.(bool); !ok {
			return bad("x-single-active-consumer", "{unacceptable_type,"+typeName(value)+"}")
		}
	}
	if s.hasDeadLetterKey && !s.deadLetters {
		return bad("x-dead-letter-routing-key", "routing_key_but_no_dlx_defined")
	}
	if s.quorum {
		s.deliveryLimit = r.deliveryLimit
		if err := number("x-delivery-limit", -1, count(&s.deliveryLimit)); err != nil {
			return err
		}
		switch {
		case !q.durable:
			return refuse(406, "invalid property 'non-durable' for %s", q)
		case q.owner != nil:
			return refuse(406, "invalid property 'exclusive-owner' for %s", q)
		case q.autoDelete:
			return refuse(406, "invalid property 'auto-delete' for %s", q)
		}
	}
	q.settings = s
	return nil
}

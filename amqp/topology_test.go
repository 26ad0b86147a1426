package amqp

import (
	"errors"
	"testing"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

func TestAMismatchIsTakenApart(t *testing.T) {
	for _, test := range []struct{ reason, argument, asked, current string }{
		{"PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'events' in vhost '/': received 'fanout' but current is 'topic'",
			"type", "fanout", "topic"},
		{"PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'q' in vhost '/': received the value 'quorum' of type 'longstr' but current is none",
			"x-queue-type", "the value 'quorum' of type 'longstr'", "none"},
		{"PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'it's' in vhost 'a b': received 'true' but current is 'false'",
			"durable", "true", "false"},
	} {
		err := explainTopology(entity{"queue", "q"}, "declare", "/", &amqp091.Error{Code: 406, Reason: test.reason, Server: true})
		var e *TopologyError
		if !errors.As(err, &e) {
			t.Fatalf("%T isn't a *TopologyError", err)
		}
		if e.Argument != test.argument || e.Asked != test.asked || e.Current != test.current {
			t.Errorf("%s:\ngot %q %q %q", test.reason, e.Argument, e.Asked, e.Current)
		}
	}
}

func TestAnErrorThatTheBrokerDidNotGiveIsLeftAlone(t *testing.T) {
	for _, err := range []error{nil, errors.New("x"), amqp091.ErrClosed} {
		if got := explainTopology(entity{"queue", "q"}, "declare", "/", err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}

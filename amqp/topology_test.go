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

// TestAMissingPluginIsNamed, in the words of all versions.
func TestAMissingPluginIsNamed(t *testing.T) {
	for _, test := range []struct {
		code         int
		reason, want string
	}{
		{503, "COMMAND_INVALID - unknown exchange type 'x-consistent-hash'", "rabbitmq-plugins enable rabbitmq_consistent_hash_exchange"},
		{406, "PRECONDITION_FAILED - unknown exchange type 'x-modulus-hash'", "rabbitmq-plugins enable rabbitmq_sharding"},
		{503, "COMMAND_INVALID - invalid exchange type 'x-lvc'", "enable the plugin that has it"},
		{503, "COMMAND_INVALID - second 'channel.open' seen", "see its answer"},
	} {
		err := explainTopology(entity{"exchange", "q"}, "declare", "/",
			&amqp091.Error{Code: test.code, Reason: test.reason, Server: true})
		wantText(t, err, test.want)
		if !(&Consumer{}).isMistake(err) {
			t.Errorf("%s: it will say that again until somebody changes something", test.reason)
		}
	}
}

// TestAKindThatCannotBeIsRefusedUnasked: the broker would end the whole connection over it.
func TestAKindThatCannotBeIsRefusedUnasked(t *testing.T) {
	for kind, ok := range map[string]bool{"": true, "topic": true, "headers": true, "x-whatever": true, "topik": false, "Topic": false} {
		err := errors.Join(Exchange{Name: "e", Kind: kind}.validate()...)
		if ok && err != nil {
			t.Errorf("%q: %v", kind, err)
		} else if !ok {
			wantText(t, err, "use topic, direct, fanout or headers")
		}
	}
}

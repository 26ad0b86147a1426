package amqp

import (
	"testing"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// TestAnUnknownBrokerIsTakenForTheNewest, and never a failure.
func TestAnUnknownBrokerIsTakenForTheNewest(t *testing.T) {
	rabbit := func(version any) amqp091.Table { return amqp091.Table{"product": "RabbitMQ", "version": version} }
	for _, test := range []struct {
		properties     amqp091.Table
		moves, cancels bool
		text           string
	}{
		{rabbit("3.10.8"), false, false, "3.10"},
		{rabbit("3.13.7"), false, false, "3.13"},
		{rabbit("4.0.1"), true, false, "4.0"},
		{rabbit("4.2.0-rc.1"), true, false, "4.2"},
		{rabbit("4.3.6"), true, true, "4.3"},
		{rabbit("5.0.0"), true, true, "5.0"},
		{rabbit("4.10"), true, true, "4.10"},
		{rabbit("nightly"), true, true, "of an unknown version"},
		{rabbit("4"), true, true, "of an unknown version"},
		{rabbit(int64(3)), true, true, "of an unknown version"},
		{amqp091.Table{"product": "LavinMQ", "version": "2.0.0"}, true, true, "of an unknown version"},
		{nil, true, true, "of an unknown version"},
	} {
		v := versionOf(test.properties)
		if v.movesActiveConsumer() != test.moves || v.cancelsOnTimeout() != test.cancels || v.String() != test.text {
			t.Errorf("%v: %v %v %v", test.properties, v, v.movesActiveConsumer(), v.cancelsOnTimeout())
		}
	}
}

package amqp

import (
	"fmt"
	"strconv"
	"strings"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// serverVersion is which RabbitMQ a connection leads to, as the broker says of itself in connection.start. The zero
// value is a broker that doesn't say, or another product: it is taken for the newest RabbitMQ, whose rules are the ones
// that will last.
//
// What differs, and where it matters here (measured with 3.10.8 and 4.3.6; RabbitMQ, "Quorum Queues", "Consumers"):
//
//	                                   3.10–3.13        4.0–4.2          4.3
//	delivery limit if none is declared  none             20               20             always declared: queueArgs
//	x-delivery-count counts             every return     every return     reject, and what a lost channel held
//	x-acquired-count                    –                –                every return   deliveries
//	closing a channel counts            yes              yes              yes            dispatcher.shutdown
//	x-priority moves an active consumer no               yes              yes            partition.go
//	consumer_timeout (quorum queues)    closes channel   closes channel   basic.cancel   session.watch
//	an unknown exchange kind            503, connection  503, connection  406, channel   explainTopology
type serverVersion struct{ major, minor int }

// version returns what the broker said when the connection was opened.
func (l *link) version() serverVersion { return versionOf(l.Properties) }

func versionOf(properties amqp091.Table) serverVersion {
	product, _ := properties["product"].(string)
	version, _ := properties["version"].(string)
	if product != "RabbitMQ" {
		return serverVersion{}
	}
	first, rest, _ := strings.Cut(version, ".")
	second, _, _ := strings.Cut(rest, ".")
	major, err := strconv.Atoi(first)
	if err != nil || major < 1 {
		return serverVersion{}
	}
	minor, err := strconv.Atoi(second)
	if err != nil || minor < 0 {
		return serverVersion{}
	}
	return serverVersion{major, minor}
}

func (v serverVersion) atLeast(major, minor int) bool {
	return v == serverVersion{} || v.major > major || v.major == major && v.minor >= minor
}

// movesActiveConsumer reports whether a queue with a single active consumer hands over to one of a higher x-priority,
// after the active one has acknowledged what it holds. Earlier versions ignore the priority there.
func (v serverVersion) movesActiveConsumer() bool { return v.atLeast(4, 0) }

// cancelsOnTimeout reports whether a message that is held for longer than consumer_timeout costs the consumer, and not
// the channel.
func (v serverVersion) cancelsOnTimeout() bool { return v.atLeast(4, 3) }

func (v serverVersion) String() string {
	if v == (serverVersion{}) {
		return "of an unknown version"
	}
	return fmt.Sprintf("%d.%d", v.major, v.minor)
}

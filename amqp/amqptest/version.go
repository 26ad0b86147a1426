package amqptest

import (
	"strconv"
	"strings"
)

// noLimit is a delivery limit that no message reaches.
const noLimit = -1

// rules are what differs between the versions of RabbitMQ. Package brokertest proves them for 3.10.8 and 4.3.6; where
// a rule changed in between is from its release notes and sources.
type rules struct {
	// deliveryLimit is what quorum queues use that don't set x-delivery-limit: 20 since 4.0.
	deliveryLimit int
	// nackCounts says that basic.nack counts as a failed delivery: not since 4.3, where only basic.reject and lost
	// consumers do.
	nackCounts bool
	// timeoutCancels says that a consumer timeout cancels the consumer and gives its messages back, instead of
	// closing the channel: quorum queues since 4.3.
	timeoutCancels bool
	// queueTimeout says that x-consumer-timeout is understood as a queue's argument: since 3.12; as a consumer's it
	// is where timeoutCancels.
	queueTimeout bool
	// deathsFromHeaders says that the header x-death of a published message is taken for its history: until 3.13.
	deathsFromHeaders bool
	// lastDeath says that dead letters have the headers x-last-death-*: since 3.13.
	lastDeath bool
	// globalQos says that basic.qos with the flag global limits all consumers of a channel together; since 4.3 it is
	// taken for a limit of each (deprecated feature global_qos, denied by default).
	globalQos bool
	// getCountsZero says that basic.get reports a delivery count of 0, too: before 4.0.
	getCountsZero bool
	// unknownKindIsHard says that an unknown exchange type ends the connection instead of the channel: before 3.13.
	unknownKindIsHard bool
	// lettersAreRedelivered says that a dead letter that was delivered before it died is marked as redelivered: since
	// 4.3.
	lettersAreRedelivered bool
	// unlimitedToTheEnd says that a quorum queue without a delivery limit puts what clients return at its end: before
	// 4.3.
	unlimitedToTheEnd bool
	// queueKind is how RabbitMQ prints the type of a quorum queue in one of its texts.
	queueKind string
}

func rulesOf(version string) rules {
	v := parseVersion(version)
	r := rules{
		deliveryLimit:     noLimit,
		nackCounts:        v < 4_003,
		timeoutCancels:    v >= 4_003,
		queueTimeout:      v >= 3_012,
		deathsFromHeaders: v < 4_000,
		lastDeath:         v >= 3_013,
		globalQos:         v < 4_003,
		getCountsZero:     v < 4_000,
		unknownKindIsHard: v < 3_013,
		queueKind:         "quorum",

		lettersAreRedelivered: v >= 4_003,
		unlimitedToTheEnd:     v < 4_003,
	}
	if v >= 4_000 {
		r.deliveryLimit = 20
		r.queueKind = `<<"quorum">>`
	}
	return r
}

// parseVersion makes 4003 of "4.3.6". What it can't read is 0, the oldest.
func parseVersion(version string) int {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(minor)
	if errA != nil || errB != nil {
		return 0
	}
	return a*1000 + b
}

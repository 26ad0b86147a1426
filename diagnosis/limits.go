package diagnosis

import (
	"errors"
	"fmt"
	"time"
)

// Limits say from when on something is worth a finding. The zero value works.
type Limits struct {
	// TransactionAge is how long a transaction may have been open, or prepared, before it is named as one that holds
	// something back. Default 1 min: business transactions take milliseconds, and reports and backups some minutes, which is
	// a notice.
	TransactionAge time.Duration

	// Behind is how old, by Event.Time, the oldest unpublished event may be before a lane is taken to be behind. Default 30 s,
	// which is longer than a take-over takes; ten times as much is critical. Events that are written with a Time of long ago
	// look behind until they are published.
	Behind time.Duration

	// ClockSkew is how far this machine's clock and the server's may be apart, beyond what the round trip leaves open. Default
	// 2 s. Leases don't depend on it: ages that are shown, and events that are due at a time, do.
	ClockSkew time.Duration

	// ConsumerIdle is for how long a consumer may have handled nothing before it is asked whether it is one still. Default 7
	// days.
	ConsumerIdle time.Duration

	// Retention is for how long the relays keep events (relay.Config.Retention). The log is overdue at twice that, since
	// events are removed in bulk. 0: not compared.
	Retention time.Duration

	// DedupeWindow is for how long the consumers' inbox remembers what was handled, and RedeliveryHorizon the longest time
	// after which a message can come again (amqp.ConsumerConfig.RedeliveryHorizon). Both 0: not compared.
	DedupeWindow, RedeliveryHorizon time.Duration

	// Role is what the user that asks is there for: it must have all privileges of that role. Default "": it must be able to read,
	// and if it may write some of what a relay or an operator writes, to write all of that.
	Role Role
}

// WithDefaults returns the limits with their defaults filled in.
func (l Limits) WithDefaults() Limits {
	for _, d := range []struct {
		value     *time.Duration
		byDefault time.Duration
	}{{&l.TransactionAge, time.Minute}, {&l.Behind, 30 * time.Second}, {&l.ClockSkew, 2 * time.Second}, {&l.ConsumerIdle, 7 * 24 * time.Hour}} {
		if *d.value == 0 {
			*d.value = d.byDefault
		}
	}
	return l
}

// Validate reports every limit that makes no sense.
func (l Limits) Validate() error {
	errs := []error{l.Role.validate()}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"TransactionAge", l.TransactionAge}, {"Behind", l.Behind}, {"ClockSkew", l.ClockSkew},
		{"ConsumerIdle", l.ConsumerIdle}, {"Retention", l.Retention},
		{"DedupeWindow", l.DedupeWindow}, {"RedeliveryHorizon", l.RedeliveryHorizon},
	} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("diagnosis: Limits.%s is %v: use a positive time, or 0 for the default", d.name, d.value))
		}
	}
	return errors.Join(errs...)
}

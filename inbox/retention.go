package inbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Retention says how long the record of a handled event is kept, and what that must outlast: an event that comes again after its
// record is gone is handled again. Its zero value works for consumers without retry queues.
type Retention struct {
	// Window is how long a record is kept at least. Default 30 days. It must not be shorter than the sum of the other times.
	Window time.Duration

	// Redelivery is how long a consumer may try an event again: amqp.ConsumerConfig.RedeliveryHorizon says it. Default 1 day.
	Redelivery time.Duration

	// Queued is how long an event may wait in a queue, while its consumer is down or behind. Default 3 days: a long weekend.
	Queued time.Duration

	// Redrive is how long a dead letter may lie before somebody has it delivered again. Default 7 days.
	Redrive time.Duration

	// Replay is how far back a producer's log goes that may be replayed: one and a half of its relay's
	// relay.Config.Retention, since that removes events in bulk. Default 10 days and a half, which is that for the default of
	// 7 days.
	Replay time.Duration

	// Every is how often old records are removed. Default 1 hour.
	Every time.Duration

	// Logger gets what an operator should know. Default slog.Default().
	Logger *slog.Logger
}

// Pruner is a Store that can remove old records.
type Pruner interface {
	// PruneInbox removes records of events that were handled longer than window ago, of all consumers, and what was noted of
	// attempts as old. It may be called by many processes at once. Some records stay for longer, since stores remove them in
	// bulk.
	PruneInbox(ctx context.Context, window time.Duration) (PruneReport, error)
}

// PruneReport is what one call of PruneInbox did.
type PruneReport struct {
	Emptied  int      // leaves of the table that were emptied as a whole
	Removed  int64    // records that were removed one by one
	Attempts int64    // records of attempts that were removed
	Held     []string // what was in the way
}

const day = 24 * time.Hour

func (r Retention) withDefaults() Retention {
	def := func(field *time.Duration, value time.Duration) {
		if *field == 0 {
			*field = value
		}
	}
	def(&r.Window, 30*day)
	def(&r.Redelivery, day)
	def(&r.Queued, 3*day)
	def(&r.Redrive, 7*day)
	def(&r.Replay, 10*day+12*time.Hour)
	def(&r.Every, time.Hour)
	if r.Logger == nil {
		r.Logger = slog.Default()
	}
	return r
}

// Horizon returns the longest time after which an event that was handled may come again: in the worst case it is replayed when it is
// about to leave the log, waits in the queue, is tried to the last, lies as a dead letter, and is redriven, waits and is tried once
// more.
func (r Retention) Horizon() time.Duration {
	r = r.withDefaults()
	return r.Replay + r.Redrive + 2*(r.Queued+r.Redelivery)
}

// Validate reports everything that is wrong, each with its remedy.
func (r Retention) Validate() error {
	r = r.withDefaults()
	var errs []error
	for _, f := range []struct {
		name  string
		value time.Duration
	}{{"Window", r.Window}, {"Redelivery", r.Redelivery}, {"Queued", r.Queued}, {"Redrive", r.Redrive}, {"Replay", r.Replay}, {"Every", r.Every}} {
		if f.value < 0 {
			errs = append(errs, fmt.Errorf("inbox: Retention.%s is %v: use a positive duration", f.name, f.value))
		}
	}
	if len(errs) == 0 && r.Window < r.Horizon() {
		errs = append(errs, fmt.Errorf("inbox: Retention.Window is %v, and an event may come again after %v: Replay %v, Redrive %v, and twice each Queued %v "+
			"and Redelivery %v; it would be handled again. Use a longer Window, or lower what can be lowered",
			r.Window, r.Horizon(), r.Replay, r.Redrive, r.Queued, r.Redelivery))
	}
	return errors.Join(errs...)
}

// Prune removes old records until ctx ends, and returns nil then. It returns at once with an error if the retention is invalid. A
// failure is logged, and tried again. A service calls it in a goroutine; it may run in many processes.
func Prune(ctx context.Context, store Pruner, retention Retention) error {
	if err := retention.Validate(); err != nil {
		return err
	}
	r := retention.withDefaults()
	for {
		report, err := store.PruneInbox(ctx, r.Window)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			r.Logger.Warn("old records of the inbox couldn't be removed", "err", err)
		case len(report.Held) > 0:
			r.Logger.Info("some old records of the inbox couldn't be removed yet", "held", report.Held)
		}
		timer := time.NewTimer(r.Every)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/internal/chance"
)

// Relay publishes a log's events to a broker: as many of its destination's lanes as are its share among the relays that
// are alive. One Run at a time; the other methods are safe for concurrent use.
type Relay struct {
	store     LaneStore
	publisher Publisher
	config    Config
	pace      *pace
	instance  string // tells this relay from others of its name
	vitals    vitals

	mu      sync.Mutex
	running bool
	led     map[*leader]struct{}
	of      int // lanes of the destination, 0 until that is known
	lanes   map[Lane]*LaneReport
	last    failure
	done    bool // all lanes have come to the end of their log
}

// New returns a relay from the store to the publisher.
func New(store Store, publisher Publisher, config Config) (*Relay, error) {
	config = config.withDefaults()
	err := config.validate()
	if store == nil {
		err = errors.Join(err, errors.New("relay: no store: pass a pgxstore.Store or a sqlstore.Store"))
	}
	if publisher == nil {
		err = errors.Join(err, errors.New("relay: no publisher: pass an amqp.Publisher"))
	}
	lanes, several := store.(LaneStore)
	if !several {
		lanes = oneLane{store}
		if config.Lanes > 1 {
			err = errors.Join(err, fmt.Errorf("relay: Config.Lanes is %d, and this store (%T) has one lane: set it to 1, or use a store that is a LaneStore, "+
				"as those on PostgreSQL are", config.Lanes, store))
		}
	}
	if w, ok := publisher.(interface{ Window() int }); ok && w.Window() < config.WindowEvents {
		err = errors.Join(err, fmt.Errorf("relay: Config.WindowEvents is %d, and the publisher allows %d events without an outcome: lower the one or raise the other",
			config.WindowEvents, w.Window()))
	}
	if err != nil {
		return nil, err
	}
	return &Relay{
		store: lanes, publisher: publisher, config: config, instance: surepost.NewID(),
		pace: newPace(config.MaxEventsPerSecond),
		led:  map[*leader]struct{}{}, lanes: map[Lane]*LaneReport{},
	}, nil
}

// Wake tells the relay that events may have been committed, so that it need not wait for its next poll. It never
// blocks. Services that run their relay themselves call it after a commit.
func (r *Relay) Wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.led {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// Check verifies that the store is ready and that the broker can be published to, and reports everything that isn't.
// Call it before Run to find a wrong configuration at once: Run itself takes a server that doesn't answer for an
// outage, and waits.
func (r *Relay) Check(ctx context.Context) error {
	return errors.Join(r.store.Check(ctx), r.CheckBroker(ctx))
}

// Run publishes until ctx ends: it takes its share of the destination's lanes, gives some back as other relays come, takes
// over those of relays that died, and begins again after every failure of the store or the broker, for as long as it
// takes. When ctx ends it settles what it has read, stores how far it came, releases the leases and returns nil. It
// also returns nil when the destination is a replay, and all of it was published or parked (Report.Done). It returns an
// error only if something is wrong that time doesn't mend (it matches ErrHalt, and says what to do), such as tables that
// were not migrated, or another relay of its name.
func (r *Relay) Run(ctx context.Context) (err error) {
	r.mu.Lock()
	if r.running {
		r.mu.Unlock()
		return errors.New("relay: Run is running already: make another Relay to run a standby")
	}
	r.running = true
	r.mu.Unlock()
	ended := r.vitals.began(ctx)
	defer func() {
		ended(err)
		r.mu.Lock()
		r.running = false
		r.mu.Unlock()
	}()
	defer r.chores(ctx)()
	return newSupervisor(ctx, r).run(ctx)
}

// failed notes an error of a lane, or of the relay as a whole (of a lane whose Of is 0).
func (r *Relay) failed(lane Lane, log *slog.Logger, what string, err error) {
	log.Warn(what, "err", err)
	now := failure{err, time.Now()}
	r.mu.Lock()
	r.last = now
	if rp := r.lanes[lane]; rp != nil {
		rp.LastError, rp.LastErrorAt = now.err, now.at
	}
	r.mu.Unlock()
	if h := r.config.Hooks.OnError; h != nil {
		h(lane, err)
	}
}

// failure is an error of the store or the broker.
type failure struct {
	err error
	at  time.Time
}

// backoff is a pause that doubles, with full jitter (AWS Architecture Blog, "Exponential Backoff And Jitter"):
// clients that failed together don't come back together.
type backoff struct {
	min, max time.Duration
	chance   *chance.Source
	tries    int
}

func (b *backoff) next() time.Duration {
	d := doubled(b.min, b.max, b.tries)
	b.tries++
	return b.min/2 + time.Duration(b.chance.Int64N(int64(d)))
}

// doubled returns least, doubled as often as times says, and at most most.
func doubled(least, most time.Duration, times int) time.Duration {
	d := least << min(times, 20)
	if d > most || d <= 0 { // the shift may overflow
		return most
	}
	return d
}

func (b *backoff) reset() { b.tries = 0 }

// sleep waits for d or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

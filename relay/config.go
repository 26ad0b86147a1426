package relay

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/surepost/surepost"
)

// Config configures a Relay. Its zero value works.
type Config struct {
	// Destination names the cursor: relays of one destination stand by for each other, and one log can feed several
	// destinations. Default "default".
	Destination string

	// Lanes is how many lanes the destination gets if it is new; one that is there keeps its own, which SetLanes of the
	// store changes. The lanes are shared out among all relays of the destination, and each has a connection to the
	// database, a session with the broker and a reader of the log. Default 1: one lane publishes many thousand events a
	// second. 1 to MaxLanes; more than 1 needs a store that is a LaneStore.
	Lanes int

	// Owner names this relay in the lease. It must be unique among all relays. Default: host name, process id and a
	// random part.
	Owner string

	// LeaseTTL is how long a relay that died keeps its lanes from the others: they take them over when the lease has run
	// out, and was seen so for another two fifths of it without a renewal, so that a clock that jumped or a database that
	// was away doesn't cost everybody his lanes. It is renewed at a third of it. Default 15 s: short enough for people, long enough that a pause of the database or the process doesn't change owners.
	// At least 1 s.
	LeaseTTL time.Duration

	// Replay says that the destination is a replay, made by the store's CreateReplay: Run publishes what is left of it and
	// returns. If there is no such replay (any more), Run halts instead of making a destination of that name, which
	// would begin at the log's beginning. Such a relay does the database no other service: it moves no delayed events, and
	// Retention isn't looked at. Default false; a relay that finds a replay there all the same ends with it, too.
	Replay bool

	// MaxEventsPerSecond is the most that the relay sends, all lanes and repetitions included, evenly: no more than a tenth
	// of a second's share at once. For replays, which consumers would otherwise feel, and brokers that are others'
	// as well. Default 0: no limit.
	MaxEventsPerSecond int

	// PageEvents is how many events one read of the log returns at most. Default 250: progress is stored by pages, so
	// that a smaller page leaves less to be published again after a crash, and a larger one gains no speed. 1 to
	// 10,000. With MaxEventsPerSecond the default is at most a quarter of a second's share.
	PageEvents int

	// BufferEvents is how many events are read and not yet settled at most. Default 4000, and at least four pages, so
	// that keys behind a slow one still find others' events to send. With MaxEventsPerSecond the default is at most a
	// second's share, and at least four pages: what was read is sent before a relay stops.
	BufferEvents int

	// BufferBytes is how much data (Event.Data) is read and not yet settled, at most and roughly: pages become smaller
	// where events are large. Default 64 MiB.
	BufferBytes int

	// WindowEvents is how many events may be sent and not yet confirmed. Default 1024: RabbitMQ gains nothing from
	// more, and the client's bookkeeping costs more with each. The publisher must allow as many.
	WindowEvents int

	// Order says how strictly the order per key is kept when the broker doesn't take an event at once. Default
	// StrictPerKey. Pipelined is for keys that see more events a second than one confirm at a time allows.
	Order Order

	// PollBusy and PollIdle are the shortest and longest wait before an exhausted log is read again; it grows from
	// one to the other while nothing comes. Defaults 10 ms and 250 ms: while events come, a hundred reads a second cost
	// the database a hundredth of a core or two. Wake ends the wait at once.
	PollBusy, PollIdle time.Duration

	// CheckpointInterval is how often progress is stored at most. Default 100 ms: what is published in that time is
	// published again after a crash, and ten small inserts a second cost nothing.
	CheckpointInterval time.Duration

	// Retention is how long published events stay in the log at least, for replays and new destinations; where the store is a
	// Retainer. Default 7 days: a weekend and some days to notice a mistake. Negative: for ever. The relays of a database
	// should agree on it: each removes what is old by its own. With a store that isn't a Retainer, as those on MySQL and
	// MariaDB aren't, it must be 0.
	Retention time.Duration

	// Unroutable says what happens to an event that no queue is bound for. Default ParkUnroutable.
	Unroutable UnroutablePolicy

	// UnroutableTries is how often such an event is sent before it is parked. Default 6, with pauses that double from
	// 100 ms to 3 s in all: in a cluster, bindings become visible a second or two late.
	UnroutableTries int

	// Parking says what happens to the later events of a key when one of its events can't be published. Default
	// ParkKeyWaits: the order is kept.
	Parking ParkingPolicy

	// BackoffMin and BackoffMax bound the wait after an event was rejected or a connection was lost; it doubles from
	// one to the other, with jitter. Defaults 100 ms and 10 s.
	BackoffMin, BackoffMax time.Duration

	// ShutdownTimeout is how long Run goes on after its context ended, to settle what it has read and to store how
	// far it came. Default 10 s.
	ShutdownTimeout time.Duration

	// Logger gets what an operator should know. Default slog.Default(): a parked event must not go unnoticed.
	Logger *slog.Logger

	// Hooks are told of what happens. Default: none.
	Hooks Hooks
}

// Order says how the order per key is kept while events wait for their confirms. Events of different keys never wait
// for each other.
type Order uint8

const (
	// StrictPerKey has at most one unconfirmed event per key: whatever the broker rejects or returns, nothing of its
	// key overtakes it. A key's rate is one event per confirm, some hundreds to a few thousand a second.
	StrictPerKey Order = iota
	// Pipelined sends the events of a key without waiting for confirms, as fast as those of different keys. The order
	// is kept too, unless the broker rejects, returns or refuses an event: then those of its key that were in flight
	// with it, at most WindowEvents, may overtake it. Nothing more of the key is sent until that event is confirmed.
	// Lost connections don't change the order of first occurrences.
	Pipelined
)

// UnroutablePolicy says what happens to an event that no queue is bound for.
type UnroutablePolicy uint8

const (
	// ParkUnroutable parks it, and its key's later events behind it: nothing that somebody may wait for is lost.
	ParkUnroutable UnroutablePolicy = iota
	// AcceptUnroutable takes it as published: events that nobody has subscribed to are of no interest.
	AcceptUnroutable
)

// Hooks are called as things happen, from the relay's own goroutines: they must return quickly. Any may be nil.
type Hooks struct {
	// OnState: of this lane, the relay has become Standby, Leading or Stopped.
	OnState func(lane Lane, state State)
	// OnPublished: a batch of events was confirmed.
	OnPublished func(lane Lane, events int)
	// OnParked: an event was taken out of the stream.
	OnParked func(lane Lane, parked Parked)
	// OnRetry: the broker didn't take an event, which will be sent again.
	OnRetry func(lane Lane, entry Entry, outcome Outcome)
	// OnBlocked: the broker asked to send nothing, or allowed it again.
	OnBlocked func(lane Lane, blocked bool, reason string)
	// OnError: the store or the broker failed; the relay begins again from its checkpoint. What concerns no single lane
	// comes with a lane whose Of is 0.
	OnError func(lane Lane, err error)
	// OnSettled: the broker has told what became of events, in the order of sending. The slice is the relay's: keep none
	// of it.
	OnSettled func(lane Lane, settled []Settled)
	// OnRead: a read of the log has returned events, of which stragglers had committed late (Page.Stragglers).
	OnRead func(lane Lane, events, stragglers int)
	// OnSession: a session with the broker was opened.
	OnSession func(lane Lane)
	// OnRenew: the lease was renewed (nil), or couldn't be. ErrLeaseLost says that it never will be.
	OnRenew func(lane Lane, err error)
	// OnRetention: old events were looked for and removed, as far as that was possible.
	OnRetention func(report RetentionReport, err error)
}

func (c Config) withDefaults() Config {
	def(&c.Destination, DefaultDestination)
	if c.Owner == "" {
		host, _ := os.Hostname() // an empty name does no harm: the random part makes it unique
		c.Owner = fmt.Sprintf("%s-%d-%s", host, os.Getpid(), surepost.NewID()[24:])
	}
	def(&c.Lanes, 1)
	def(&c.LeaseTTL, 15*time.Second)
	if c.MaxEventsPerSecond > 0 {
		def(&c.PageEvents, min(250, max(1, c.MaxEventsPerSecond/4)))
		def(&c.BufferEvents, max(min(4000, c.MaxEventsPerSecond), 4*c.PageEvents))
	}
	def(&c.PageEvents, 250)
	def(&c.BufferEvents, max(4000, 4*c.PageEvents))
	def(&c.BufferBytes, 64<<20)
	def(&c.WindowEvents, 1024)
	def(&c.PollBusy, 10*time.Millisecond)
	def(&c.PollIdle, 250*time.Millisecond)
	def(&c.CheckpointInterval, 100*time.Millisecond)
	def(&c.Retention, DefaultRetention)
	def(&c.UnroutableTries, 6)
	def(&c.BackoffMin, 100*time.Millisecond)
	def(&c.BackoffMax, 10*time.Second)
	def(&c.ShutdownTimeout, 10*time.Second)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c Config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("relay: Config."+format, args...))
		}
	}
	check(len(c.Destination) <= surepost.MaxNameBytes, "Destination is %d bytes long, the limit is %d: shorten it", len(c.Destination), surepost.MaxNameBytes)
	check(c.Lanes >= 1 && c.Lanes <= MaxLanes, "Lanes is %d: use 1 to %d", c.Lanes, MaxLanes)
	check(c.LeaseTTL >= time.Second, "LeaseTTL is %v: use at least 1s, or a pause of the database would change the lane's owner", c.LeaseTTL)
	check(!c.Replay || c.Destination != DefaultDestination, "Replay is set, and Destination isn't: name the replay")
	check(c.MaxEventsPerSecond >= 0, "MaxEventsPerSecond is %d: use a positive number, or 0 for no limit", c.MaxEventsPerSecond)
	check(c.PageEvents >= 1 && c.PageEvents <= 10_000, "PageEvents is %d: use 1 to 10000", c.PageEvents)
	check(c.BufferEvents >= c.PageEvents, "BufferEvents is %d: use at least PageEvents (%d)", c.BufferEvents, c.PageEvents)
	check(c.BufferBytes >= 1<<20, "BufferBytes is %d: use at least 1 MiB (1048576)", c.BufferBytes)
	check(c.WindowEvents >= 1 && c.WindowEvents <= 65_535, "WindowEvents is %d: use 1 to 65535; 1024 is enough for RabbitMQ", c.WindowEvents)
	check(c.Order <= Pipelined, "Order is %d: use StrictPerKey or Pipelined", c.Order)
	check(c.PollBusy > 0 && c.PollIdle >= c.PollBusy, "PollBusy is %v and PollIdle is %v: use positive durations, the second not shorter than the first", c.PollBusy, c.PollIdle)
	check(c.CheckpointInterval > 0, "CheckpointInterval is %v: use a positive duration", c.CheckpointInterval)
	check(c.Unroutable <= AcceptUnroutable, "Unroutable is %d: use ParkUnroutable or AcceptUnroutable", c.Unroutable)
	check(c.UnroutableTries >= 1, "UnroutableTries is %d: use at least 1", c.UnroutableTries)
	check(c.Parking <= ParkHalts, "Parking is %d: use ParkKeyWaits, ParkKeyGoesOn or ParkHalts", c.Parking)
	check(c.BackoffMin > 0 && c.BackoffMax >= c.BackoffMin, "BackoffMin is %v and BackoffMax is %v: use positive durations, the second not shorter than the first", c.BackoffMin, c.BackoffMax)
	check(c.ShutdownTimeout > 0, "ShutdownTimeout is %v: use a positive duration", c.ShutdownTimeout)
	return errors.Join(errs...)
}

package amqp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/inbox"
)

// Handler handles one event. *inbox.Inbox implements it for handlers whose effects must happen exactly once.
//
// Handle is called by several goroutines at once, but never for two events of one key, and for the events of a key in
// the order in which the queue delivers them. ctx ends after HandlerTimeout, or when a shutdown runs out of time; it
// carries the values of Run's context, and outlives that one by the time that a shutdown grants.
//
// A nil error means that the effects are committed: the message is acknowledged, whatever the result (an
// inbox.Duplicate was handled before; for inbox.Skipped see ConsumerConfig.Unhandled). After an error nothing may be
// left of the call's effects, because the event is handed over again: at once for an outage or up to MaxAttempts,
// never if inbox.IsPermanent(err). The same event may also come again after nil, when its acknowledgement was lost: a
// Handler of your own must expect that, an Inbox does.
//
// A panic counts as an error.
type Handler interface {
	Handle(ctx context.Context, event surepost.Event) (inbox.Result, error)
}

// ConsumerConfig configures a Consumer. Connection.URLs, Queue and Handler are required, and Types or BindingKeys in
// the default mode; the zero value of every other field means its default.
type ConsumerConfig struct {
	// Connection says how to reach RabbitMQ. The consumer uses a connection of its own, so that a broker that blocks
	// publishers never delays acknowledgements; a second one is opened when the first message must be dead-lettered.
	Connection Connection

	// Handler handles the events. Required.
	Handler Handler

	// Queue is consumed: one per subscription, usually "service.subscription". Required, at most 251 bytes: the name
	// of its dead-letter queue, which is Queue + ".dlq", must be a short string too (AMQP 0-9-1 §4.2.5.3).
	Queue string

	// DeadLetterQueue is where messages go that can't be handled. Default Queue + ".dlq". Several subscriptions may
	// share one: a dead letter says which queue it came from, and [Redrive] takes it back there.
	DeadLetterQueue string

	// Exchange is the topic exchange that the queue is bound to. Default "events", which is also the relay's.
	Exchange string

	// Types are the event types that the queue shall receive, usually Inbox.Types(). Each is bound with the key
	// "#.{type}", because the relay's routing keys are "{source}.{type}" and a source may contain dots. "#" alone
	// means all events.
	Types []string

	// BindingKeys are bound besides Types, as they stand: for a relay whose routes use other keys
	// ("order-service.#").
	//
	// A binding is never removed by the consumer: unbind what is no longer wanted with rabbitmqctl or the management
	// pages.
	BindingKeys []string

	// Mode says what the consumer does about exchange, queues and bindings. Default [Declare]. In Verify and None
	// mode Types and BindingKeys are not used: AMQP can't look at bindings.
	Mode Mode

	// QueueType is the kind of all its queues. Default [QuorumQueue], which is replicated and counts deliveries. A
	// [ClassicQueue] doesn't count: there a message that kills the process is found by MaxUnfinished only. It can't be
	// changed once the queue exists.
	QueueType QueueType

	// Competing lets all consumers of the queue receive messages at once, which spreads the load and gives up the order
	// per key between them. Default false: the queue has a single active consumer (x-single-active-consumer), and
	// others stand by, so that order holds across processes, restarts and lost connections. It can't be changed
	// once the queue exists.
	Competing bool

	// Partitions spreads the events over so many queues, Queue + ".0" and so on, all events of a key into the same
	// one: the load is shared by the processes that consume them, and order per key holds across all of them. 1 to
	// 256, a few times the number of processes, so that they get about equal parts. Default 0: one queue. Needs a
	// plugin of RabbitMQ's own: see PartitionBy. Queue is then the name of the exchange that spreads them.
	//
	// Each partition has a single active consumer. From RabbitMQ 4.0 on the partitions spread over the processes by
	// themselves, and move when one joins or leaves, after the old one has acknowledged what it holds (consumer
	// priorities by rendezvous hashing: about equal parts, not exactly). Earlier versions leave all of them to the process
	// that came first: there, assign them by OnlyPartitions.
	//
	// To change the number without losing the order, the queues must be empty first, since a key's next event may go
	// to another partition than those that still wait: stop the relay, let the consumers empty the queues, stop them,
	// delete the exchange Queue and the queues, start the consumers with the new number, then the relay. Redrive dead
	// letters before: they go back to the partition that they came from. A set of queues that was made for another
	// number, or for none, is found when the consumer starts.
	Partitions int

	// PartitionBy says what decides on an event's partition. Default [PartitionByKey]. It can't be changed once the
	// exchange exists.
	PartitionBy PartitionBy

	// OnlyPartitions are the ones that this consumer consumes, numbered from 0. Default all, which is right from
	// RabbitMQ 4.0 on. All partitions are declared in any case. Those that no process names are consumed by nobody;
	// of those that several name one process is active, and the next stands by.
	OnlyPartitions []int

	// DeliveryLimit is how often the broker delivers a message before it gives up and moves it to the dead-letter
	// queue. It is the last resort against a message that kills the process (see MaxUnfinished). Default 20, RabbitMQ 4's
	// own, declared explicitly because RabbitMQ 3 has none. At least 2. Failures in this process don't count against
	// it; what was prefetched when a connection is lost, or given back at a shutdown, does, on all versions (up to 4.2
	// every return counts, from 4.3 on those by basic.nack and consumer_timeout don't). Only for quorum queues. It
	// can't be changed by the consumer once the queue exists.
	DeliveryLimit int

	// Prefetch is how many unacknowledged messages the broker hands to this consumer, 1 to 2000 (the most a quorum
	// queue serves). It bounds the consumer's memory, and how many messages of one failing key can queue up before
	// they hold up other keys. Default 100: RabbitMQ's advice is 100 to 300; more adds no throughput, but more
	// redelivery after a crash. Partitions share it in equal parts, at least one message for each.
	//
	// All processes of a queue should have the same, and lower it with nothing waiting only: a quorum queue takes back
	// what a lost consumer held behind what an earlier lost one left over, which is in order only if each takes as much
	// as the one before it.
	Prefetch int

	// BatchSize is how many messages are handled in one transaction, at most: those of one key in their order, and of
	// many keys. It takes a BatchHandler, such as *inbox.Inbox. Default 1: each alone, which is easiest to follow.
	// Batches of 20 to 100 multiply the throughput, because a commit costs about as much as a dozen statements. At
	// most Prefetch, which should be several times Workers × BatchSize, or workers wait for messages.
	//
	// If a batch fails, by whatever error, it is rolled back as a whole, and its messages are handled one by one,
	// each alone, with the rules for failures below: the batch's failure counts as nobody's attempt, so a poison
	// message costs one rolled-back batch. Messages that are redelivered are never in a batch.
	BatchSize int

	// BatchLinger is how long a batch that isn't full may wait for further messages while a worker is free. Default
	// 0: it takes what is there and never waits; under load batches fill by themselves.
	BatchLinger time.Duration

	// Workers is how many events, or batches of events, are handled at once. Default 8, or Prefetch if that is less:
	// each one holds a database connection while it works, and 8 saturate one process's handlers of a few
	// milliseconds each while they leave most of PostgreSQL's default of 100 connections to others. The pool needs as
	// many connections (pgxpool's default is the number of CPUs, at least 4).
	Workers int

	// MaxAttempts is how often one delivery is tried in place before it goes to the dead-letter queue. Default 5: with
	// the default Backoff they take up to 1.5 s, which outlasts a hiccup without holding up the key for long. Outages
	// don't count (ErrorIsOutage).
	MaxAttempts int

	// MaxUnfinished is how many attempts at an event may have been started and never finished, because the process died,
	// before it goes to the dead-letter queue without a further one (KillsProcess). Default 3: each counts while the
	// event is handled with no other suspect beside it, so twice can be bad luck (a deployment, the kernel's OOM
	// killer), but hardly three times. An event's first delivery isn't counted, so a killer takes MaxUnfinished + 1
	// processes at most. It takes an AttemptCounter, such as *inbox.Inbox.
	//
	// An attempt that isn't finished may also be under way, in a process that has lost its connection. So the event waits
	// for HandlerTimeout, and its key with it, before it is dead-lettered: by then such attempts are over.
	MaxUnfinished int

	// RetryDelays are waited between rounds of MaxAttempts: an event whose attempts are spent waits the first delay in a
	// retry queue, comes back and is tried again, then waits the second, and so on; after the last it goes to the
	// dead-letter queue. Whole milliseconds, ascending, at most 10: each is a durable queue, Queue +
	// ".retry.5s" for 5 s, besides the one that is consumed. Default none.
	//
	// This gives up the order of the event's key: the later events of its key are handled while it waits. Outages
	// (ErrorIsOutage) never lead there, nor does what inbox.Permanent marks. A delay that is taken out of the list
	// leaves its queue behind, which still gives back what is in it: delete it when it is empty.
	RetryDelays []time.Duration

	// Backoff is waited between tries, with full jitter. It holds up the event's own key only. Default: a ceiling of
	// 100 ms that doubles up to 10 s.
	Backoff Backoff

	// HandlerTimeout ends the context of one try, of a single event or of a whole batch. Default 5 min, with
	// batches 4 min. MaxAttempts times HandlerTimeout, and once more for a batch, must stay below 30 min, RabbitMQ's
	// default consumer_timeout: after that the broker takes the message away and ends the session, and its tries start
	// from nothing.
	HandlerTimeout time.Duration

	// ShutdownTimeout bounds a graceful shutdown, from the end of Run's context to Run's return. Default 30 s.
	// Handlers get the first four fifths of it, then their contexts end; the rest is for rolling back and for giving
	// back messages. It should not be longer than what the platform grants (Kubernetes: terminationGracePeriodSeconds,
	// by default 30 s too).
	ShutdownTimeout time.Duration

	// Unhandled says what happens to an event whose type has no handler (inbox.Skipped). Default [AckUnhandled].
	Unhandled UnhandledPolicy

	// ErrorIsOutage reports whether a handler's error means that its surroundings are out of order, not the event.
	// Such an event is tried again for as long as it takes. Default [IsOutage]; your own should usually call that
	// too.
	//
	// While messages wait out an outage the broker's consumer_timeout (30 min) applies to them: it takes them back
	// and delivers them again, which counts against DeliveryLimit. With the defaults the limit is reached after an
	// outage of 10 hours.
	ErrorIsOutage func(error) bool

	// Logger receives what an operator should know. Default slog.Default().
	Logger *slog.Logger

	// Hooks observe the consumer. Default none.
	Hooks ConsumerHooks

	member  string // tells the processes apart that share partitions; kept over reconnects
	resumed bool   // it has consumed before: whatever is missing now was deleted since

	jitter func(ceiling time.Duration) time.Duration // fullJitter, save in the simulation; safe for concurrent use
}

// UnhandledPolicy says what happens to an event whose type has no handler.
type UnhandledPolicy uint8

const (
	// AckUnhandled acknowledges it, as an event that is of no interest here. OnHandled reports it with inbox.Skipped.
	AckUnhandled UnhandledPolicy = iota
	// DeadLetterUnhandled moves it to the dead-letter queue, for a queue to which only wanted types are bound.
	DeadLetterUnhandled
)

const (
	deadLetterSuffix  = ".dlq"
	maxQueueNameBytes = surepost.MaxNameBytes - len(deadLetterSuffix)

	// maxQuorumPrefetch is what a quorum queue caps the prefetch to (RabbitMQ, "Quorum Queues").
	maxQuorumPrefetch = 2000

	// maxBatchLinger keeps a batch that never fills from looking like a consumer that doesn't consume.
	maxBatchLinger = time.Minute

	// brokerConsumeTimeout is RabbitMQ's default consumer_timeout ("Consumers", "Delivery Acknowledgement Timeout").
	brokerConsumeTimeout = 30 * time.Minute
)

func (c ConsumerConfig) withDefaults() ConsumerConfig {
	c.Connection = c.Connection.withDefaults()
	c.Exchange = cmp.Or(c.Exchange, defaultExchange)
	c.QueueType = cmp.Or(c.QueueType, QuorumQueue)
	c.DeliveryLimit = cmp.Or(c.DeliveryLimit, 20)
	c.Prefetch = cmp.Or(c.Prefetch, 100)
	c.BatchSize = cmp.Or(c.BatchSize, 1)
	c.Workers = cmp.Or(c.Workers, min(8, max(c.Prefetch, 1)))
	c.MaxAttempts = cmp.Or(c.MaxAttempts, 5)
	c.MaxUnfinished = cmp.Or(c.MaxUnfinished, 3)
	c.Backoff.Min = cmp.Or(c.Backoff.Min, 100*time.Millisecond)
	c.Backoff.Max = cmp.Or(c.Backoff.Max, max(10*time.Second, c.Backoff.Min))
	if c.BatchSize > 1 {
		c.HandlerTimeout = cmp.Or(c.HandlerTimeout, 4*time.Minute)
	}
	c.HandlerTimeout = cmp.Or(c.HandlerTimeout, 5*time.Minute)
	c.ShutdownTimeout = cmp.Or(c.ShutdownTimeout, 30*time.Second)
	if c.ErrorIsOutage == nil {
		c.ErrorIsOutage = IsOutage
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.jitter == nil {
		c.jitter = fullJitter
	}
	return c
}

// validate reports everything that is wrong with a configuration whose defaults are filled in.
func (c ConsumerConfig) validate() error {
	errs := c.Connection.validate()
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("amqp: ConsumerConfig."+format, args...))
	}
	if c.Handler == nil {
		bad("Handler is nil: set it to an *inbox.Inbox, or to a Handler of your own")
	}
	switch {
	case c.Queue == "":
		bad(`Queue is empty: name the subscription's queue, for example "billing.orders"`)
	case len(c.Queue) > maxQueueNameBytes && c.DeadLetterQueue == "", len(c.Queue) > surepost.MaxNameBytes:
		bad("Queue is %d bytes long, the limit is %d (its dead-letter queue adds %q): shorten it",
			len(c.Queue), maxQueueNameBytes, deadLetterSuffix)
	case strings.HasPrefix(c.Queue, "amq."):
		bad(`Queue begins with "amq.", which AMQP keeps for the broker: choose another name`)
	}
	c.validateDeadLetterQueue(bad)
	c.validatePartitions(bad)
	c.validateRetryDelays(bad)
	if len(c.Exchange) > surepost.MaxNameBytes {
		bad("Exchange is %d bytes long, the limit is %d: shorten it", len(c.Exchange), surepost.MaxNameBytes)
	}
	c.validateBindings(bad)
	if err := c.Mode.validate(); err != nil {
		errs = append(errs, err)
	}
	if c.Unhandled > DeadLetterUnhandled {
		bad("Unhandled is %d: use AckUnhandled or DeadLetterUnhandled", c.Unhandled)
	}
	c.validateLimits(bad)
	return errors.Join(errs...)
}

// validateDeadLetterQueue refuses what would lead dead letters in a circle: they would be handled, fail and be
// dead-lettered for ever.
func (c ConsumerConfig) validateDeadLetterQueue(bad func(string, ...any)) {
	name := c.deadLetterQueue()
	n, isPartition := cutPartition(name, c.Queue)
	loops := c.Partitions <= 0 && name == c.Queue || isPartition && n < c.Partitions
	for _, d := range c.RetryDelays {
		loops = loops || name == c.retryQueue(d)
	}
	switch {
	case c.Queue == "":
	case loops:
		bad("DeadLetterQueue is %q, from which messages come back to this consumer: it would handle its dead letters "+
			"in a circle; leave it empty for %q, or choose another name", name, c.Queue+deadLetterSuffix)
	case c.Partitions > 0 && name == c.Queue:
		bad("DeadLetterQueue is %q, the name of the partitions' exchange: choose another name", name)
	case len(name) > surepost.MaxNameBytes && c.DeadLetterQueue != "":
		bad("DeadLetterQueue is %d bytes long, the limit is %d: shorten it", len(name), surepost.MaxNameBytes)
	case strings.HasPrefix(c.DeadLetterQueue, "amq."):
		bad(`DeadLetterQueue begins with "amq.", which AMQP keeps for the broker: choose another name`)
	}
}

func (c ConsumerConfig) validateBindings(bad func(string, ...any)) {
	if c.Mode == Declare && len(c.Types)+len(c.BindingKeys) == 0 {
		bad("Types and BindingKeys are empty, so that no event would arrive: " +
			`set Types to Inbox.Types(), or to {"#"} for all events`)
	}
	for i, t := range c.Types {
		switch {
		case t == "":
			bad("Types[%d] is empty: name an event type", i)
		case len(bindingKey(t)) > surepost.MaxNameBytes:
			bad("Types[%d] is %d bytes long, its binding key %q… is over %d: use a pattern in BindingKeys",
				i, len(t), bindingKey(t)[:40], surepost.MaxNameBytes)
		case t != allTypes && strings.ContainsAny(t, "*#"):
			bad("Types[%d] is %q, a pattern: name the type itself, or put the pattern into BindingKeys", i, t)
		}
	}
	for i, key := range c.BindingKeys {
		if len(key) > surepost.MaxNameBytes {
			bad("BindingKeys[%d] is %d bytes long, the limit is %d: shorten it", i, len(key), surepost.MaxNameBytes)
		}
	}
}

func (c ConsumerConfig) validateLimits(bad func(string, ...any)) {
	switch c.QueueType {
	case QuorumQueue:
		if c.DeliveryLimit < 2 {
			bad("DeliveryLimit is %d: use at least 2, or a lost connection would dead-letter all that was prefetched",
				c.DeliveryLimit)
		}
	case ClassicQueue:
	default:
		bad("QueueType is %q: use QuorumQueue or ClassicQueue", c.QueueType)
	}
	if c.Prefetch < 1 || c.Prefetch > maxQuorumPrefetch {
		bad("Prefetch is %d messages: use 1 to %d", c.Prefetch, maxQuorumPrefetch)
	}
	c.validateBatches(bad)
	if c.Workers < 1 || c.Workers > c.Prefetch {
		bad("Workers is %d: use 1 to Prefetch (%d); more would never have work", c.Workers, c.Prefetch)
	}
	if c.MaxAttempts < 1 {
		bad("MaxAttempts is %d: use at least 1", c.MaxAttempts)
	}
	if c.MaxUnfinished < 1 {
		bad("MaxUnfinished is %d: use at least 1", c.MaxUnfinished)
	}
	if c.Backoff.Min < 0 || c.Backoff.Max < c.Backoff.Min {
		bad("Backoff is %v to %v: use a Min above 0 and a Max that isn't below it", c.Backoff.Min, c.Backoff.Max)
	}
	tries := max(c.MaxAttempts, 1)
	if c.BatchSize > 1 {
		tries++
	}
	switch {
	case c.HandlerTimeout < 0:
		bad("HandlerTimeout is %v: use a time above 0", c.HandlerTimeout)
	case brokerConsumeTimeout/c.HandlerTimeout <= time.Duration(tries):
		bad("HandlerTimeout is %v, %d times (MaxAttempts, and a batch): lower one of them, so that all tries fit into %v, "+
			"after which the broker takes the message away (consumer_timeout)", c.HandlerTimeout, tries, brokerConsumeTimeout)
	}
	if c.ShutdownTimeout < 0 {
		bad("ShutdownTimeout is %v: use a time above 0", c.ShutdownTimeout)
	}
}

func (c ConsumerConfig) validateBatches(bad func(string, ...any)) {
	if c.BatchSize < 1 || c.BatchSize > max(c.Prefetch, 1) {
		bad("BatchSize is %d messages: use 1 to Prefetch (%d); more would never be there", c.BatchSize, c.Prefetch)
	}
	if _, ok := c.Handler.(BatchHandler); c.BatchSize > 1 && c.Handler != nil && !ok {
		bad("BatchSize is %d, but the Handler, a %T, has no method HandleBatch: use an *inbox.Inbox, give yours that method "+
			"(embed the Inbox that it wraps), or set BatchSize to 1", c.BatchSize, c.Handler)
	}
	if c.BatchLinger < 0 || c.BatchLinger > maxBatchLinger {
		bad("BatchLinger is %v: use 0 to %v; every message may wait that long", c.BatchLinger, maxBatchLinger)
	}
}

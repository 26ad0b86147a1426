package amqp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
)

// RedriveConfig says which dead letters to move back, and where they are. Connection.URLs and Queue, or DeadLetterQueue,
// are required; the zero value of every other field means its default.
type RedriveConfig struct {
	// Connection says how to reach RabbitMQ. A redrive opens two connections: one reads, one publishes.
	Connection Connection

	// Queue is the ConsumerConfig.Queue whose dead letters are meant.
	Queue string
	// DeadLetterQueue is where they are. Default Queue + ".dlq". With one alone all of its letters are meant, whichever
	// subscription they came from.
	DeadLetterQueue string

	// Select says which of the letters to move. Default all.
	Select DeadLetterFilter

	// To moves all of them to this queue instead of the one that each came from: for a queue that was renamed.
	To string

	// Limit is how many letters to move at most, the oldest first. Default 0, no limit.
	Limit int

	// IgnoreOrder moves every letter that is selected, even if an earlier one of its key stays behind.
	IgnoreOrder bool

	// DryRun moves nothing and counts what would be moved. Nacks of the broker can't be foreseen.
	DryRun bool
}

// RedriveReport says what became of the letters that were there when the redrive began, or DeadLetters.
type RedriveReport struct {
	Waiting     int // how many were there
	Moved       int // back in a queue, confirmed; with DryRun: would be
	NotSelected int // stay, since Select doesn't mean them
	Held        int // are selected and stay, since an earlier letter of their key stays (see Redrive)
	Failed      int // are selected and stay, since they couldn't be moved; Notes say why
	// Unseen letters weren't looked at: Limit was reached, or 15,000 letters in front of them stay, or ctx ended.
	Unseen int
	// Notes are for the operator: why letters failed, and what to expect of the queues. At most 20.
	Notes []string
}

// DeadLetterFilter selects dead letters. All of its conditions that are set must hold.
type DeadLetterFilter struct {
	IDs     []string           // event ids; for what isn't an event, message-ids
	Types   []string           // event types
	Keys    []string           // keys
	Reasons []DeadLetterReason // why they were dead-lettered
	After   time.Time          // dead-lettered at that time or later, in whole seconds
	Before  time.Time          // dead-lettered before that time
}

// DeadLetter describes a message in a dead-letter queue.
type DeadLetter struct {
	ID, Type, Key string
	// Queue is the one that it was consumed from.
	Queue string
	// Exchange and RoutingKey are those that it was first published with.
	Exchange, RoutingKey string
	// Reason is why it is here. What the broker itself has dead-lettered has the broker's word (see
	// DeliveryLimitReached), and no Error and Attempts.
	Reason   DeadLetterReason
	Error    string
	Attempts int // calls of its handler
	Redrives int // how often it was redriven before
	At       time.Time
	Bytes    int // of its body
}

// DeliveryLimitReached is the reason of what the broker dead-lettered because it was delivered too often: messages that
// kill the process, as a rule. The broker's other words are "expired", "rejected" and "maxlen" (RabbitMQ, "Dead
// Letter Exchanges").
const DeliveryLimitReached DeadLetterReason = "delivery_limit"

// DeadLettersConfig says which dead letters to look at.
type DeadLettersConfig struct {
	Connection      Connection
	Queue           string           // see RedriveConfig
	DeadLetterQueue string           // see RedriveConfig
	Select          DeadLetterFilter // default all
	Limit           int              // how many to return at most, the oldest first; default 100, at most 10,000
}

// Redrive moves dead letters back to the queues that they came from, oldest first, and returns when it has looked at all
// that were there when it began. Each is taken off the dead-letter queue after the broker has confirmed it in its own.
// When ctx ends, or a connection, nothing is lost: what wasn't taken off yet is back in its place, at most a hundred
// letters are in both places, and the inbox drops the second copy. The report is valid beside an error.
//
// **Each key keeps its order.** If a letter stays, because it couldn't be moved or because Select leaves it out by
// id, reason or time, later letters of its key stay too (RedriveReport.Held), unless IgnoreOrder is set. Types and Keys
// are a choice of what is wanted at all, and hold up nobody. What can't be kept is the order among a key's dead letters
// and its events that were handled meanwhile.
//
// Letters that stay keep their place and their headers. The broker counts each look at them as a delivery, for which
// the queue must be declared as the consumer does, with a very high x-delivery-limit: without one RabbitMQ 4 drops them
// after 20 looks. A note says so if it isn't.
//
// A redriven event is what it was before, save: the headers about its failure are removed, and those of the broker,
// and HeaderRedrives counts. Its retries begin anew. It isn't published to its exchange again, so that no other queue
// gets it twice; for the same reason its header CC stays aside ([HeaderCC]). So does its expiration: it would expire while
// it waits for being repaired. And so does its user-id, which must be this connection's. The queue's consumers receive it
// with an empty exchange and the queue's name as routing key; HeaderExchange and HeaderRoutingKey keep the first ones.
//
// Only one redrive or listing of a dead-letter queue runs at a time, over all processes; another one is an error.
// So is any other consumer of the queue. Memory is bounded by the 500 letters that are read ahead. While the broker
// blocks publishers, Redrive waits.
func Redrive(ctx context.Context, config RedriveConfig) (RedriveReport, error) {
	config.Connection = config.Connection.withDefaults()
	if err := config.validate(); err != nil {
		return RedriveReport{}, err
	}
	pile, err := openPile(ctx, config.Connection, config.deadLetterQueue())
	if err != nil {
		return RedriveReport{}, err
	}
	defer pile.close(ctx)
	r := &redrive{
		config: config, pile: pile, report: RedriveReport{Waiting: pile.waiting, Notes: pile.notes},
		staying: map[orderKey]bool{}, destinations: map[string]error{},
	}
	err = r.run(ctx)
	r.report.Unseen = r.report.Waiting - r.report.Moved - r.report.NotSelected - r.report.Held - r.report.Failed
	if r.publishing != nil {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
		defer cancel()
		r.publishing.close(bounded) // its outcome changes nothing: what was confirmed is confirmed
	}
	return r.report, err
}

// DeadLetters looks at dead letters, the oldest first, and leaves them where they are, as Redrive leaves those that
// stay. It reads over letters that Select leaves out, up to 15,000.
func DeadLetters(ctx context.Context, config DeadLettersConfig) ([]DeadLetter, error) {
	config.Connection = config.Connection.withDefaults()
	config.Limit = cmp.Or(config.Limit, 100)
	of := RedriveConfig{Connection: config.Connection, Queue: config.Queue, DeadLetterQueue: config.DeadLetterQueue,
		Select: config.Select}
	err := of.validate()
	if config.Limit < 0 || config.Limit > mostListed {
		err = errors.Join(err, fmt.Errorf("amqp: DeadLettersConfig.Limit is %d: use 1 to %d, or 0 for 100",
			config.Limit, mostListed))
	}
	if err != nil {
		return nil, err
	}
	pile, err := openPile(ctx, config.Connection, of.deadLetterQueue())
	if err != nil {
		return nil, err
	}
	defer pile.close(ctx)
	var letters []DeadLetter
	for len(letters) < config.Limit {
		d, ok, err := pile.next(ctx)
		if !ok || err != nil {
			return letters, err
		}
		l := describe(d)
		if of.Select.wants(l) && of.Select.means(l) && of.concerns(l) {
			letters = append(letters, l)
		}
		if err := pile.leave(ctx); err != nil {
			return letters, err
		}
	}
	return letters, nil
}

const mostListed = 10_000

func (c RedriveConfig) deadLetterQueue() string {
	return cmp.Or(c.DeadLetterQueue, c.Queue+deadLetterSuffix)
}

func (c RedriveConfig) validate() error {
	errs := c.Connection.validate()
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("amqp: RedriveConfig."+format, args...))
	}
	if c.Queue == "" && c.DeadLetterQueue == "" {
		bad("Queue is empty: name the queue whose dead letters are meant, or set DeadLetterQueue")
	}
	for _, name := range []struct{ field, value string }{{"Queue", c.Queue}, {"DeadLetterQueue", c.deadLetterQueue()},
		{"To", c.To}} {
		if len(name.value) > surepost.MaxNameBytes {
			bad("%s is %d bytes long, the limit is %d: shorten it", name.field, len(name.value), surepost.MaxNameBytes)
		}
	}
	if c.To != "" && c.To == c.deadLetterQueue() {
		bad("To is the dead-letter queue itself: name another queue, or leave it empty for the one that each came from")
	}
	if c.Queue != "" && c.Queue == c.deadLetterQueue() {
		bad("DeadLetterQueue is the Queue itself, to which its letters would return: name the queue that they were moved to")
	}
	if c.Limit < 0 {
		bad("Limit is %d: use a number above 0, or 0 for no limit", c.Limit)
	}
	if !c.Select.Before.IsZero() && !c.Select.After.Before(c.Select.Before) {
		bad("Select.After (%s) isn't before Select.Before (%s), so that nothing is selected: exchange them",
			c.Select.After.Format(time.RFC3339), c.Select.Before.Format(time.RFC3339))
	}
	return errors.Join(errs...)
}

// concerns reports whether a letter came from the queue that is meant, or one of its partitions.
func (c RedriveConfig) concerns(l DeadLetter) bool {
	if c.Queue == "" || l.Queue == "" || l.Queue == c.Queue {
		return true
	}
	n, isPartition := cutPartition(l.Queue, c.Queue)
	return isPartition && n < maxPartitions
}

// wants reports whether letters of this kind are asked for at all.
func (f DeadLetterFilter) wants(l DeadLetter) bool {
	return (len(f.Types) == 0 || slices.Contains(f.Types, l.Type)) && (len(f.Keys) == 0 || slices.Contains(f.Keys, l.Key))
}

// means reports whether this very letter is asked for.
func (f DeadLetterFilter) means(l DeadLetter) bool {
	return (len(f.IDs) == 0 || slices.Contains(f.IDs, l.ID)) &&
		(len(f.Reasons) == 0 || slices.Contains(f.Reasons, l.Reason)) &&
		(f.After.IsZero() || !l.At.Before(f.After)) &&
		(f.Before.IsZero() || l.At.Before(f.Before))
}

// describe reads what a dead letter says of itself. What the broker has dead-lettered itself has no headers of ours,
// but an x-death, with the last death first.
func describe(d amqp091.Delivery) DeadLetter {
	text := func(name string) string { s, _ := d.Headers[name].(string); return s }
	l := DeadLetter{
		ID: d.MessageId, Type: d.Type,
		Queue: text(HeaderQueue), Exchange: text(HeaderExchange), RoutingKey: text(HeaderRoutingKey),
		Reason: DeadLetterReason(text(HeaderReason)), Error: text(HeaderError),
		Attempts: int(headerInt(d.Headers, HeaderAttempts)), Redrives: int(headerInt(d.Headers, HeaderRedrives)),
		Bytes: len(d.Body),
	}
	l.At, _ = time.Parse(time.RFC3339, text(HeaderDeadLetteredAt)) // zero if it doesn't say
	if e, err := EventFromDelivery(d); err == nil {
		l.ID, l.Type, l.Key = e.ID, e.Type, e.Key
	}
	if l.Queue == "" {
		l.Queue, l.Reason, l.At = lastDeath(d.Headers)
		l.Attempts = 0 // those of rounds before
		if _, told := d.Headers[HeaderExchange]; !told {
			l.Exchange, l.RoutingKey = deathRoute(d.Headers)
		}
	}
	return l
}

func lastDeath(headers amqp091.Table) (queue string, reason DeadLetterReason, at time.Time) {
	death := firstDeathTable(headers)
	queue, _ = death["queue"].(string)
	word, _ := death["reason"].(string)
	at, _ = death["time"].(time.Time)
	return queue, DeadLetterReason(word), at.UTC()
}

func deathRoute(headers amqp091.Table) (exchange, key string) {
	death := firstDeathTable(headers)
	exchange, _ = death["exchange"].(string)
	if keys, _ := death["routing-keys"].([]any); len(keys) > 0 {
		key, _ = keys[0].(string)
	}
	return exchange, key
}

func firstDeathTable(headers amqp091.Table) amqp091.Table {
	deaths, _ := headers["x-death"].([]any)
	if len(deaths) == 0 {
		return nil
	}
	death, _ := deaths[0].(amqp091.Table)
	return death
}

// redrivePublishing returns the letter as it goes back.
func redrivePublishing(d amqp091.Delivery, l DeadLetter, frameBytes int) amqp091.Publishing {
	headers := setAside(d)
	headers[HeaderExchange], headers[HeaderRoutingKey] = l.Exchange, l.RoutingKey
	for _, name := range []string{
		HeaderReason, HeaderError, HeaderAttempts, HeaderQueue, HeaderDeadLetteredAt, HeaderRetries,
	} {
		delete(headers, name)
	}
	forgetDeaths(headers)
	headers[HeaderRedrives] = int64(l.Redrives + 1)
	if over := fieldBytes(headers) + propertiesRoom - frameBytes; frameBytes > 0 && over > 0 {
		leaveOut(headers, over)
	}
	return publishingOf(d, headers)
}

// redrive is one run of Redrive.
type redrive struct {
	config RedriveConfig
	pile   *pile
	report RedriveReport

	publishing *link                                            // nil until the first letter goes
	send       func(context.Context, []parcel) ([]error, error) // a courier's, over that connection
	frameBytes int                                              // as negotiated, 0 for no limit

	staying      map[orderKey]bool // keys of which a letter stays, so that all later ones do
	destinations map[string]error  // by queue: why nothing can be moved there

	// The letters that are sent together: at most one of each key, so that none of a key is sent before the one ahead
	// is confirmed.
	wave      []movement
	waveKeys  map[orderKey]bool
	waveBytes int
}

// orderKey is what has an order: a key within a queue. Subscriptions that share a dead-letter queue have the same keys.
type orderKey struct{ queue, key string }

func (l DeadLetter) orderKey() orderKey { return orderKey{l.Queue, l.Key} }

// movement is a letter on its way back.
type movement struct {
	delivery amqp091.Delivery
	letter   DeadLetter
	to       string
}

// maxWave is less than the 32 acknowledgements that RabbitMQ's channel hands on to a quorum queue at once
// (quorum_commands_soft_limit). More would wait in the channel, and those that still do when it is closed are lost, so
// that letters that were moved would come back. The confirms of the next wave come after the queue has seen this one's.
const maxWave = 30

const maxWaveBytes = 8 << 20 // keeps the wait for confirms short where letters are large

func (r *redrive) run(ctx context.Context) error {
	for {
		if r.config.Limit > 0 && r.report.Moved+len(r.wave) >= r.config.Limit {
			return r.flush(ctx)
		}
		if !r.pile.hasMore() { // before waiting for one
			if err := r.flush(ctx); err != nil {
				return err
			}
		}
		d, ok, err := r.pile.next(ctx)
		if err != nil {
			return err
		}
		if !ok {
			if err := r.flush(ctx); err != nil {
				return err
			}
			if r.pile.full() {
				r.note("%d letters that stay stand in front of the rest, which wasn't looked at: redrive or remove some of them",
					maxStaying)
			}
			return nil
		}
		if err := r.decide(ctx, d); err != nil {
			return err
		}
	}
}

// decide looks at one letter: it stays, or it goes with the next wave.
func (r *redrive) decide(ctx context.Context, d amqp091.Delivery) error {
	l := describe(d)
	if r.waveKeys[l.orderKey()] { // what becomes of the one ahead decides
		if err := r.flush(ctx); err != nil {
			return err
		}
	}
	switch {
	case !r.config.concerns(l) || !r.config.Select.wants(l):
		r.report.NotSelected++
		return r.pile.leave(ctx)
	case !r.config.Select.means(l):
		r.report.NotSelected++
		return r.stay(ctx, l)
	case r.staying[l.orderKey()]:
		r.report.Held++
		return r.pile.leave(ctx)
	}
	to := cmp.Or(r.config.To, l.Queue)
	reason, err := r.checkDestination(ctx, to)
	if err != nil {
		return err
	}
	switch {
	case reason != nil:
		r.report.Failed++
		r.note("%v", reason)
		return r.stay(ctx, l)
	case r.config.DryRun:
		r.report.Moved++
		return r.pile.leave(ctx)
	}
	r.wave = append(r.wave, movement{d, l, to})
	r.waveBytes += len(d.Body)
	if l.Key != "" {
		if r.waveKeys == nil {
			r.waveKeys = map[orderKey]bool{}
		}
		r.waveKeys[l.orderKey()] = true
	}
	if len(r.wave) == maxWave || r.waveBytes >= maxWaveBytes {
		return r.flush(ctx)
	}
	return nil
}

// stay leaves a letter where it is, and all later ones of its key.
func (r *redrive) stay(ctx context.Context, l DeadLetter) error {
	if l.Key != "" && !r.config.IgnoreOrder {
		r.staying[l.orderKey()] = true
	}
	return r.pile.leave(ctx)
}

// flush sends the wave, takes off the pile what is confirmed, and leaves the rest.
func (r *redrive) flush(ctx context.Context) error {
	if len(r.wave) == 0 {
		return nil
	}
	if r.send == nil {
		if err := r.connect(ctx); err != nil {
			return err
		}
	}
	parcels := make([]parcel, len(r.wave))
	for i, m := range r.wave {
		parcels[i] = parcel{key: m.to, publishing: redrivePublishing(m.delivery, m.letter, r.frameBytes)}
	}
	outcomes, err := r.send(ctx, parcels)
	if err != nil {
		return fmt.Errorf("amqp: redrive: %w", err)
	}
	wave := r.wave
	r.wave, r.waveKeys, r.waveBytes = nil, nil, 0
	for i, m := range wave {
		if outcomes[i] == nil {
			if err := m.delivery.Ack(false); err != nil {
				return fmt.Errorf("amqp: redrive: acknowledge: %w", err)
			}
			r.report.Moved++
			continue
		}
		r.report.Failed++
		r.note("to the queue %q: %v", m.to, outcomes[i])
		if err := r.stay(ctx, m.letter); err != nil {
			return err
		}
	}
	return nil
}

func (r *redrive) connect(ctx context.Context) (err error) {
	if r.publishing, err = dial(ctx, r.config.Connection); err != nil {
		return err
	}
	courier, err := newCourier(ctx, r.publishing)
	if err != nil {
		return err
	}
	r.send, r.frameBytes = courier.send, r.publishing.Config.FrameSize
	return nil
}

// checkDestination returns why nothing can be moved to a queue, nil if something can. It looks once.
func (r *redrive) checkDestination(ctx context.Context, queue string) (reason, err error) {
	if reason, known := r.destinations[queue]; known {
		return reason, nil
	}
	switch {
	case queue == "":
		reason = errors.New("some letters don't say which queue they came from: set RedriveConfig.To")
	case queue == r.pile.queue:
		reason = fmt.Errorf("some letters came from the dead-letter queue %q itself, and would go round in circles: "+
			"set RedriveConfig.To", queue)
	default:
		state, there, err := inspectQueue(ctx, r.pile.link, queue)
		switch {
		case err != nil:
			return nil, err
		case !there:
			reason = fmt.Errorf("the queue %q isn't there (any more): start its consumer, which declares it, "+
				"or set RedriveConfig.To", queue)
		case state.Consumers == 0:
			r.note("the queue %q has no consumers: what is moved there waits for one", queue)
		}
	}
	r.destinations[queue] = reason
	return reason, nil
}

const maxNotes = 20

func (r *redrive) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if len(r.report.Notes) < maxNotes && !slices.Contains(r.report.Notes, text) {
		r.report.Notes = append(r.report.Notes, text)
	}
}

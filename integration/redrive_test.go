package integration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/inbox"
)

const deadLetters = consumedQueue + ".dlq"

// redriveUnderTest is a queue whose handler dead-letters everything until it is repaired.
type redriveUnderTest struct {
	*queueUnderTest
}

// newRedrive dead-letters events key0/1, key1/1 … key0/2 … in that order, one at a time, and stops the consumer.
func newRedrive(t *testing.T, keys, each int, failure func(e surepost.Event) error) *redriveUnderTest {
	t.Helper()
	return newRedriveOn(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ, keys, each, failure)
}

func newRedriveOn(t *testing.T, server *harness.RabbitMQServer, keys, each int,
	failure func(e surepost.Event) error) *redriveUnderTest {
	t.Helper()
	mq := newQueueUnderTest(t, server)
	connected := make(chan struct{}, 10)
	stop := mq.consume(amqp.ConsumerConfig{MaxAttempts: 1, Workers: 1,
		Hooks:   amqp.ConsumerHooks{OnConnect: func() { connected <- struct{}{} }},
		Handler: newOrderLedger(t, func(_ context.Context, e surepost.Event) error { return failure(e) })})
	await(t, connected) // all is bound
	mq.publish(keys, each)
	mq.wantMessages(deadLetters, keys*each)
	stop()
	mq.wantMessages(consumedQueue, 0)
	return &redriveUnderTest{queueUnderTest: mq}
}

// newPile puts that many letters into the dead-letter queue, of events key/1, key/2 … of each key.
func newPile(t *testing.T, count int, key func(n int) string) *redriveUnderTest {
	t.Helper()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	mq.consumeConnected(amqp.ConsumerConfig{})()
	numbers := map[string]int{}
	var confirms []*amqp091.DeferredConfirmation
	for n := range count {
		key := key(n)
		numbers[key]++
		e, err := surepost.Event{ID: fmt.Sprintf("%s/%d", key, numbers[key]), Type: "OrderCreated", Source: "shop", Key: key,
			Data: numbers[key]}.Complete(t.Context(), surepost.Defaults{})
		if err != nil {
			t.Fatal(err)
		}
		p, err := amqp.PublishingFromEvent(e)
		if err != nil {
			t.Fatal(err)
		}
		p.Headers[amqp.HeaderQueue] = consumedQueue
		confirms = append(confirms, mq.publishRaw("", deadLetters, p))
	}
	for _, c := range confirms {
		if !c.Wait() {
			t.Fatal("nack")
		}
	}
	mq.wantMessages(deadLetters, count)
	return &redriveUnderTest{queueUnderTest: mq}
}

func always(surepost.Event) error { return inbox.Permanent(errors.New("never")) }

func (r *redriveUnderTest) config() amqp.RedriveConfig {
	return amqp.RedriveConfig{Connection: amqp.Connection{URLs: []string{r.url}}, Queue: consumedQueue}
}

func (r *redriveUnderTest) redrive(c amqp.RedriveConfig) amqp.RedriveReport {
	r.t.Helper()
	report, err := amqp.Redrive(r.t.Context(), c)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Logf("%+v", report)
	return report
}

// ids returns the message ids in a queue, without changing it.
func (r *redriveUnderTest) ids(queue string) []string {
	r.t.Helper()
	return messageIDs(r.drain(queue))
}

// drain empties a queue.
func (r *redriveUnderTest) drain(queue string) []amqp091.Delivery {
	r.t.Helper()
	var all []amqp091.Delivery
	for {
		// A quorum queue serves no basic.get where a single consumer is active.
		if queue == consumedQueue {
			return r.drainByConsumer(queue)
		}
		d, ok, err := r.channel.Get(queue, true)
		if err != nil {
			r.t.Fatal(err)
		}
		if !ok {
			return all
		}
		all = append(all, d)
	}
}

func (r *redriveUnderTest) drainByConsumer(queue string) []amqp091.Delivery {
	r.t.Helper()
	ch, err := r.conn.Channel()
	if err != nil {
		r.t.Fatal(err)
	}
	defer ch.Close()
	state, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	deliveries, err := ch.Consume(queue, "", true, false, false, false, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	var all []amqp091.Delivery
	for range state.Messages {
		all = append(all, await(r.t, deliveries))
	}
	return all
}

func messageIDs(all []amqp091.Delivery) []string {
	var ids []string
	for _, d := range all {
		ids = append(ids, d.MessageId)
	}
	return ids
}

func wantIDs(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func wantReport(t *testing.T, got, want amqp.RedriveReport) {
	t.Helper()
	got.Notes = nil
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the report is %+v, want %+v", got, want)
	}
}

// TestRedrivenEventsAreHandledInOrder: the whole way, from the handler's failure to its repaired successor.
func TestRedrivenEventsAreHandledInOrder(t *testing.T) {
	t.Parallel()
	r := newRedrive(t, 7, 30, always)
	l := newOrderLedger(t, nil)
	stop := r.consume(amqp.ConsumerConfig{Handler: l})
	wantReport(t, r.redrive(r.config()), amqp.RedriveReport{Waiting: 210, Moved: 210})
	l.await(210)
	stop()
	r.wantMessages(deadLetters, 0)
	r.wantMessages(consumedQueue, 0)
	if l.duplicates() > 0 {
		t.Errorf("%d were handled twice", l.duplicates())
	}
}

// TestMovedLettersAreGone, though the broker is given many acknowledgements at once and then a good-bye.
func TestMovedLettersAreGone(t *testing.T) {
	t.Parallel()
	for range 5 {
		r := newPile(t, 301, func(n int) string { return fmt.Sprintf("key%d", n) })
		config := r.config()
		config.Limit = 300 // the last one stays
		wantReport(t, r.redrive(config), amqp.RedriveReport{Waiting: 301, Moved: 300, Unseen: 1})
		wantIDs(t, "remained", r.awaitIDs(deadLetters, 1), "key300/1")

		r = newPile(t, 301, func(n int) string { return fmt.Sprintf("key%d", n) })
		config = r.config()
		config.Select.IDs = make([]string, 0, 300)
		for n := range 300 {
			config.Select.IDs = append(config.Select.IDs, fmt.Sprintf("key%d/1", n+1))
		}
		wantReport(t, r.redrive(config), amqp.RedriveReport{Waiting: 301, Moved: 300, NotSelected: 1})
		wantIDs(t, "remained", r.awaitIDs(deadLetters, 1), "key0/1")
	}
}

// TestRedrivenMessageIsWhatItWas, but for what would do harm, and for the count of its redrives.
func TestRedrivenMessageIsWhatItWas(t *testing.T) {
	t.Parallel()
	r := newRedrive(t, 1, 1, always)
	r.redrive(r.config())
	d := r.drain(consumedQueue)[0]
	want := amqp091.Table{"tenant": "acme", amqp.HeaderPartitionKey: "key0", amqp.HeaderRedrives: int64(1),
		amqp.HeaderExchange: "events", amqp.HeaderRoutingKey: "shop.OrderCreated"}
	if fmt.Sprint(d.Headers) != fmt.Sprint(want) {
		t.Errorf("headers %v, want %v", d.Headers, want)
	}
	if e, err := amqp.EventFromDelivery(d); err != nil || e.Key != "key0" || len(e.Headers) != 1 || d.DeliveryMode != 2 {
		t.Errorf("%+v %v", e, err)
	}
	// What another publisher had set aside comes back as a header only.
	r.publishRaw("", deadLetters, amqp091.Publishing{MessageId: "m", Headers: amqp091.Table{
		amqp.HeaderQueue: consumedQueue, amqp.HeaderExpiration: "1", amqp.HeaderUserID: "joe", amqp.HeaderCC: []any{deadLetters},
		amqp.HeaderReason: "not-an-event", amqp.HeaderRedrives: int64(4), amqp.HeaderExchange: "e", amqp.HeaderRoutingKey: "k"}}).Wait()
	r.redrive(r.config())
	d = r.drain(consumedQueue)[0]
	if d.Expiration != "" || d.Headers["CC"] != nil || d.UserId != "" || d.Headers[amqp.HeaderRedrives] != int64(5) ||
		d.Headers[amqp.HeaderExpiration] != "1" || d.Headers[amqp.HeaderReason] != nil || d.Headers[amqp.HeaderExchange] != "e" {
		t.Errorf("%+v", d)
	}
	r.wantMessages(deadLetters, 0)
}

// TestRedriveKeepsWhatIsNotSelected in its place, and later letters of a key behind an earlier one that stays.
func TestRedriveKeepsWhatIsNotSelected(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		config   func(*amqp.RedriveConfig)
		report   amqp.RedriveReport
		moved    []string
		remained []string
	}{
		"by key": {
			config:   func(c *amqp.RedriveConfig) { c.Select.Keys = []string{"key1"} },
			report:   amqp.RedriveReport{Waiting: 6, Moved: 3, NotSelected: 3},
			moved:    []string{"key1/1", "key1/2", "key1/3"},
			remained: []string{"key0/1", "key0/2", "key0/3"},
		},
		"by type": {
			config:   func(c *amqp.RedriveConfig) { c.Select.Types = []string{"Other"} },
			report:   amqp.RedriveReport{Waiting: 6, NotSelected: 6},
			remained: []string{"key0/1", "key1/1", "key0/2", "key1/2", "key0/3", "key1/3"},
		},
		"by id, an earlier one of its key stays": {
			config:   func(c *amqp.RedriveConfig) { c.Select.IDs = []string{"key0/2", "key1/1", "key1/2"} },
			report:   amqp.RedriveReport{Waiting: 6, Moved: 2, NotSelected: 3, Held: 1},
			moved:    []string{"key1/1", "key1/2"},
			remained: []string{"key0/1", "key0/2", "key0/3", "key1/3"},
		},
		"by id, in any order": {
			config:   func(c *amqp.RedriveConfig) { c.Select.IDs = []string{"key0/2"}; c.IgnoreOrder = true },
			report:   amqp.RedriveReport{Waiting: 6, Moved: 1, NotSelected: 5},
			moved:    []string{"key0/2"},
			remained: []string{"key0/1", "key1/1", "key1/2", "key0/3", "key1/3"},
		},
		"by reason": {
			config:   func(c *amqp.RedriveConfig) { c.Select.Reasons = []amqp.DeadLetterReason{amqp.AttemptsSpent} },
			report:   amqp.RedriveReport{Waiting: 6, Moved: 1, NotSelected: 4, Held: 1},
			moved:    []string{"key1/1"},
			remained: []string{"key0/1", "key0/2", "key1/2", "key0/3", "key1/3"},
		},
		"by time": {
			config:   func(c *amqp.RedriveConfig) { c.Select.Before = time.Now().Add(-time.Hour) },
			report:   amqp.RedriveReport{Waiting: 6, NotSelected: 6},
			remained: []string{"key0/1", "key1/1", "key0/2", "key1/2", "key0/3", "key1/3"},
		},
		"limit": {
			config:   func(c *amqp.RedriveConfig) { c.Limit = 4 },
			report:   amqp.RedriveReport{Waiting: 6, Moved: 4, Unseen: 2},
			moved:    []string{"key0/1", "key1/1", "key0/2", "key1/2"},
			remained: []string{"key0/3", "key1/3"},
		},
		"dry run": {
			config:   func(c *amqp.RedriveConfig) { c.DryRun, c.Select.IDs = true, []string{"key0/1", "key0/2"} },
			report:   amqp.RedriveReport{Waiting: 6, Moved: 2, NotSelected: 4},
			remained: []string{"key0/1", "key1/1", "key0/2", "key1/2", "key0/3", "key1/3"},
		},
		"to another queue": {
			config:   func(c *amqp.RedriveConfig) { c.To = "elsewhere" },
			report:   amqp.RedriveReport{Waiting: 6, Failed: 2, Held: 4},
			remained: []string{"key0/1", "key1/1", "key0/2", "key1/2", "key0/3", "key1/3"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRedrive(t, 2, 3, func(e surepost.Event) error {
				if e.ID == "key1/1" || e.ID == "key0/3" {
					return errors.New("now and then")
				}
				return always(e)
			})
			config := r.config()
			test.config(&config)
			// Twice: those that stay keep their place over any number of looks.
			if _, err := amqp.DeadLetters(t.Context(), amqp.DeadLettersConfig{Connection: config.Connection, Queue: consumedQueue}); err != nil {
				t.Fatal(err)
			}
			wantReport(t, r.redrive(config), test.report)
			wantIDs(t, "moved", r.ids(consumedQueue), test.moved...)
			wantIDs(t, "remained", r.awaitIDs(deadLetters, len(test.remained)), test.remained...)
		})
	}
}

// awaitIDs empties a queue that is about to have so many messages.
func (r *redriveUnderTest) awaitIDs(queue string, count int) []string {
	r.t.Helper()
	r.wantMessages(queue, count)
	return r.ids(queue)
}

// TestDeadLettersAreListed with all that one wants to know.
func TestDeadLettersAreListed(t *testing.T) {
	t.Parallel()
	r := newRedrive(t, 2, 2, func(e surepost.Event) error {
		if e.Key == "key0" {
			return errors.New("no stock")
		}
		return inbox.Permanent(errors.New("no such product"))
	})
	config := amqp.DeadLettersConfig{Connection: r.config().Connection, Queue: consumedQueue, Limit: 2}
	letters, err := amqp.DeadLetters(t.Context(), config)
	if err != nil || len(letters) != 2 {
		t.Fatalf("%v %v", letters, err)
	}
	first := letters[0]
	if since := time.Since(first.At); since < 0 || since > time.Minute {
		t.Errorf("dead-lettered at %v", first.At)
	}
	first.At, first.Bytes = time.Time{}, 0
	want := amqp.DeadLetter{ID: "key0/1", Type: "OrderCreated", Key: "key0", Queue: consumedQueue, Exchange: "events",
		RoutingKey: "shop.OrderCreated", Reason: amqp.AttemptsSpent, Error: "no stock", Attempts: 1}
	if first != want {
		t.Errorf("got  %+v\nwant %+v", first, want)
	}
	config.Select.Reasons = []amqp.DeadLetterReason{amqp.PermanentFailure}
	letters, err = amqp.DeadLetters(t.Context(), config)
	if err != nil || len(letters) != 2 || letters[0].ID != "key1/1" || letters[1].ID != "key1/2" {
		t.Errorf("%+v %v", letters, err)
	}
	wantIDs(t, "still there", r.awaitIDs(deadLetters, 4), "key0/1", "key1/1", "key0/2", "key1/2")
}

// TestLookingLosesNothing, however often: by default RabbitMQ 4 drops what was given back 20 times.
func TestLookingLosesNothing(t *testing.T) {
	t.Parallel()
	r := newPile(t, 3, func(int) string { return "key0" })
	config := amqp.DeadLettersConfig{Connection: r.config().Connection, Queue: consumedQueue}
	for n := range 25 {
		letters, err := amqp.DeadLetters(t.Context(), config)
		if err != nil || len(letters) != 3 || letters[0].ID != "key0/1" || letters[2].ID != "key0/3" {
			t.Fatalf("look %d: %+v %v", n+1, letters, err)
		}
	}
}

// TestRedriveOfWhatTheBrokerDeadLettered: it has no headers of ours.
func TestRedriveOfWhatTheBrokerDeadLettered(t *testing.T) {
	t.Parallel()
	mq := newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ)
	config := amqp.ConsumerConfig{Handler: newOrderLedger(t, nil), DeliveryLimit: 2, Competing: true}
	stop := mq.consume(config)
	mq.awaitQueue(consumedQueue)
	stop()
	mq.publish(1, 1)
	for range 3 {
		mq.awaitMessage(consumedQueue).Reject(true)
	}
	mq.wantMessages(deadLetters, 1)
	r := &redriveUnderTest{queueUnderTest: mq}
	letters, err := amqp.DeadLetters(t.Context(), amqp.DeadLettersConfig{Connection: r.config().Connection, Queue: consumedQueue})
	if err != nil || len(letters) != 1 {
		t.Fatal(letters, err)
	}
	if l := letters[0]; l.Reason != amqp.DeliveryLimitReached || l.Queue != consumedQueue || l.RoutingKey != "shop.OrderCreated" ||
		l.Exchange != "events" || time.Since(l.At) > time.Minute {
		t.Errorf("%+v", l)
	}
	wantReport(t, r.redrive(r.config()), amqp.RedriveReport{Waiting: 1, Moved: 1})
	d := mq.awaitMessage(consumedQueue)
	for name := range d.Headers {
		if strings.HasPrefix(name, "x-") && name != "x-delivery-count" {
			t.Errorf("header %s is left", name)
		}
	}
	if d.Headers[amqp.HeaderRoutingKey] != "shop.OrderCreated" {
		t.Errorf("headers %v", d.Headers)
	}
	// Its deliveries are counted anew.
	d.Reject(true)
	mq.awaitMessage(consumedQueue).Ack(false)
}

// TestOneRedriveAtATime: a second one would move later letters of a key while the first one holds earlier ones.
func TestOneRedriveAtATime(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.RabbitMQ(harness.Private())).RabbitMQ
	r := newRedriveOn(t, server, 1, 3, always)
	config := r.config()
	other, err := r.conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Consume(deadLetters, "", false, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := amqp.Redrive(t.Context(), config); !errors.Is(err, amqp.ErrBusy) {
		t.Errorf("beside a consumer: %v", err)
	} else {
		wantWords(t, err, "has 1 consumers", "stop them")
	}
	other.Close()

	server.Block(t) // the first one reads, and waits until it may publish
	first := make(chan error, 1)
	go func() {
		_, err := amqp.Redrive(t.Context(), config)
		first <- err
	}()
	r.awaitConsumers(deadLetters, 1)
	if _, err := amqp.Redrive(t.Context(), config); !errors.Is(err, amqp.ErrBusy) {
		t.Errorf("beside another redrive: %v", err)
	} else {
		wantWords(t, err, "another redrive", "wait for its end")
	}
	if _, err := amqp.DeadLetters(t.Context(),
		amqp.DeadLettersConfig{Connection: config.Connection, Queue: consumedQueue}); !errors.Is(err, amqp.ErrBusy) {
		t.Errorf("a listing beside a redrive: %v", err)
	}
	server.Unblock(t)
	if err := await(t, first); err != nil {
		t.Error(err)
	}
	wantIDs(t, "moved", r.ids(consumedQueue), "key0/1", "key0/2", "key0/3")
	r.wantMessages(deadLetters, 0)
}

func (q *queueUnderTest) awaitConsumers(queue string, count int) {
	q.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		state, err := q.channel.QueueDeclarePassive(queue, true, false, false, false, nil)
		if err != nil {
			q.t.Fatal(err)
		}
		if state.Consumers == count {
			return
		}
		if time.Now().After(deadline) {
			q.t.Fatalf("queue %s has %d consumers, want %d", queue, state.Consumers, count)
		}
	}
}

// TestCutOffRedriveLosesNothing: it is ended anywhere, again and again, by its context or by its connections. What
// is moved then may be there twice, nothing is missing, and first occurrences are in order.
func TestCutOffRedriveLosesNothing(t *testing.T) {
	t.Parallel()
	const keys, each = 20, 25
	r := newPile(t, keys*each, func(n int) string { return fmt.Sprintf("key%d", n%keys) })
	proxy := harness.NewProxy(t, r.url)
	config := r.config()
	config.Connection.URLs = []string{proxy.URL()}
	var moved, cut int
	for n := range 200 {
		after := time.Duration(150+n) * time.Millisecond // it looks around for as long before it begins
		ctx, cancel := context.WithTimeout(t.Context(), after)
		var cutter sync.WaitGroup // a late one must not cut what comes next
		if n%4 == 3 {
			cutter.Go(func() {
				time.Sleep(after - 5*time.Millisecond)
				proxy.Cut()
				cancel()
			})
		}
		report, err := amqp.Redrive(ctx, config)
		<-ctx.Done()
		cancel()
		cutter.Wait()
		moved += report.Moved
		if err == nil && report.Waiting == report.Moved {
			break
		}
		cut++
	}
	if cut < 3 {
		t.Errorf("only %d of the redrives were cut off: the test didn't test", cut)
	}
	report := r.redrive(config)
	moved += report.Moved
	l := newOrderLedger(t, nil)
	stop := r.consume(amqp.ConsumerConfig{Handler: l})
	l.await(keys * each)
	r.wantMessages(consumedQueue, 0) // the copies too
	stop()
	r.wantMessages(deadLetters, 0)
	r.wantMessages(consumedQueue, 0)
	t.Logf("%d redrives were cut off, %d letters reported as moved, %d came twice", cut, moved, l.duplicates())
}

// TestRedriveReadsOverManyThatStay: more than one consumer may hold, and back they come in order.
func TestRedriveReadsOverManyThatStay(t *testing.T) {
	t.Parallel()
	const stays = 1600
	r := newPile(t, stays+10, func(n int) string {
		if n < stays {
			return "stays"
		}
		return "goes"
	})
	var want []string
	for n := range stays {
		want = append(want, fmt.Sprintf("stays/%d", n+1))
	}
	config := r.config()
	config.Select.Keys = []string{"goes"}
	wantReport(t, r.redrive(config), amqp.RedriveReport{Waiting: stays + 10, Moved: 10, NotSelected: stays})
	if got := r.ids(consumedQueue); len(got) != 10 {
		t.Errorf("moved: %v", got)
	}
	wantIDs(t, "remained", r.awaitIDs(deadLetters, stays), want...)
}

// TestRedriveExplainsMistakes, each with its remedy.
func TestRedriveExplainsMistakes(t *testing.T) {
	t.Parallel()
	r := newRedrive(t, 1, 2, always)
	missing := r.config()
	missing.Queue = "nobody's"
	_, err := amqp.Redrive(t.Context(), missing)
	if err == nil {
		t.Fatal("no error")
	}
	wantWords(t, err, `"nobody's.dlq" isn't there`, "correct Queue")

	wantNote := func(report amqp.RedriveReport, words string) {
		t.Helper()
		if !strings.Contains(strings.Join(report.Notes, "\n"), words) {
			t.Errorf("no note says %q: %q", words, report.Notes)
		}
	}
	dry := r.config()
	dry.DryRun = true
	wantNote(r.redrive(dry), "has no consumers")
	if _, err := r.channel.QueueDelete(consumedQueue, false, false, false); err != nil {
		t.Fatal(err)
	}
	report := r.redrive(r.config())
	wantReport(t, report, amqp.RedriveReport{Waiting: 2, Failed: 1, Held: 1})
	wantNote(report, "isn't there (any more)")
	r.publishRaw("", deadLetters, amqp091.Publishing{MessageId: "stray"}).Wait()
	r.publishRaw("", deadLetters, amqp091.Publishing{MessageId: "loop", Headers: amqp091.Table{amqp.HeaderQueue: deadLetters}}).Wait()
	all := r.config()
	all.Queue, all.DeadLetterQueue = "", deadLetters
	report = r.redrive(all)
	wantReport(t, report, amqp.RedriveReport{Waiting: 4, Failed: 3, Held: 1})
	wantNote(report, "don't say which queue")
	wantNote(report, "round in circles")
	wantIDs(t, "remained", r.awaitIDs(deadLetters, 4), "key0/1", "key0/2", "stray", "loop")
}

// TestRedriveHoldsAKeyBehindANack: a queue that is full refuses; what it refuses stays, with all later ones of its key.
func TestRedriveHoldsAKeyBehindANack(t *testing.T) {
	t.Parallel()
	r := newRedrive(t, 2, 3, always)
	args := amqp091.Table{"x-max-length": int64(1), "x-overflow": "reject-publish"} // a classic queue counts exactly
	if _, err := r.channel.QueueDeclare("small", true, false, false, false, args); err != nil {
		t.Fatal(err)
	}
	config := r.config()
	config.To = "small"
	report := r.redrive(config)
	left := r.awaitIDs(deadLetters, 6-report.Moved)
	if report.Failed == 0 || report.Held == 0 || report.Moved+report.Failed+report.Held != 6 {
		t.Errorf("%+v", report)
	}
	moved := r.ids("small")
	byKey := map[string]string{}
	for _, id := range append(moved, left...) {
		key, _, _ := strings.Cut(id, "/")
		byKey[key] += id + " "
	}
	for _, key := range []string{"key0", "key1"} {
		if want := key + "/1 " + key + "/2 " + key + "/3 "; byKey[key] != want {
			t.Errorf("of %s: moved %v, left %v", key, moved, left)
		}
	}
}

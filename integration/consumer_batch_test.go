package integration

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/inbox"
)

// batchUnderTest is a queue, and an inbox whose handler writes down each event.
type batchUnderTest struct {
	*queueUnderTest
	pool *pgxpool.Pool
	in   *inbox.Inbox[pgx.Tx]
}

func newBatchUnderTest(t *testing.T, work func(ctx context.Context, e surepost.Event) error) *batchUnderTest {
	t.Helper()
	pool, store := newPool(t)
	execSQL(t, pool, "CREATE TABLE effect (nth serial, id text NOT NULL, key text NOT NULL)")
	b := &batchUnderTest{newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ), pool, newInbox(t, store, "billing")}
	b.in.On("OrderCreated", func(ctx context.Context, tx pgx.Tx, e surepost.Event) error {
		if _, err := tx.Exec(ctx, "INSERT INTO effect (id, key) VALUES ($1, $2)", e.ID, e.Key); err != nil {
			return err
		}
		if work != nil {
			return work(ctx, e)
		}
		return nil
	})
	return b
}

// awaitEffects waits until so many events were handled, and checks that each was once.
func (b *batchUnderTest) awaitEffects(want int) {
	b.t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for got := -1; got < want; time.Sleep(20 * time.Millisecond) {
		got = count(b.t, b.pool, "SELECT count(*) FROM effect")
		if time.Now().After(deadline) {
			b.t.Fatalf("%d of %d events were handled in a minute", got, want)
		}
	}
	if got := count(b.t, b.pool, "SELECT count(*) FROM effect"); got != want {
		b.t.Errorf("%d effects, want %d", got, want)
	}
	if twice := count(b.t, b.pool, "SELECT count(*) - count(DISTINCT id) FROM effect"); twice != 0 {
		b.t.Errorf("%d events have more than one effect", twice)
	}
}

// wantOrder checks that the effects of each key were committed in order. (Numbers are drawn before the commit, but
// never for two transactions of one key at once.)
func (b *batchUnderTest) wantOrder() {
	b.t.Helper()
	inverted := count(b.t, b.pool, `SELECT count(*) FROM (
		SELECT split_part(id, '/', 2)::int AS n, lag(split_part(id, '/', 2)::int) OVER (PARTITION BY key ORDER BY nth) AS before FROM effect) x
		WHERE n < before`)
	if inverted != 0 {
		b.t.Errorf("%d events were handled before an earlier one of their key", inverted)
	}
}

func TestABatchWithPoisonHandlesAllOthersOnceAndInOrder(t *testing.T) {
	t.Parallel()
	b := newBatchUnderTest(t, func(_ context.Context, e surepost.Event) error {
		if e.ID == "key3/7" {
			return inbox.Permanent(errors.New("no such product"))
		}
		return nil
	})
	var failed, inBatches atomic.Int64
	stop := b.consume(amqp.ConsumerConfig{Handler: b.in, BatchSize: 20, BatchLinger: 50 * time.Millisecond, Workers: 3,
		Hooks: amqp.ConsumerHooks{
			OnBatchFailed: func(amqp.FailedBatch) { failed.Add(1) },
			OnHandled: func(h amqp.HandledMessage) {
				if h.BatchSize > 1 {
					inBatches.Add(1)
				}
			},
		}})
	b.publish(20, 50)
	b.awaitEffects(999)
	letter := b.takeAll(consumedQueue+".dlq", 1)["key3/7"]
	if letter.Headers[amqp.HeaderReason] != string(amqp.PermanentFailure) || letter.Headers[amqp.HeaderAttempts] != int64(1) {
		t.Errorf("the letter's headers are %v", letter.Headers)
	}
	stop()
	b.wantOrder()
	b.wantMessages(consumedQueue, 0)
	b.wantMessages(consumedQueue+".dlq", 0)
	if failed.Load() != 1 || inBatches.Load() < 900 {
		t.Errorf("%d batches failed, %d events were handled in one; want 1 failed and most in one", failed.Load(), inBatches.Load())
	}
}

// Batches that were committed and not acknowledged come again, and are found to be duplicates.
func TestABatchThatIsCutOffBeforeItsAcknowledgementHasOneEffect(t *testing.T) {
	t.Parallel()
	b := newBatchUnderTest(t, nil)
	server := harness.Start(t, harness.RabbitMQ()).RabbitMQ
	b.queueUnderTest = newQueueUnderTest(t, server)
	var handled, duplicates atomic.Int64
	published := make(chan struct{})
	stop := b.consume(amqp.ConsumerConfig{Handler: b.in, BatchSize: 20, BatchLinger: 50 * time.Millisecond, Workers: 2,
		Hooks: amqp.ConsumerHooks{OnHandled: func(h amqp.HandledMessage) {
			if h.Result == inbox.Duplicate {
				duplicates.Add(1)
			}
			if handled.Add(1) == 100 { // after the commit, before the acknowledgement
				<-published // over a connection that is closed, too
				server.CloseConnections(t)
			}
		}}})
	b.publish(10, 50)
	close(published)
	b.awaitEffects(500)
	b.connect()
	b.wantMessages(consumedQueue, 0)
	stop()
	b.wantOrder()
	b.wantMessages(consumedQueue+".dlq", 0)
	if duplicates.Load() == 0 {
		t.Error("nothing came twice: the test didn't test")
	}
	if n := count(t, b.pool, "SELECT count(*) FROM surepost_inbox_attempt"); n != 0 {
		t.Errorf("%d records of attempts are left", n)
	}
}

// Two consumers get the same events at the same time, in batches that overlap in all ways.
func TestCopiesInBatchesOfTwoConsumersHaveOneEffect(t *testing.T) {
	t.Parallel()
	b := newBatchUnderTest(t, nil)
	var failed atomic.Int64
	config := amqp.ConsumerConfig{Handler: b.in, BatchSize: 25, BatchLinger: 20 * time.Millisecond, Workers: 4, Competing: true,
		Hooks: amqp.ConsumerHooks{OnBatchFailed: func(f amqp.FailedBatch) {
			failed.Add(1)
			t.Log(f.Err)
		}}}
	stop := b.consume(config)
	stopOther := b.consume(config)
	for range 3 {
		b.publish(50, 10)
	}
	b.awaitEffects(500)
	b.wantMessages(consumedQueue, 0)
	stop()
	stopOther()
	b.awaitEffects(500)
	b.wantMessages(consumedQueue+".dlq", 0)
	if failed.Load() > 0 {
		t.Errorf("%d batches failed: copies that wait for each other in circles", failed.Load())
	}
}

// A shutdown lets the batch commit that it finds, and gives the rest back.
func TestAShutdownInTheMiddleOfABatchLosesNothing(t *testing.T) {
	t.Parallel()
	started := make(chan struct{}, 1000)
	b := newBatchUnderTest(t, func(context.Context, surepost.Event) error {
		started <- struct{}{}
		time.Sleep(10 * time.Millisecond)
		return nil
	})
	config := amqp.ConsumerConfig{Handler: b.in, BatchSize: 20, BatchLinger: 50 * time.Millisecond, Workers: 2}
	stop := b.consume(config)
	b.publish(10, 30)
	for range 50 { // in the middle of a second batch at the latest
		await(t, started)
	}
	stop()
	handled := count(t, b.pool, "SELECT count(*) FROM effect")
	if since(brokerVersion(t, b.conn), 4, 0) {
		// With 4.3 a close may overtake acknowledgements that were sent before it: what they were for comes again.
		state, err := b.channel.QueueDeclarePassive(consumedQueue, true, false, false, false, nil)
		if err != nil || state.Messages < 300-handled {
			t.Errorf("%d messages are left of 300, %d were handled, %v", state.Messages, handled, err)
		}
	} else {
		b.wantMessages(consumedQueue, 300-handled)
	}
	if handled == 0 || handled == 300 {
		t.Errorf("%d were handled before the shutdown: the test didn't test", handled)
	}
	stop = b.consume(config)
	b.awaitEffects(300)
	stop()
	b.wantOrder()
	b.wantMessages(consumedQueue, 0)
}

// A process dies in one event's handler, again and again, on a queue that counts nothing: the event is found and
// dead-lettered, and all that were handled beside it, or waited behind it, are handled once.
func TestAnEventThatKillsItsProcessIsFound(t *testing.T) {
	t.Parallel()
	victim := filepath.Join(t.TempDir(), "victim")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", victim, "./testdata/victim").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pg := harness.Start(t, harness.Postgres()).Postgres
	pool, _ := poolOn(t, pg.URL())
	execSQL(t, pool, "CREATE TABLE effect (nth serial, id text NOT NULL, key text NOT NULL)")
	b := &batchUnderTest{newQueueUnderTest(t, harness.Start(t, harness.RabbitMQ()).RabbitMQ), pool, nil}

	run := func() *exec.Cmd {
		process := exec.Command(victim)
		process.Env = append(os.Environ(), "POSTGRES_URL="+pg.URL(), "RABBIT_URL="+b.url)
		process.Stderr = t.Output()
		if err := process.Start(); err != nil {
			t.Fatal(err)
		}
		return process
	}
	process := run() // it declares the queue
	b.awaitQueue(consumedQueue)
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := process.Wait(); err != nil {
		t.Fatal(err)
	}
	b.publish(10, 10)
	killer, err := surepost.Event{ID: "killer", Type: "OrderCreated", Source: "shop", Key: "key4", Data: 0}.
		Complete(t.Context(), surepost.Defaults{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := amqp.PublishingFromEvent(killer)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := b.publishRaw("events", "shop.OrderCreated", p).WaitContext(t.Context()); err != nil || !ok {
		t.Fatal(ok, err)
	}
	b.publish(10, 20) // the first ten of each key a second time

	deaths := 0
	died, running := make(chan error, 1), false
	for deadline := time.Now().Add(90 * time.Second); ; {
		if !running {
			process, running = run(), true
			t.Cleanup(func() { _ = process.Process.Kill() })
			go func(p *exec.Cmd) { died <- p.Wait() }(process)
		}
		select {
		case err := <-died:
			running = false
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 42 {
				t.Fatalf("the process ended by %v", err)
			}
			if deaths++; deaths > 4 {
				t.Fatal("five processes died, want four at most")
			}
			continue
		case <-time.After(100 * time.Millisecond):
		}
		if count(t, pool, "SELECT count(*) FROM effect") == 200 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d effects after %d deaths", count(t, pool, "SELECT count(*) FROM effect"), deaths)
		}
	}
	letter := b.takeAll(consumedQueue+".dlq", 1)["killer"]
	if letter.Headers[amqp.HeaderReason] != string(amqp.KillsProcess) {
		t.Errorf("the letter's headers are %v", letter.Headers)
	}
	b.wantMessages(consumedQueue, 0)
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-died; err != nil {
		t.Errorf("the last process ended by %v", err)
	}
	b.awaitEffects(200)
	b.wantMessages(consumedQueue+".dlq", 0)
	if deaths < 2 {
		t.Errorf("%d processes died: the test didn't test", deaths)
	}
	if n := count(t, pool, "SELECT count(*) FROM surepost_inbox_attempt"); n != 0 {
		t.Errorf("%d records of attempts are left", n)
	}
	t.Logf("%d processes died", deaths)
}

// Of the same batches as above, by the inbox alone: each event is handled by one of them, and none ends in a deadlock.
func TestOverlappingBatchesDoNotWaitInCircles(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	execSQL(t, pool, "CREATE TABLE effect (id text)")
	in := newInbox(t, store, "inventory")
	in.OnBatch("OrderCreated", func(ctx context.Context, tx pgx.Tx, events []surepost.Event) error {
		var ids []string
		for _, e := range events {
			ids = append(ids, e.ID)
		}
		_, err := tx.Exec(ctx, "INSERT INTO effect SELECT unnest($1::text[])", ids)
		return err
	})
	const rounds, clients, events = 20, 6, 30
	for round := range rounds {
		results := make(chan []inbox.Result, clients)
		for client := range clients {
			go func() {
				var batch []surepost.Event
				for n := range events {
					batch = append(batch, received(fmt.Sprintf("%d/%d", round, n), ""))
				}
				if client%2 == 0 {
					slices.Reverse(batch)
				}
				r, err := in.HandleBatch(t.Context(), batch[:events-client])
				if err != nil {
					t.Error(err)
				}
				results <- r
			}()
		}
		handled := 0
		for range clients {
			for _, r := range <-results {
				if r == inbox.Handled {
					handled++
				}
			}
		}
		if n := count(t, pool, "SELECT count(*) FROM effect"); handled != events || n != events*(round+1) {
			t.Fatalf("round %d: %d were handled, %d effects in all", round, handled, n)
		}
	}
}

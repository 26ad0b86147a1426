package integration

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// flow is the whole path: a producer's database, a relay, RabbitMQ, a consumer with a database of its own.
type flow struct {
	producer *pgxpool.Pool
	store    *pgxstore.Store
	box      *outbox.Outbox[pgx.Tx]
	consumer *pgxpool.Pool
	inbox    *pgxstore.Store
	mq       *harness.RabbitMQServer
	brokers  []string // the addresses of a cluster's nodes, in place of mq

	next       atomic.Int64
	unroutable atomic.Int64 // tries that count towards parking
}

func newFlow(t *testing.T, env *harness.Env) *flow {
	t.Helper()
	f := &flow{mq: env.RabbitMQ}
	f.open(t, env.Postgres.URL(), env.Postgres.NewDatabase(t))
	return f
}

// open makes the tables of a producer and a consumer in two databases.
func (f *flow) open(t *testing.T, producerURL, consumerURL string) {
	t.Helper()
	f.producer, f.store = poolOn(t, producerURL)
	f.consumer, f.inbox = poolOn(t, consumerURL)
	f.box = newBox(t, f.store)
	execSQL(t, f.producer, "CREATE TABLE aggregate (key text PRIMARY KEY, version int NOT NULL)", "INSERT INTO aggregate SELECT 'k' || n, 0 FROM generate_series(0, 19) n")
	execSQL(t, f.consumer, "CREATE TABLE effect (nth serial, key text NOT NULL, version int NOT NULL)")
}

type changed struct {
	Key     string `json:"key"`
	Version int    `json:"version"`
}

// produce changes an aggregate and writes the event of it, in one transaction.
func (f *flow) produce(ctx context.Context, n int) error {
	return pgx.BeginFunc(ctx, f.producer, func(tx pgx.Tx) error {
		c := changed{Key: fmt.Sprint("k", n%20)}
		if err := tx.QueryRow(ctx, "UPDATE aggregate SET version = version + 1 WHERE key = $1 RETURNING version", c.Key).Scan(&c.Version); err != nil {
			return err
		}
		return f.box.Write(ctx, tx, surepost.Event{Type: "Changed", Key: c.Key, Data: c})
	})
}

// keepProducing runs clients until stop is called; failed transactions (an outage) are tried again.
func (f *flow) keepProducing(t *testing.T, clients int) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := f.produce(context.WithoutCancel(ctx), int(f.next.Add(1))); err != nil {
					time.Sleep(50 * time.Millisecond)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}

func logger(t *testing.T) *slog.Logger {
	if os.Getenv("SUREPOST_TEST_LOG") != "" {
		return slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	return slog.New(slog.DiscardHandler)
}

// urls returns the broker's addresses.
func (f *flow) urls() []string {
	if f.brokers != nil {
		return f.brokers
	}
	return []string{f.mq.URL()}
}

func newPublisher(t *testing.T, urls ...string) *amqp.Publisher {
	t.Helper()
	p, err := amqp.NewPublisher(amqp.PublisherConfig{Connection: amqp.Connection{URLs: urls}, Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (f *flow) startRelay(t *testing.T) (*relay.Relay, func()) {
	t.Helper()
	r, err := relay.New(f.store, newPublisher(t, f.urls()...), relay.Config{
		LeaseTTL: 2 * time.Second, Logger: logger(t),
		Hooks: relay.Hooks{OnRetry: func(_ relay.Lane, _ relay.Entry, o relay.Outcome) {
			if o.Status == relay.Unroutable {
				f.unroutable.Add(1)
			}
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r, background(t, r.Run)
}

// background runs until stop, and demands that it ends without error.
func background(t *testing.T, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("ended with %v", err)
				}
			case <-time.After(time.Minute):
				t.Error("doesn't end")
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func (f *flow) startConsumer(t *testing.T) (stop func()) {
	t.Helper()
	connected := make(chan struct{}, 1)
	in := newInbox(t, f.inbox, "effects")
	in.On("Changed", func(ctx context.Context, tx pgx.Tx, e surepost.Event) error {
		var c changed
		if err := e.Decode(&c); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "INSERT INTO effect (key, version) VALUES ($1, $2)", c.Key, c.Version)
		return err
	})
	c, err := amqp.NewConsumer(amqp.ConsumerConfig{
		Connection: amqp.Connection{URLs: f.urls()}, Queue: "effects", Types: in.Types(), Handler: in, Logger: logger(t),
		Hooks: amqp.ConsumerHooks{OnConnect: func() {
			select {
			case connected <- struct{}{}:
			default:
			}
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	stop = background(t, c.Run)
	<-connected // its queue is bound
	return stop
}

// settled waits until every committed change has its effect, for as long as more come within patience, then checks
// promises 1 to 4.
func (f *flow) settled(t *testing.T, patience time.Duration) (events int) {
	t.Helper()
	want, before := 0, 0
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		var got int
		if f.producer.QueryRow(t.Context(), "SELECT coalesce(sum(version), 0) FROM aggregate").Scan(&want) != nil ||
			f.consumer.QueryRow(t.Context(), "SELECT count(*) FROM effect").Scan(&got) != nil {
			continue // the servers are on their way up
		}
		if got >= want {
			break
		}
		if got > before {
			before, deadline = got, time.Now().Add(patience)
		}
	}
	got := count(t, f.consumer, "SELECT count(*) FROM effect")
	distinct := count(t, f.consumer, "SELECT count(*) FROM (SELECT DISTINCT key, version FROM effect) d")
	if got != want || distinct != want {
		t.Errorf("%d changes committed, %d effects, %d distinct: lost %d, doubled %d", want, got, distinct, want-distinct, got-distinct)
	}
	if n := count(t, f.consumer, "SELECT count(*) FROM (SELECT version < lag(version) OVER (PARTITION BY key ORDER BY nth) AS back FROM effect) o WHERE back"); n != 0 {
		t.Errorf("%d effects came before an earlier one of their key", n)
	}
	if n := count(t, f.producer, "SELECT count(*) FROM surepost_parked"); n != 0 {
		t.Errorf("%d events were parked", n)
	}
	return want
}

// The broker is away for 20 s: nothing is lost, nothing parked, no retry spent.
func TestABrokerOutageCostsLatencyOnly(t *testing.T) {
	t.Parallel()
	f := newFlow(t, harness.Start(t, harness.Postgres(), harness.RabbitMQ(harness.Private())))
	f.startConsumer(t)
	r, _ := f.startRelay(t)
	stop := f.keepProducing(t, 4)
	time.Sleep(2 * time.Second)
	f.mq.Stop(t)
	time.Sleep(20 * time.Second)
	f.mq.Start(t)
	time.Sleep(2 * time.Second)
	stop()
	n := f.settled(t, 30*time.Second)
	if rp := r.Report(); f.unroutable.Load() != 0 || rp.Parked != 0 || rp.Sessions < 2 {
		t.Errorf("the outage spent %d tries: %+v", f.unroutable.Load(), rp)
	}
	t.Logf("%d events, %+v", n, r.Report())
}

func TestABrokerCrashLosesNothing(t *testing.T) {
	t.Parallel()
	f := newFlow(t, harness.Start(t, harness.Postgres(), harness.RabbitMQ(harness.Private())))
	f.startConsumer(t)
	f.startRelay(t)
	stop := f.keepProducing(t, 4)
	for range 2 {
		time.Sleep(2 * time.Second)
		f.mq.Kill(t)
		time.Sleep(time.Second)
		f.mq.Start(t)
	}
	stop()
	t.Logf("%d events", f.settled(t, 30*time.Second))
}

func TestADatabaseRestartLosesNothing(t *testing.T) {
	t.Parallel()
	env := harness.Start(t, harness.Postgres(harness.Private()), harness.RabbitMQ())
	f := newFlow(t, env)
	f.startConsumer(t)
	r, _ := f.startRelay(t)
	stop := f.keepProducing(t, 4)
	time.Sleep(2 * time.Second)
	env.Postgres.Restart(t)
	time.Sleep(2 * time.Second)
	env.Postgres.Kill(t)
	time.Sleep(3 * time.Second)
	env.Postgres.Start(t)
	time.Sleep(2 * time.Second)
	stop()
	n := f.settled(t, 30*time.Second)
	if rp := r.Report(); f.unroutable.Load() != 0 || rp.Parked != 0 {
		t.Errorf("the restart spent %d tries: %+v", f.unroutable.Load(), rp)
	}
	t.Logf("%d events, %+v", n, r.Report())
}

// Connections are cut again and again on both sides of the relay and the consumer.
func TestCutConnectionsLoseNothing(t *testing.T) {
	t.Parallel()
	f := newFlow(t, harness.Start(t, harness.Postgres(), harness.RabbitMQ()))
	f.startConsumer(t)
	f.startRelay(t)
	stop := f.keepProducing(t, 4)
	for n := range 12 {
		time.Sleep(700 * time.Millisecond)
		if n%2 == 0 {
			f.mq.CloseConnections(t)
		} else {
			execSQL(t, f.producer, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
			execSQL(t, f.consumer, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
		}
	}
	stop()
	t.Logf("%d events", f.settled(t, 30*time.Second))
}

// Three relays stand by for each other and are stopped in turn, in good order or not.
func TestStandbyRelaysTakeOver(t *testing.T) {
	t.Parallel()
	f := newFlow(t, harness.Start(t, harness.Postgres(), harness.RabbitMQ()))
	f.startConsumer(t)
	type one struct {
		*relay.Relay
		stop func()
	}
	var relays []one
	add := func() {
		r, stop := f.startRelay(t)
		relays = append(relays, one{r, stop})
	}
	for range 3 {
		add()
	}
	stop := f.keepProducing(t, 4)
	for n := range 6 {
		time.Sleep(1500 * time.Millisecond)
		leading := -1
		for i, r := range relays {
			if r.Report().State == relay.Leading {
				leading = i
			}
		}
		if leading < 0 {
			continue
		}
		if n%2 == 0 {
			relays[leading].stop()
			relays = append(relays[:leading], relays[leading+1:]...)
			add()
		} else { // its lease is taken from under it, as if it had been asleep
			execSQL(t, f.producer, "UPDATE surepost_lease SET epoch = epoch + 1, owner = '', expires_at = clock_timestamp()")
		}
	}
	stop()
	t.Logf("%d events", f.settled(t, 30*time.Second))
}

// A memory alarm makes the broker block publishers: the relay waits and reports it.
func TestABlockedBrokerIsReportedAndWaitedFor(t *testing.T) {
	t.Parallel()
	f := newFlow(t, harness.Start(t, harness.Postgres(), harness.RabbitMQ(harness.Private())))
	f.startConsumer(t)
	r, _ := f.startRelay(t)
	stop := f.keepProducing(t, 2)
	time.Sleep(time.Second)
	f.mq.Block(t)
	deadline := time.Now().Add(20 * time.Second)
	for !r.Report().Blocked && time.Now().Before(deadline) {
		time.Sleep(50 * time.Millisecond)
	}
	if rp := r.Report(); !rp.Blocked || rp.BlockedReason == "" {
		t.Errorf("not reported as blocked: %+v", rp)
	}
	time.Sleep(2 * time.Second)
	f.mq.Unblock(t)
	time.Sleep(time.Second)
	stop()
	t.Logf("%d events", f.settled(t, 30*time.Second))
	if rp := r.Report(); rp.Blocked || rp.Parked != 0 || rp.Sessions != 1 {
		t.Errorf("after the alarm: %+v", rp)
	}
}

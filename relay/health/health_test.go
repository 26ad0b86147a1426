package health_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/outbox"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/relay/health"
	"github.com/surepost/surepost/relay/relaytest"
)

// database is a memstore that can be away, or silent.
type database struct {
	*memstore.Store

	mu     sync.Mutex
	err    error
	silent bool
}

func (d *database) set(err error, silent bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err, d.silent = err, silent
}

func (d *database) answer(ctx context.Context) error {
	d.mu.Lock()
	err, silent := d.err, d.silent
	d.mu.Unlock()
	if silent {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return err
}

func (d *database) Check(ctx context.Context) error { return d.answer(ctx) }

func (d *database) Join(
	ctx context.Context, destination, owner, instance string, lanes int, ttl time.Duration,
) (relay.Membership, error) {
	if err := d.answer(ctx); err != nil {
		return relay.Membership{}, err
	}
	return d.Store.Join(ctx, destination, owner, instance, lanes, ttl)
}

func (d *database) Acquire(ctx context.Context, lane relay.Lane, owner string, ttl time.Duration) (relay.Lease, error) {
	if err := d.answer(ctx); err != nil {
		return relay.Lease{}, err
	}
	return d.Store.Acquire(ctx, lane, owner, ttl)
}

func (d *database) Renew(ctx context.Context, lease relay.Lease, ttl time.Duration) error {
	if err := d.answer(ctx); err != nil {
		return err
	}
	return d.Store.Renew(ctx, lease, ttl)
}

func (d *database) Open(ctx context.Context, lease relay.Lease) (relay.Log, error) {
	l, err := d.Store.Open(ctx, lease)
	return &log{l, d}, err
}

type log struct {
	relay.Log
	database *database
}

func (l *log) Read(ctx context.Context, limit int) (relay.Page, error) {
	if err := l.database.answer(ctx); err != nil {
		return relay.Page{}, err
	}
	return l.Log.Read(ctx, limit)
}

// clinic is a relay whose servers can fail, with its probes.
type clinic struct {
	t        *testing.T
	database *database
	broker   *relaytest.Publisher
	relay    *relay.Relay
	probes   *health.Probes
	stop     func()
	returned chan error
}

func admit(t *testing.T, hooks relay.Hooks) *clinic {
	c := &clinic{t: t, database: &database{Store: memstore.New()}, broker: relaytest.NewPublisher(), returned: make(chan error, 1)}
	var err error
	c.relay, err = relay.New(c.database, c.broker, relay.Config{Owner: "patient", Logger: slog.New(slog.DiscardHandler), Hooks: hooks})
	if err != nil {
		t.Fatal(err)
	}
	c.probes = health.New(health.Config{}, c.relay)
	return c
}

func (c *clinic) run() {
	ctx, cancel := context.WithCancel(c.t.Context())
	c.stop = cancel
	go func() { c.returned <- c.relay.Run(ctx) }()
}

// write commits an event.
func (c *clinic) write() {
	box, err := outbox.New(c.database.Store, outbox.Config{Source: "test"})
	if err != nil {
		c.t.Fatal(err)
	}
	err = c.database.Do(c.t.Context(), func(tx *memstore.Tx) error {
		return box.Write(c.t.Context(), tx, surepost.Event{Type: "Written"})
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// wants checks both probes: what doesn't hold of each, as "name: part of the reason"; nothing if all must hold.
func (c *clinic) wants(state, live, ready string) {
	c.t.Helper()
	for _, probe := range []struct {
		name    string
		handler http.Handler
		want    string
	}{{"live", c.probes.LiveHandler(), live}, {"ready", c.probes.ReadyHandler(), ready}} {
		answer := httptest.NewRecorder()
		probe.handler.ServeHTTP(answer, httptest.NewRequest("GET", "/", nil))
		var verdict health.Verdict
		if err := json.Unmarshal(answer.Body.Bytes(), &verdict); err != nil {
			c.t.Fatalf("%s: %s: %v in %s", state, probe.name, err, answer.Body)
		}
		var broken []string
		for _, condition := range verdict.Conditions {
			if condition.Reason == "" || condition.Destination != relay.DefaultDestination {
				c.t.Errorf("%s: %s: %+v lacks its reason or destination", state, probe.name, condition)
			}
			if !condition.OK {
				broken = append(broken, condition.Name+": "+condition.Reason)
			}
		}
		code := http.StatusOK
		if probe.want != "" {
			code = http.StatusServiceUnavailable
		}
		if answer.Code != code || verdict.OK != (probe.want == "") {
			c.t.Errorf("%s: %s answers %d and %v, want %d", state, probe.name, answer.Code, verdict.OK, code)
		}
		name, reason, _ := strings.Cut(probe.want, ": ")
		switch {
		case probe.want == "" && len(broken) > 0:
			c.t.Errorf("%s: %s says %q, want that all is well", state, probe.name, broken)
		case probe.want != "" && (len(broken) == 0 || !strings.Contains(strings.Join(broken, "; "), name+": ") ||
			!strings.Contains(strings.Join(broken, "; "), reason)):
			c.t.Errorf("%s: %s says %q, want %q", state, probe.name, broken, probe.want)
		}
	}
}

func TestProbesTellTheTruthInEachState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := admit(t, relay.Hooks{})
		c.wants("starting", "", "running: starting")
		c.run()
		synctest.Wait()
		c.wants("leading", "", "")

		c.database.set(errors.New("connection refused"), false)
		time.Sleep(5 * time.Second)
		c.wants("database away", "", "database: connection refused")
		c.database.set(nil, false)
		time.Sleep(15 * time.Second)
		c.wants("database back", "", "")

		c.database.set(nil, true)
		time.Sleep(20 * time.Second) // the lease has run out, and the relay begins again
		c.wants("database silent", "", "database: ")
		time.Sleep(time.Hour)
		c.wants("database silent for long", "", "database: ")
		c.database.set(nil, false)
		time.Sleep(30 * time.Second)
		c.wants("database back", "", "")

		c.broker.Stop(errors.New("no route to host"))
		time.Sleep(5 * time.Second)
		c.wants("broker away", "", "broker: no route to host")
		c.broker.Start()
		time.Sleep(30 * time.Second)
		c.wants("broker back", "", "")

		c.broker.Block("low on memory")
		time.Sleep(time.Hour)
		c.wants("blocked", "", "unblocked: low on memory")
		c.broker.Stop(errors.New("no route to host"))
		time.Sleep(10 * time.Second)
		c.wants("broker away while it blocked", "", "broker: no route to host")
		if c.relay.Report().Blocked {
			t.Error("a session that is gone is reported as blocked")
		}
		c.broker.Unblock()
		c.broker.Start()
		time.Sleep(30 * time.Second)
		c.wants("broker back", "", "")

		c.broker.Hang()
		c.broker.Drop()
		time.Sleep(time.Hour)
		c.wants("broker silent", "", "broker: connection was lost")
		c.broker.Resume()
		time.Sleep(10 * time.Second)
		c.wants("broker back", "", "")

		c.broker.Block("low on disk")
		c.write()
		time.Sleep(time.Second)
		c.broker.Unblock()
		c.broker.Decide(func(relay.Entry) relaytest.Fate { return relaytest.Silence })
		c.write()
		time.Sleep(100 * time.Millisecond) // it is on its way, and its outcome never comes
		c.stop()
		time.Sleep(9 * time.Second)
		c.wants("stopping", "", "running: stopping")
		if err := <-c.returned; err != nil {
			t.Error(err)
		}
		c.wants("stopped", "", "running: stopped")
	})
}

func TestAHaltedRelayIsNeitherAliveNorReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := admit(t, relay.Hooks{})
		c.run()
		synctest.Wait()
		c.database.set(fmt.Errorf("%w: the sequence is behind: raise it", relay.ErrHalt), false)
		if err := <-c.returned; !errors.Is(err, relay.ErrHalt) {
			t.Fatal(err)
		}
		c.wants("halted", "running: raise it", "running: raise it")
	})
}

func TestAStandbyIsReadyIfItCouldPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := admit(t, relay.Hooks{})
		lane := relay.Lane{Destination: relay.DefaultDestination, Of: 1}
		if _, err := c.database.Store.Acquire(t.Context(), lane, "leader", 24*time.Hour); err != nil {
			t.Fatal(err)
		}
		c.run()
		synctest.Wait()
		c.wants("standby, first asked", "", "broker: for the first time")
		synctest.Wait()
		c.wants("standby", "", "")
		opened := c.broker.Opened()
		for range 20 {
			time.Sleep(time.Second)
			c.wants("standby", "", "")
		}
		if n := c.broker.Opened() - opened; n > 1 {
			t.Errorf("%d probes in 20 s opened %d sessions", 20, n)
		}

		c.broker.Stop(errors.New("no route to host"))
		time.Sleep(30 * time.Second)
		c.probes.Ready()
		synctest.Wait()
		c.wants("standby, broker away", "", "broker: no route to host")
		c.broker.Start()
		c.broker.Hang()
		time.Sleep(30 * time.Second)
		c.probes.Ready()
		time.Sleep(11 * time.Second)
		c.wants("standby, broker silent", "", "broker: ")
		c.broker.Resume()
		time.Sleep(30 * time.Second)
		c.probes.Ready()
		synctest.Wait()
		c.wants("standby, broker back", "", "")
		c.database.set(errors.New("connection refused"), false)
		time.Sleep(10 * time.Second)
		c.wants("standby, database away", "", "database: connection refused")
		c.stop()
		<-c.returned
	})
}

func TestARelayThatDecidesNothingIsNotAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		c := admit(t, relay.Hooks{OnPublished: func(relay.Lane, int) { <-stuck }})
		c.run()
		c.write()
		time.Sleep(20 * time.Second)
		c.wants("a hook hangs", "", "")
		time.Sleep(15 * time.Second)
		c.wants("a hook hangs for long", "deciding: gone round", "deciding: gone round")
		close(stuck)
		time.Sleep(time.Second)
		c.wants("the hook returned", "", "")
		c.stop()
		<-c.returned
	})
}

// The loop that looks after the lanes is watched as well: a standby has no other.
func TestAStandbyThatDecidesNothingIsNotAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := make(chan struct{})
		c := admit(t, relay.Hooks{OnError: func(relay.Lane, error) { <-stuck }})
		lane := relay.Lane{Destination: relay.DefaultDestination, Of: 1}
		if _, err := c.database.Store.Acquire(t.Context(), lane, "leader", 24*time.Hour); err != nil {
			t.Fatal(err)
		}
		c.run()
		time.Sleep(time.Hour)
		c.probes.Ready()
		synctest.Wait()
		c.wants("standby", "", "")
		c.database.set(errors.New("connection refused"), false)
		time.Sleep(time.Minute)
		c.wants("a hook hangs", "deciding: gone round", "deciding: gone round")
		close(stuck)
		c.stop()
		<-c.returned
	})
}

// deaf is a relay whose broker can't be asked: its publisher doesn't notice that a context has ended.
type deaf struct{ asked chan struct{} }

func (deaf) Report() relay.Report {
	return relay.Report{State: relay.Standby, Lanes: []relay.LaneReport{{}}, Vitals: relay.Vitals{Running: true, Store: relay.Contact{At: time.Now()}}}
}

func (d deaf) CheckBroker(context.Context) error { <-d.asked; return nil }

func TestAProbeDoesNotWaitForABrokerThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := deaf{make(chan struct{})}
		probes := health.New(health.Config{}, d)
		probes.Ready()
		for range 3 {
			time.Sleep(time.Minute)
			began := time.Now()
			verdict := probes.Ready()
			if verdict.OK || !strings.Contains(fmt.Sprint(verdict), "no answer within 10s") || time.Since(began) > 0 {
				t.Errorf("%+v after %v", verdict, time.Since(began))
			}
		}
		close(d.asked)
		synctest.Wait()
		if verdict := probes.Ready(); !verdict.OK {
			t.Errorf("after it answered: %+v", verdict)
		}
	})
}

func TestAProcessThatNeverCallsRunIsNotAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := admit(t, relay.Hooks{})
		time.Sleep(time.Minute)
		c.wants("forgotten", "running: wasn't called", "running: starting")
	})
}

func TestMistakesAreExplained(t *testing.T) {
	defer func() {
		err := fmt.Sprint(recover())
		for _, want := range []string{"StallAfter is -1ns", "CheckInterval is -2ns", "CheckTimeout is -3ns", "no relay"} {
			if !strings.Contains(err, want) {
				t.Errorf("%q isn't in %s", want, err)
			}
		}
	}()
	health.New(health.Config{StallAfter: -1, CheckInterval: -2, CheckTimeout: -3})
}

func TestProbesAreOnlyRead(t *testing.T) {
	c := admit(t, relay.Hooks{})
	answer := httptest.NewRecorder()
	c.probes.LiveHandler().ServeHTTP(answer, httptest.NewRequest("POST", "/healthz", nil))
	if answer.Code != http.StatusMethodNotAllowed || answer.Header().Get("Allow") == "" {
		t.Errorf("POST: %d", answer.Code)
	}
}

// Package health answers the probes of an orchestrator about relays: alive, and ready.
//
//	probes := health.New(health.Config{}, r)
//	mux.Handle("/healthz", probes.LiveHandler())
//	mux.Handle("/readyz", probes.ReadyHandler())
//
// Alive means that the relay makes decisions: Run runs, and its loops go round. It doesn't depend on any server, since restarting
// a process doesn't mend those. Ready means that the relay does what it is there for, or would at once: it leads or
// stands by, the database and the broker can be reached, and the broker takes events. A standby, which doesn't talk to
// the broker, is made to connect to it now and then.
//
// Both answer 200 or 503 with a [Verdict] as JSON: each condition with the reason why it holds or doesn't.
package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/surepost/surepost/relay"
)

// Relay is a relay.Relay.
type Relay interface {
	Report() relay.Report
	CheckBroker(ctx context.Context) error
}

var _ Relay = (*relay.Relay)(nil)

// Config configures [New]. Its zero value works.
type Config struct {
	// StallAfter is how long a loop may go without a decision, and a process without calling Run, until it counts as dead.
	// Default 30 s: a loop goes round at least once a second, and a pause of the machine must not cost a restart.
	StallAfter time.Duration

	// CheckInterval is how often a relay that stands by, and is asked whether it is ready, tries whether it could publish: it
	// opens a session with the broker and closes it. Default 30 s.
	CheckInterval time.Duration

	// CheckTimeout is how long such a try may take. Default 10 s.
	CheckTimeout time.Duration
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		value     *time.Duration
		byDefault time.Duration
	}{{&c.StallAfter, 30 * time.Second}, {&c.CheckInterval, 30 * time.Second}, {&c.CheckTimeout, 10 * time.Second}} {
		if *d.value == 0 {
			*d.value = d.byDefault
		}
	}
	return c
}

func (c Config) validate() error {
	var errs []error
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"StallAfter", c.StallAfter}, {"CheckInterval", c.CheckInterval}, {"CheckTimeout", c.CheckTimeout}} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("health: Config.%s is %v: use a positive time, or 0 for the default", d.name, d.value))
		}
	}
	return errors.Join(errs...)
}

// Verdict is the answer to a probe.
type Verdict struct {
	OK         bool        `json:"ok"` // all conditions hold
	Conditions []Condition `json:"conditions"`
}

// Condition is one thing that must hold.
type Condition struct {
	// Name is "running" or "deciding", and for readiness also "leading", "database", "broker" or "unblocked". It never
	// changes.
	Name string `json:"name"`
	// Destination is the relay's.
	Destination string `json:"destination"`
	OK          bool   `json:"ok"`
	Reason      string `json:"reason"` // why it holds or doesn't, for people
}

// Probes judge relays. They are safe for concurrent use.
type Probes struct {
	config Config
	made   time.Time
	relays []*patient
}

// New returns probes of the relays. It panics if the config has a negative time, or without a relay: both are mistakes in
// the program.
func New(config Config, relays ...Relay) *Probes {
	config = config.withDefaults()
	err := config.validate()
	if len(relays) == 0 {
		err = errors.Join(err, errors.New("health: no relay: pass the relays that the process runs"))
	}
	if err != nil {
		panic(err)
	}
	p := &Probes{config: config, made: time.Now()}
	for _, r := range relays {
		p.relays = append(p.relays, &patient{relay: r, config: config})
	}
	return p
}

// Live says whether the process makes decisions. It asks no server.
func (p *Probes) Live() Verdict {
	return p.judge(func(_ *patient, report relay.Report) []Condition {
		return []Condition{p.running(report), p.deciding(report)}
	})
}

// Ready says whether the relays do what they are there for. It doesn't wait for any server.
func (p *Probes) Ready() Verdict {
	return p.judge(func(of *patient, report relay.Report) []Condition {
		return []Condition{inService(report), p.deciding(report), leading(report), database(report), of.broker(report), unblocked(report)}
	})
}

func (p *Probes) judge(conditions func(*patient, relay.Report) []Condition) Verdict {
	verdict := Verdict{OK: true}
	for _, of := range p.relays {
		report := of.relay.Report()
		for _, c := range conditions(of, report) {
			c.Destination = report.Destination
			verdict.OK = verdict.OK && c.OK
			verdict.Conditions = append(verdict.Conditions, c)
		}
	}
	return verdict
}

// LiveHandler serves Live, for /healthz.
func (p *Probes) LiveHandler() http.Handler { return handler(p.Live) }

// ReadyHandler serves Ready, for /readyz.
func (p *Probes) ReadyHandler() http.Handler { return handler(p.Ready) }

func handler(judge func() Verdict) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "use GET", http.StatusMethodNotAllowed)
			return
		}
		verdict := judge()
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if !verdict.OK {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(verdict) // whoever asked has gone
	})
}

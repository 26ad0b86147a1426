package health

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/surepost/surepost/relay"
)

func condition(name string, ok bool, reason string, args ...any) Condition {
	return Condition{Name: name, OK: ok, Reason: fmt.Sprintf(reason, args...)}
}

// running is the condition of life: Run was called, and returns only when it was asked to.
func (p *Probes) running(report relay.Report) Condition {
	const name = "running"
	v := report.Vitals
	waited := time.Since(p.made)
	switch {
	case v.Running && v.Stopping:
		return condition(name, true, "Run is coming to its end, as it was asked to")
	case v.Running:
		return condition(name, true, "Run runs since %s", v.StartedAt.UTC().Format(time.RFC3339))
	case v.Err != nil:
		return condition(name, false, "Run has ended: %v", v.Err)
	case !v.StartedAt.IsZero():
		return condition(name, true, "Run has ended, as it was asked to")
	case waited < p.config.StallAfter:
		return condition(name, true, "starting: Run wasn't called yet")
	}
	return condition(name, false, "Run wasn't called within %v", p.config.StallAfter)
}

// deciding holds as long as the loops go round that publish.
func (p *Probes) deciding(report relay.Report) Condition {
	const name = "deciding"
	v := report.Vitals
	switch silent := time.Since(v.DecidedAt); {
	case v.DecidedAt.IsZero():
		return condition(name, true, "there is nothing to be decided: Run doesn't run")
	case v.Stopping: // it waits for the broker, for Config.ShutdownTimeout
		return condition(name, true, "stopping")
	case silent > p.config.StallAfter:
		return condition(name, false, "a loop of the relay hasn't gone round for %v: a hook that doesn't return? restart the process, "+
			"and report it with a goroutine dump", silent.Round(time.Second))
	}
	return condition(name, true, "the relay's loops go round")
}

// inService is the condition of readiness that Run runs and goes on.
func inService(report relay.Report) Condition {
	const name = "running"
	v := report.Vitals
	switch {
	case v.Running && v.Stopping:
		return condition(name, false, "stopping: Run is coming to its end, as it was asked to")
	case v.Running:
		return condition(name, true, "Run runs since %s", v.StartedAt.UTC().Format(time.RFC3339))
	case v.Err != nil:
		return condition(name, false, "halted: Run has ended: %v", v.Err)
	case v.StartedAt.IsZero():
		return condition(name, false, "starting: Run wasn't called yet")
	}
	return condition(name, false, "stopped: Run has ended, as it was asked to")
}

func leading(report relay.Report) Condition {
	const name = "leading"
	led := 0
	for _, l := range report.Lanes {
		if l.State == relay.Leading {
			led++
		}
	}
	switch {
	case led > 0:
		return condition(name, true, "leads %d of %d lanes", led, len(report.Lanes))
	case report.State == relay.Standby && len(report.Lanes) > 0:
		return condition(name, true, "stands by for %d lanes", len(report.Lanes))
	}
	return condition(name, false, "neither leads nor stands by yet")
}

func database(report relay.Report) Condition {
	const name = "database"
	v := report.Vitals
	switch {
	case v.Store.Err != nil:
		return condition(name, false, "%v", v.Store.Err)
	case v.Store.At.IsZero():
		return condition(name, false, "it hasn't answered yet")
	}
	return condition(name, true, "answered %v ago", time.Since(v.Store.At).Round(time.Millisecond))
}

func unblocked(report relay.Report) Condition {
	const name = "unblocked"
	if report.Blocked {
		return condition(name, false, "the broker asked to send nothing: %s", report.BlockedReason)
	}
	return condition(name, true, "the broker hasn't asked to send nothing")
}

// patient is a relay that is examined.
type patient struct {
	relay  Relay
	config Config

	mu       sync.Mutex
	checking bool
	begun    time.Time // of the last check
	checked  time.Time // when it ended
	err      error     // what came of it
}

// broker holds if there is a session with the broker or, on standby, if one could be opened lately.
func (p *patient) broker(report relay.Report) Condition {
	const name = "broker"
	v := report.Vitals
	switch {
	case report.State == relay.Leading && v.Broker.Err != nil:
		return condition(name, false, "%v", v.Broker.Err)
	case report.State == relay.Leading && v.Sessions == 0:
		return condition(name, false, "a session is being opened")
	case report.State == relay.Leading:
		return condition(name, true, "a session is open")
	case !v.Running:
		return condition(name, false, "nobody has tried it, since the relay doesn't run")
	}
	return p.standby(name)
}

func (p *patient) standby(name string) Condition {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.checking && time.Since(p.begun) >= p.config.CheckInterval {
		p.checking, p.begun = true, time.Now()
		go p.check()
	}
	switch {
	case p.checking && time.Since(p.begun) > p.config.CheckTimeout:
		return condition(name, false, "no answer within %v, while standing by", p.config.CheckTimeout)
	case p.checked.IsZero():
		return condition(name, false, "it is being tried for the first time, while standing by")
	case p.err != nil:
		return condition(name, false, "a try while standing by failed: %v", p.err)
	}
	return condition(name, true, "a session could be opened %v ago, while standing by", time.Since(p.checked).Round(time.Second))
}

func (p *patient) check() {
	ctx, cancel := context.WithTimeout(context.Background(), p.config.CheckTimeout)
	defer cancel()
	err := p.relay.CheckBroker(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.checking, p.checked, p.err = false, time.Now(), err
}

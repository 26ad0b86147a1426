package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// releasedEvery is how often the relay looks for parked events that an operator wants to be tried again.
const releasedEvery = time.Second

// closeTimeout bounds the closing of a connection to the database whose work is done or given up.
const closeTimeout = 2 * time.Second

// run opens the log and a session and publishes until one of them fails, the lease is lost (held ends), or stop ends
// and what was read is settled.
func (r *leader) run(stop, held context.Context, lease Lease, keeper *keeper, suspects *suspects, log *slog.Logger) error {
	// Everything of this run ends with it, and nothing begins after stop.
	ctx, cancel := context.WithCancelCause(held)
	defer cancel(nil)
	opening, opened := context.WithCancel(ctx)
	defer opened()
	defer context.AfterFunc(stop, opened)()

	// The lease is renewed on a connection of its own: without a limit here, a log that hangs would keep the lane
	// from others for ever.
	reading, read := context.WithTimeout(opening, r.config.LeaseTTL)
	defer read()
	l, err := within(reading, func(ctx context.Context) (Log, error) { return r.store.Open(ctx, lease) }, closeLog)
	r.vitals.store(err)
	if err != nil {
		return fmt.Errorf("relay: open the log: %w", err)
	}
	clerk := newClerk(ctx, l, r.config.LeaseTTL)
	defer clerk.close()
	keys, err := clerk.parkedKeys(reading)
	r.vitals.store(err)
	if err != nil {
		return fmt.Errorf("relay: read the parked keys: %w", err)
	}
	session, err := r.publisher.Open(opening)
	r.vitals.broker(err)
	if err != nil {
		return err
	}
	r.update(func(rp *LaneReport) { rp.Sessions++ })
	defer r.vitals.session()()
	if h := r.config.Hooks.OnSession; h != nil {
		h(r.lane)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second) // in good order it was closed before
		defer cancel()
		_ = session.Close(closing)
	}()

	p := &pump{
		relay: r, keeper: keeper, suspects: suspects, log: log, clerk: clerk, session: session,
		stream: newStream(r.config.policy(r.chance.Float64), suspects, keys), poll: r.config.PollBusy,
		eventBytes: r.config.BufferBytes / (3 * r.config.PageEvents), // begin with a small page: who knows how large they are
		pulse:      r.vitals.begin(),
	}
	err = p.loop(ctx, stop)
	r.vitals.end(p.pulse)
	if lost := session.Err(); err != nil && lost != nil {
		r.vitals.broker(lost)
	}
	if p.blocked {
		p.tellBlocked(false, "") // of this session: the next one may know better
	}
	if errors.Is(err, ErrRefused) {
		suspects.refused(p.stream.inFlight(), p.stream.proven || errors.Is(err, ErrUnpublishable), err.Error())
	}
	return errors.Join(err, p.flush(ctx))
}

// pump moves entries from the log to the session. It is one goroutine, which owns the stream and the session; the log
// belongs to the clerk.
type pump struct {
	relay    *leader
	keeper   *keeper
	suspects *suspects
	log      *slog.Logger
	clerk    *clerk
	session  Session
	stream   *stream

	window, page int
	eventBytes   int           // of an event's data, in recent pages
	poll         time.Duration // the next wait for news
	blocked      bool          // the broker wants nothing, as last told
	heldSince    time.Time     // nothing but held entries is left to be sent
	pacedUntil   time.Time     // more could be sent, and must wait until then for the rate's sake

	reading       bool
	woken         bool // since the last read was asked for
	logFailed     bool // the log is of no use any more
	exhausted     bool // the last read left nothing
	ended         bool // the last read found the log's end
	lastLook      bool // for released events is under way, with nothing else left to be done
	done          bool // it found none
	readAt        time.Time
	storing       bool
	storedAt      time.Time
	pending       settlement // taken off the stream, not stored yet
	passed        Position   // all that was read before it is settled, and was taken off the stream; nil for none
	releasedAt    time.Time
	draining      bool // stop has ended: nothing more is read
	drainDeadline time.Time

	pulse    *pulse
	observed []Settled // for Hooks.OnSettled
}

func (p *pump) loop(ctx, stop context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	stopped := stop.Done()
	for {
		now := time.Now()
		p.pulse.beat(now)
		p.window, p.page = p.suspects.window(p.relay.config.WindowEvents, p.relay.config.PageEvents)
		if !p.keeper.valid() {
			return ErrLeaseLost
		}
		if err := p.send(ctx, now); err != nil {
			return err
		}
		p.reconsider(now)
		if p.done {
			p.drainDeadline = now.Add(p.relay.config.ShutdownTimeout)
			return errors.Join(errDone, p.finish(ctx))
		}
		p.ask(now)
		if p.draining && (p.drained() || !now.Before(p.drainDeadline)) {
			return p.finish(ctx)
		}
		blocked, reason, blockedChanged := p.session.Blocked()
		p.noteBlocked(blocked, reason)
		timer.Reset(time.Until(p.due(now, blocked)))

		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-stopped:
			stopped = nil
			p.draining, p.drainDeadline = true, time.Now().Add(p.relay.config.ShutdownTimeout)
		case batch, ok := <-p.session.Outcomes():
			if !ok {
				return p.sessionEnded()
			}
			if err := p.settle(batch); err != nil {
				return err
			}
		case result := <-p.clerk.results:
			if err := p.take(result); err != nil {
				return err
			}
		case <-p.relay.wake:
			p.woken, p.readAt, p.poll = true, time.Time{}, p.relay.config.PollBusy
		case <-blockedChanged:
		case <-timer.C:
		}
	}
}

// errDone says that the log has ended and everything before its end is settled.
var errDone = errors.New("relay: the log has ended")

// send hands over what may be sent.
func (p *pump) send(ctx context.Context, now time.Time) error {
	p.pacedUntil = time.Time{}
	if blocked, _, _ := p.session.Blocked(); blocked {
		return nil
	}
	for len(p.stream.flying) < p.window {
		allowed, again := p.relay.pace.take(now)
		if !allowed {
			p.pacedUntil = again
			return nil
		}
		tag, entry := p.stream.next(now)
		if entry == nil {
			p.relay.pace.giveBack()
			return p.stream.halted
		}
		if err := p.session.Send(ctx, tag, entry); err != nil {
			if cause := p.session.Err(); cause != nil {
				return cause
			}
			return err
		}
	}
	return nil
}

// reconsider lets held events be tried where nothing else is there to be published that could show whose fault it is.
func (p *pump) reconsider(now time.Time) {
	switch {
	case len(p.stream.held) == 0 || len(p.stream.flying) > 0:
		p.heldSince = time.Time{}
	case p.heldSince.IsZero():
		p.heldSince = now
	case now.Sub(p.heldSince) >= p.relay.config.BackoffMax:
		p.stream.release()
		p.heldSince = time.Time{}
	}
}

// ask gives the clerk work: reading on, storing what was settled, looking for released events.
func (p *pump) ask(now time.Time) {
	config := &p.relay.config
	if !p.storing {
		p.pending = p.pending.join(p.stream.settled())
		if p.passed != nil && now.Sub(p.storedAt) >= passedEvery {
			p.pass()
		}
		if !p.pending.empty() && (p.pending.urgent() || now.Sub(p.storedAt) >= config.CheckpointInterval) {
			p.store(now)
		}
	}
	if p.draining || p.reading {
		return
	}
	nothingLeft := p.ended && !p.storing && p.pending.empty() && len(p.stream.pages) == 0
	if (nothingLeft || now.Sub(p.releasedAt) >= releasedEvery) && !p.stream.releasing() {
		p.reading, p.releasedAt, p.lastLook = true, now, nothingLeft
		p.clerk.released(p.limit())
		return
	}
	if !p.ended && p.stream.room(p.limit(), config) && !now.Before(p.readAt) {
		p.reading, p.woken = true, false
		p.clerk.read(p.limit())
	}
}

// passedEvery is how often a lane without events stores how far it has looked, where others have some: retention goes no
// further than the lane furthest behind, and new lanes begin there.
const passedEvery = 5 * time.Second

// pass adds to what is to be stored how far the lane has looked.
func (p *pump) pass() {
	p.pending, p.passed = p.pending.join(settlement{at: p.passed}), nil
}

// store gives the clerk what was settled.
func (p *pump) store(now time.Time) {
	p.storing, p.storedAt = true, now
	p.clerk.store(p.pending)
	p.pending = settlement{}
}

// limit returns how many events to read at once: a few where a page like the last ones would take more than a quarter
// of the buffer.
func (p *pump) limit() int {
	if p.eventBytes*p.page > p.relay.config.BufferBytes/4 {
		return min(p.page, 16)
	}
	return p.page
}

// due returns when there is something to do that no channel tells.
func (p *pump) due(now time.Time, blocked bool) time.Time {
	due := now.Add(time.Second) // the lease and held entries are looked at anyway
	sooner := func(t time.Time) {
		if !t.IsZero() && t.Before(due) {
			due = t
		}
	}
	if !blocked && len(p.stream.flying) < p.window {
		sooner(p.stream.wakeAt())
		sooner(p.pacedUntil)
	}
	if !p.reading && !p.draining {
		if !p.ended && p.stream.room(p.limit(), &p.relay.config) {
			sooner(p.readAt)
		}
		if !p.stream.releasing() {
			sooner(p.releasedAt.Add(releasedEvery))
		}
	}
	if !p.storing && !p.pending.empty() {
		sooner(p.storedAt.Add(p.relay.config.CheckpointInterval))
	}
	if p.draining {
		sooner(p.drainDeadline)
	}
	return due
}

// settle takes in outcomes.
func (p *pump) settle(batch []Outcome) error {
	now := time.Now()
	confirmed, retries := 0, 0
	for _, o := range batch {
		p.observe(o, now)
		entry, again, err := p.stream.settle(o, now)
		if err != nil {
			return err
		}
		switch {
		case again:
			retries++
			p.log.Debug("the broker didn't take the event: it will be sent again", "event", entry.Event.ID, "type", entry.Event.Type, "outcome", o.Status, "reason", o.Reason, traceOf(&entry.Event))
			if h := p.relay.config.Hooks.OnRetry; h != nil {
				h(p.relay.lane, *entry, o)
			}
		case o.Status == Refused || o.Status == Unroutable && p.relay.config.Unroutable == ParkUnroutable:
		default:
			confirmed++
		}
		p.suspects.settled(entry)
	}
	p.relay.update(func(rp *LaneReport) {
		rp.Published += int64(confirmed)
		rp.Retries += int64(retries)
		rp.InFlight, rp.Open = len(p.stream.flying), p.stream.open
	})
	if confirmed > 0 {
		p.relay.failing.Store(false)
	}
	if h := p.relay.config.Hooks.OnPublished; h != nil && confirmed > 0 {
		h(p.relay.lane, confirmed)
	}
	p.tellObserved()
	return p.stream.halted
}

// take takes in what the clerk has done.
func (p *pump) take(result clerkResult) error {
	p.relay.vitals.store(result.err)
	if result.err != nil {
		p.logFailed = true
		return result.err
	}
	now := time.Now()
	switch result.of {
	case clerkRead:
		p.reading = false
		p.stream.add(result.page)
		if n := len(result.page.Entries); n > 0 {
			size := 0
			for i := range result.page.Entries {
				size += result.page.Entries[i].bytes()
			}
			p.eventBytes = max(size/n, p.eventBytes*7/8) // soon small after a large one, slowly large again
			if h := p.relay.config.Hooks.OnRead; h != nil {
				h(p.relay.lane, n, result.page.Stragglers)
			}
		}
		p.exhausted, p.ended = !result.page.Full, result.page.Done
		if p.passed = nil; p.relay.lane.Of > 1 && len(p.stream.pages) == 0 {
			p.passed = result.page.After
		}
		if p.exhausted && p.stream.open == 0 {
			p.relay.failing.Store(false)
			p.suspects.clear() // whatever was in flight has been settled, or isn't there any more
		}
		switch {
		case result.page.Full, p.woken: // what was committed after the read may be there
			p.readAt = now
			p.poll = p.relay.config.PollBusy
		case len(result.page.Entries) > 0:
			p.poll = p.relay.config.PollBusy
			p.readAt = now.Add(p.poll)
		default:
			p.readAt = now.Add(p.poll)
			p.poll = min(p.poll*5/4, p.relay.config.PollIdle)
		}
		p.relay.update(func(rp *LaneReport) {
			rp.Reads++
			rp.Stragglers += int64(result.page.Stragglers)
			rp.Open = p.stream.open
			rp.CaughtUp = p.exhausted && p.stream.open == 0
		})
	case clerkReleased:
		p.reading = false
		if len(result.entries) > 0 {
			p.stream.addReleased(result.entries)
		}
		p.done = p.lastLook && len(result.entries) == 0
	case clerkStored:
		p.storing = false
		p.stream.unparked(result.clear)
		p.noteParked(result.stored)
		if len(result.stored.keys) > 0 { // more of these keys may have been waiting
			p.releasedAt = time.Time{}
		}
		p.relay.update(func(rp *LaneReport) { rp.CaughtUp = p.exhausted && p.stream.open == 0 })
	}
	return nil
}

func (p *pump) noteParked(s settlement) {
	for _, parked := range append(s.parked, s.again...) {
		p.log.Error("event parked", "event", parked.Event.ID, "type", parked.Event.Type, "key", parked.Event.Key, "seq", parked.Seq, "reason", parked.Reason, "behind", parked.Behind, traceOf(&parked.Event))
		if h := p.relay.config.Hooks.OnParked; h != nil {
			h(p.relay.lane, parked)
		}
	}
	if len(s.parked) > 0 {
		p.relay.update(func(rp *LaneReport) { rp.Parked += int64(len(s.parked)) })
	}
}

func (p *pump) noteBlocked(blocked bool, reason string) {
	if blocked == p.blocked {
		return
	}
	if blocked {
		p.log.Warn("the broker asked to send nothing", "reason", reason)
	} else {
		p.log.Info("the broker takes events again")
	}
	p.tellBlocked(blocked, reason)
}

func (p *pump) tellBlocked(blocked bool, reason string) {
	p.blocked = blocked
	p.relay.update(func(rp *LaneReport) { rp.Blocked, rp.BlockedReason = blocked, reason })
	if h := p.relay.config.Hooks.OnBlocked; h != nil {
		h(p.relay.lane, blocked, reason)
	}
}

func (p *pump) sessionEnded() error {
	if err := p.session.Err(); err != nil {
		return err
	}
	return errors.New("relay: the session with the broker ended")
}

// drained reports whether nothing is left that could be settled soon.
func (p *pump) drained() bool {
	onlyWaiting := len(p.stream.flying) == 0 && p.stream.ready.head == len(p.stream.ready.items)
	return onlyWaiting && !p.reading && !p.storing
}

// finish closes the session in good order.
func (p *pump) finish(ctx context.Context) error {
	closing, cancel := context.WithDeadline(ctx, p.drainDeadline)
	defer cancel()
	return p.session.Close(closing)
}

// flush stores how far the pump came, so that as little as possible is published again. It does nothing where the log
// or the lease has failed: the older checkpoint stands, and is as true.
func (p *pump) flush(ctx context.Context) error {
	if ctx.Err() != nil || p.logFailed || !p.keeper.valid() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	for {
		if !p.storing {
			p.pending = p.pending.join(p.stream.settled())
			if p.passed != nil {
				p.pass()
			}
			if p.pending.empty() {
				return nil
			}
			p.store(time.Now())
		}
		select {
		case result := <-p.clerk.results:
			if err := p.take(result); err != nil {
				return err
			}
		case <-ctx.Done():
			return fmt.Errorf("relay: the last checkpoint wasn't stored in time: %w", ctx.Err())
		}
	}
}

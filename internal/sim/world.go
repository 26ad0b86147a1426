package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// World is one run. Its methods are safe for concurrent use. Those that wait until no effect takes place can't be called by what
// an effect or Look runs: that has Detail, FailIn and NoteIn instead.
type World struct {
	seed  uint64
	start time.Time

	mu      sync.Mutex // held while an effect takes place
	rates   Rates
	calm    bool
	counts  map[uint64]uint64 // how often an effect of a name was asked for
	due     map[time.Duration]struct{}
	until   time.Duration // when the last fault is over
	faults  []Fault
	allowed func(id uint64) bool
	failure error
	trace   trace
	late    sync.WaitGroup // effects whose callers gave up
}

// Rates say how often effects go wrong, as parts of 1, and how long they take.
type Rates struct {
	Before float64 // fail, and didn't take place
	After  float64 // fail, and did
	Slow   float64 // take up to SlowMost

	// Latency is how long an effect takes in most cases, at most. Default 2 ms.
	Latency time.Duration
	// SlowMost is how long a slow one takes at most. Default 5 s.
	SlowMost time.Duration
}

// Fault is something that went wrong because the seed said so.
type Fault struct {
	ID   uint64
	At   time.Duration
	What string
}

// ErrInjected is the error of an effect that failed because the seed said so.
var ErrInjected = errors.New("injected fault")

// ErrKilled is the error of whatever a killed actor tries.
var ErrKilled = errors.New("the process was killed")

func newWorld(seed uint64, allowed func(uint64) bool) *World {
	return &World{
		seed: seed, start: time.Now(), allowed: allowed,
		counts: map[uint64]uint64{}, due: map[time.Duration]struct{}{},
	}
}

// Seed returns what decides the run.
func (w *World) Seed() uint64 { return w.seed }

// Now returns how long the run has lasted, in its own time.
func (w *World) Now() time.Duration { return time.Since(w.start) }

// Rand returns a source of randomness of its own for what it is named after: what is drawn from others doesn't change it.
func (w *World) Rand(name string) *rand.Rand {
	return rand.New(rand.NewPCG(w.seed, hash(name)))
}

// SetRates says how often effects go wrong from now on. Without it nothing does.
func (w *World) SetRates(r Rates) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rates = r
}

// Calm ends the faults: none begins after it. It returns when the last one is over, which may be after now.
func (w *World) Calm() (over time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calm = true
	return w.until
}

// Strike reports whether something is to go wrong now that has the probability p, and will be over after lasting. It is one of
// the run's faults: a shorter story may leave it out.
func (w *World) Strike(what string, p float64, lasting time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.draws(hash(what))
	if w.calm || d.float() >= p {
		return false
	}
	return w.strike(d.id(1), lasting, what)
}

// strike notes a fault, unless it is to be left out. The caller holds mu.
func (w *World) strike(id uint64, lasting time.Duration, what string) bool {
	if !w.allowed(id) {
		return false
	}
	now := w.Now()
	w.until = max(w.until, now+lasting)
	w.faults = append(w.faults, Fault{id, now, what})
	return true
}

// Fail says that a promise was broken. The first one counts.
func (w *World) Fail(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.FailIn(format, args...)
}

// FailIn is Fail for an effect while it takes place, or for what Look runs.
func (w *World) FailIn(format string, args ...any) {
	if w.failure != nil {
		return
	}
	w.failure = fmt.Errorf(format, args...)
	w.trace.note(w.Now(), "", "BROKEN: "+w.failure.Error())
}

// Failed reports whether a promise was broken, so that a run can end early.
func (w *World) Failed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failure != nil
}

// Note adds a line to the trace. The arguments are formatted when it is printed, so they must not change.
func (w *World) Note(who, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.NoteIn(who, format, args...)
}

// NoteIn is Note for an effect while it takes place, or for what Look runs.
func (w *World) NoteIn(who, format string, args ...any) { w.trace.note(w.Now(), who, format, args...) }

// Detail adds to the trace's line of the effect that takes place: only that effect may call it. The arguments are formatted
// when it is printed, so they must not change.
func (w *World) Detail(format string, args ...any) { w.trace.detail(format, args...) }

// Look runs what looks at the simulated servers from outside, or changes them, while no effect takes place. It takes no time.
func (w *World) Look(look func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	look()
}

// Actor is a process of the world, or a server in it.
type Actor struct {
	w     *World
	name  string
	hash  uint64
	until time.Duration // paused; under w.mu
	dead  chan struct{}
	once  sync.Once
}

// Actor returns an actor of that name. One that was killed is started again by making another of its name.
func (w *World) Actor(name string) *Actor {
	return &Actor{w: w, name: name, hash: hash(name), dead: make(chan struct{})}
}

// Name returns the actor's name.
func (a *Actor) Name() string { return a.name }

// Pause stops the actor for d, as by SIGSTOP: its effects take place after that. Its timers run on, as they will have run out
// when a real process goes on.
func (a *Actor) Pause(d time.Duration) {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	now := a.w.Now()
	a.until = max(a.until, now+d)
	a.w.trace.note(now, a.name, "is paused for %v", d)
}

// Kill ends the actor: nothing that it does takes place any more, except what was on its way and gets through.
func (a *Actor) Kill() {
	a.once.Do(func() {
		a.w.Note(a.name, "is killed")
		close(a.dead)
	})
}

// Killed is closed once the actor was killed.
func (a *Actor) Killed() <-chan struct{} { return a.dead }

// Do has an effect on the world: effect takes place, or doesn't, as [World] decides, and its result is returned. what names it
// in the trace, and on what it is done to, if anything; both decide what is drawn for it. It returns early if ctx ends, with
// its cause; effect may take place afterwards all the same, and so must read nothing that the caller goes on to change, and leave
// nothing in the caller's memory but its result.
func Do[T any](ctx context.Context, a *Actor, what, on string, effect func() (T, error)) (T, error) {
	w := a.w
	var none T
	select {
	case <-a.dead:
		return none, ErrKilled
	default:
	}
	if ctx.Err() != nil {
		return none, context.Cause(ctx)
	}
	f := w.fate(a, what, on)
	if err := a.wait(ctx, f.due); err != nil {
		if f.anyway { // the request was on its way
			due, _ := a.delay(f.due)
			w.late.Go(func() {
				time.Sleep(due - w.Now())
				w.mu.Lock()
				defer w.mu.Unlock()
				w.trace.begin(w.Now(), a.name, what, on)
				_, err := effect()
				w.trace.end(err, "its caller had gone")
			})
		}
		return none, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.trace.begin(w.Now(), a.name, what, on)
	if f.before {
		w.trace.end(ErrInjected, "it didn't take place")
		return none, ErrInjected
	}
	result, err := effect()
	if f.after {
		w.trace.end(err, "it took place, and its caller was told that it failed")
		return none, ErrInjected
	}
	w.trace.end(err, "")
	return result, err
}

// wait waits until the instant at which an effect is due, or later if the actor is paused then.
func (a *Actor) wait(ctx context.Context, due time.Duration) error {
	timer := time.NewTimer(due - a.w.Now())
	defer timer.Stop()
	for {
		select {
		case <-a.dead:
			return ErrKilled
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
		}
		later, paused := a.delay(due)
		if !paused {
			return nil
		}
		due = later
		timer.Reset(due - a.w.Now())
	}
}

// delay returns when what is due takes place: after the actor's pause, if it is paused then.
func (a *Actor) delay(due time.Duration) (later time.Duration, paused bool) {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	if a.until <= due {
		return due, false
	}
	return a.w.instant(a.until + due%time.Millisecond), true
}

// fate is what the seed says of an effect.
type fate struct {
	due           time.Duration
	before, after bool
	anyway        bool // it takes place though its caller gave up
}

func (w *World) fate(a *Actor, what, on string) (f fate) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := w.draws(a.hash ^ hash(what)*3 ^ hash(on)*5)
	most := w.rates.Latency
	if most == 0 {
		most = 2 * time.Millisecond
	}
	takes := 50*time.Microsecond + time.Duration(d.float()*float64(most))
	f.anyway = d.float() < 0.5
	wrong := d.float()
	slowly := d.float()
	if !w.calm {
		name := func(kind string) string { return a.name + ": " + what + " " + on + " " + kind }
		switch r := w.rates; {
		case wrong < r.Before:
			f.before = w.strike(d.id(2), 0, name("fails before it takes place"))
		case wrong < r.Before+r.After:
			f.after = w.strike(d.id(3), 0, name("fails after it took place"))
		case wrong < r.Before+r.After+r.Slow:
			slow := r.SlowMost
			if slow == 0 {
				slow = 5 * time.Second
			}
			longer := time.Duration(slowly * slowly * float64(slow))
			if w.strike(d.id(4), longer, name("takes "+longer.Round(time.Millisecond).String())) {
				takes += longer
			}
		}
	}
	f.due = w.instant(w.Now() + takes)
	return f
}

// instant returns an instant that is nobody else's, at or after d. The caller holds mu.
func (w *World) instant(d time.Duration) time.Duration {
	for {
		if _, taken := w.due[d]; !taken {
			w.due[d] = struct{}{}
			return d
		}
		d++
	}
}

// draws are the random numbers of the nth time that something of a name happens.
type draws struct{ first, state uint64 }

// draws returns the next draws for a name. The caller holds mu.
func (w *World) draws(name uint64) *draws {
	n := w.counts[name]
	w.counts[name] = n + 1
	d := &draws{state: w.seed*0x9e3779b97f4a7c15 ^ name + n*0xd1342543de82ef95}
	d.first = d.next()
	return d
}

// next is SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014).
func (d *draws) next() uint64 {
	d.state += 0x9e3779b97f4a7c15
	z := d.state
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// float returns a number in [0,1).
func (d *draws) float() float64 { return float64(d.next()>>11) / (1 << 53) }

// id returns the identity of a fault of that kind.
func (d *draws) id(kind uint64) uint64 { return (d.first + kind) >> 24 } // 40 bits: short enough to type

// hash is FNV-1a.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

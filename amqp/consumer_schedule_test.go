package amqp

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/surepost/surepost"
)

// scheduleModel drives a schedule by random steps, and knows by itself what it must do: a queue of numbered messages per
// key, of which a session has delivered some. What a step does is what a dispatcher may do.
type scheduleModel struct {
	t        *testing.T
	random   *rand.Rand
	schedule *schedule
	now      time.Time

	waiting [][]int           // per key: what the broker has yet to deliver, in order
	open    [][]*message      // per key: what the session delivered and wasn't finished, in order
	running [][]*message      // batches
	old     map[*message]bool // those of running batches that an earlier session delivered
	held    []*message
	done    map[string]int
	total   int
}

func newScheduleModel(t *testing.T, seed uint64) *scheduleModel {
	random := rand.New(rand.NewPCG(seed, 7))
	m := &scheduleModel{t: t, random: random, now: time.Unix(0, 0), old: map[*message]bool{}, done: map[string]int{}}
	m.schedule = newSchedule(1+random.IntN(4), 1+random.IntN(6), time.Duration(random.IntN(2)*random.IntN(50)))
	for range 1 + random.IntN(8) {
		var numbers []int
		for n := range 1 + random.IntN(30) {
			numbers = append(numbers, n)
			m.total++
		}
		m.waiting, m.open = append(m.waiting, numbers), append(m.open, nil)
	}
	return m
}

func (m *scheduleModel) key(msg *message) (k int) {
	fmt.Sscanf(msg.event.Key, "key%d", &k)
	return k
}

func (m *scheduleModel) number(msg *message) int { return int(msg.delivery.DeliveryTag) }

// deliver adds a message to the schedule. Some were delivered before, by their looks.
func (m *scheduleModel) deliver() {
	k := m.random.IntN(len(m.waiting))
	if len(m.waiting[k]) == 0 {
		return
	}
	msg := &message{event: surepost.Event{ID: fmt.Sprint(k, "/", m.waiting[k][0]), Key: fmt.Sprint("key", k)}}
	msg.delivery.DeliveryTag = uint64(m.waiting[k][0])
	if m.random.IntN(10) == 0 {
		msg.company = alone
	}
	m.waiting[k] = m.waiting[k][1:]
	m.open[k] = append(m.open[k], msg)
	m.schedule.add(msg)
}

// start takes everything that may start, and checks it.
func (m *scheduleModel) start() {
	for batch := m.schedule.next(); batch != nil; batch = m.schedule.next() {
		m.running = append(m.running, batch)
		if len(m.running) > m.schedule.workers {
			m.t.Fatalf("%d batches at once by %d workers", len(m.running), m.schedule.workers)
		}
		if len(batch) > m.schedule.batchSize {
			m.t.Fatalf("a batch of %d, at most %d are wanted", len(batch), m.schedule.batchSize)
		}
		next := map[int]int{} // per key: how many of it the batch has so far
		for _, msg := range batch {
			if len(batch) > 1 && msg.company != together {
				m.t.Fatalf("%s, which must be alone, is in a batch", msg.event.ID)
			}
			k := m.key(msg)
			if i := slices.Index(m.open[k], msg); i != next[k] {
				m.t.Fatalf("%s was started before %d others of its key", msg.event.ID, i-next[k])
			}
			next[k]++
			for _, other := range m.running[:len(m.running)-1] {
				if slices.ContainsFunc(other, func(o *message) bool { return m.key(o) == k }) {
					m.t.Fatalf("%s was started while its key is handled", msg.event.ID)
				}
			}
			if slices.ContainsFunc(m.held, func(o *message) bool { return m.key(o) == k }) {
				m.t.Fatalf("%s was started while a dead letter of its key is on the way", msg.event.ID)
			}
		}
		suspects := 0
		for _, b := range m.running {
			if b[0].company == suspected {
				suspects++
			}
		}
		if suspects > 1 {
			m.t.Fatalf("%d suspects are handled at once", suspects)
		}
	}
}

// report ends a random batch in a random way.
func (m *scheduleModel) report() {
	if len(m.running) == 0 {
		return
	}
	i := m.random.IntN(len(m.running))
	batch := m.running[i]
	m.running = slices.Delete(m.running, i, i+1)
	m.schedule.free(batch)
	if m.old[batch[0]] {
		for _, msg := range batch {
			m.schedule.finish(msg)
			m.forget(msg)
		}
		return
	}
	switch fate := m.random.IntN(10); {
	case fate < 5:
		for _, msg := range batch {
			if m.random.IntN(8) == 0 {
				m.schedule.hold(msg)
				m.held = append(m.held, msg)
				continue
			}
			m.finish(msg)
		}
	case len(batch) > 1:
		for _, msg := range batch {
			m.schedule.again(msg, alone)
		}
	case fate < 6 && batch[0].company == alone:
		m.schedule.again(batch[0], suspected)
	default:
		m.schedule.pause(batch[0], m.now.Add(time.Duration(m.random.IntN(100))))
	}
}

func (m *scheduleModel) finish(msg *message) {
	m.schedule.finish(msg)
	m.forget(msg)
	if m.done[msg.event.ID]++; m.done[msg.event.ID] > 1 {
		m.t.Fatalf("%s was finished twice", msg.event.ID)
	}
}

func (m *scheduleModel) forget(msg *message) {
	k := m.key(msg)
	m.open[k] = slices.DeleteFunc(m.open[k], func(o *message) bool { return o == msg })
}

func (m *scheduleModel) bury() {
	if len(m.held) == 0 {
		return
	}
	i := m.random.IntN(len(m.held))
	msg := m.held[i]
	m.held = slices.Delete(m.held, i, i+1)
	m.finish(msg)
}

// reconnect ends the session: what it delivered and wasn't finished will be delivered again, in order.
func (m *scheduleModel) reconnect() {
	m.schedule.dropWaiting()
	m.held = nil
	running := slices.Concat(m.running...)
	for k, open := range m.open {
		var back []int
		for _, msg := range open {
			if !m.old[msg] {
				back = append(back, m.number(msg))
			}
		}
		m.waiting[k] = append(back, m.waiting[k]...)
		m.open[k] = slices.DeleteFunc(open, func(msg *message) bool { return !slices.Contains(running, msg) })
	}
	for _, msg := range running {
		m.old[msg] = true
	}
	if got, want := len(m.schedule.handled()), len(running); got != want {
		m.t.Fatalf("%d messages are being handled by the schedule's book, in truth %d", got, want)
	}
}

// tick lets time pass, to the next wake at most where nothing else can happen.
func (m *scheduleModel) tick() {
	m.now = m.now.Add(time.Duration(m.random.IntN(20)))
	m.schedule.wake(m.now)
}

// TestTheScheduleKeepsItsInvariants by random steps with random limits: order per key, nothing handled beside another
// of its key, at most Workers batches at once, nobody in a batch who must be alone, one suspect at a time; and in the
// end everything was handled once, though sessions were lost on the way.
func TestTheScheduleKeepsItsInvariants(t *testing.T) {
	for seed := range uint64(1000) {
		m := newScheduleModel(t, seed)
		steps := []func(){m.deliver, m.deliver, m.deliver, m.start, m.start, m.report, m.bury, m.tick}
		for range 300 {
			steps[m.random.IntN(len(steps))]()
			if m.random.IntN(100) == 0 {
				m.reconnect()
			}
		}
		for round := 0; len(m.done) < m.total; round++ {
			m.deliver()
			m.schedule.wake(m.now)
			m.start()
			if due, ok := m.schedule.nextWake(); ok {
				if !due.After(m.now) {
					t.Fatalf("seed %d: to be woken at once, again and again", seed)
				}
				if len(m.running)+len(m.held) == 0 && m.random.IntN(5) == 0 {
					m.now = due // nothing but the clock can move it on
				}
			}
			m.report()
			m.bury()
			if round > 100_000 {
				t.Fatalf("seed %d: %d of %d are done, and nothing happens any more", seed, len(m.done), m.total)
			}
		}
		if s := m.schedule; s.held != 0 || len(m.running) == 0 && (s.running != 0 || s.suspect) {
			t.Fatalf("seed %d: running %d, suspect %v, held %d at the end", seed, s.running, s.suspect, s.held)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// TestABatchWaitsForOthersNoLongerThanItsLinger: it starts when it is full, or when its first message has waited long
// enough, and those that must be alone don't wait with it.
func TestABatchWaitsForOthersNoLongerThanItsLinger(t *testing.T) {
	s := newSchedule(1, 3, 10*time.Second)
	start := time.Unix(100, 0)
	s.wake(start)
	add := func(key string, c company) *message {
		m := &message{event: surepost.Event{Key: key}, company: c}
		s.add(m)
		return m
	}
	wantNext := func(what string, want ...*message) {
		t.Helper()
		if got := s.next(); !slices.Equal(got, want) {
			t.Errorf("%s: %d messages start, want %d", what, len(got), len(want))
		}
	}
	end := func(batch ...*message) {
		s.free(batch)
		for _, m := range batch {
			s.finish(m)
		}
	}
	a1 := add("a", together)
	wantNext("not full, not late")
	if due, ok := s.nextWake(); !ok || !due.Equal(start.Add(10*time.Second)) {
		t.Errorf("the linger ends at %v, %v", due, ok)
	}
	b1 := add("b", alone)
	wantNext("alone", b1)
	if due, ok := s.nextWake(); ok {
		t.Errorf("woken at %v though no worker is free", due)
	}
	end(b1)
	s.wake(start.Add(5 * time.Second))
	a2, c1 := add("a", together), add("c", together)
	wantNext("full", a1, a2, c1)
	end(a1, a2, c1)
	d1 := add("d", together)
	s.wake(start.Add(15 * time.Second))
	wantNext("late", d1)
	end(d1)

	s.linger = 0
	e1 := add("e", together)
	wantNext("without linger", e1)
}

// TestKeysTakeTurnsInAllCompanies: whoever has been ready for longest is next, in a batch or not.
func TestKeysTakeTurnsInAllCompanies(t *testing.T) {
	s := newSchedule(1, 1, 0)
	for n, c := range []company{together, suspected, alone, alone, together, suspected, together} {
		s.add(&message{event: surepost.Event{Key: fmt.Sprint(n)}, company: c})
	}
	for n := range 7 {
		batch := s.next()
		if len(batch) != 1 || batch[0].event.Key != fmt.Sprint(n) {
			t.Fatalf("key %s has turn %d", batch[0].event.Key, n)
		}
		s.free(batch)
		s.finish(batch[0])
	}
}

// TestABatchTakesKeysByTheirTurn: a key with many messages doesn't keep one with few from its turn.
func TestABatchTakesKeysByTheirTurn(t *testing.T) {
	s := newSchedule(1, 4, 0)
	for range 10 {
		s.add(&message{event: surepost.Event{Key: "busy"}})
	}
	for n := range 3 {
		s.add(&message{event: surepost.Event{Key: fmt.Sprint("calm", n)}})
	}
	var got []string
	for range 2 {
		batch := s.next()
		for _, m := range batch {
			got = append(got, m.event.Key)
		}
		s.free(batch)
		for _, m := range batch {
			s.finish(m)
		}
	}
	if want := []string{"busy", "busy", "busy", "busy", "calm0", "calm1", "calm2", "busy"}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

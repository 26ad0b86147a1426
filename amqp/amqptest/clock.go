package amqptest

import "time"

// timer calls a function under the broker's lock, unless it is stopped first.
type timer struct{ t *time.Timer }

// after calls f under the broker's lock when d has passed. The lock must be held.
func (b *Broker) after(d time.Duration, f func()) *timer {
	if b.closed {
		return nil
	}
	t := &timer{}
	b.timers[t] = struct{}{}
	b.work.Add(1)
	t.t = time.AfterFunc(d, func() {
		defer b.work.Done()
		b.mu.Lock()
		defer b.unlock()
		if _, ok := b.timers[t]; ok { // not stopped meanwhile
			delete(b.timers, t)
			f()
		}
	})
	return t
}

// stop makes sure that a timer doesn't call its function any more. The lock must be held; t may be nil.
func (b *Broker) stop(t *timer) {
	if t == nil {
		return
	}
	if _, ok := b.timers[t]; !ok {
		return
	}
	delete(b.timers, t)
	if t.t.Stop() {
		b.work.Done()
	}
}

package amqptest

import (
	"context"
	"fmt"
	"slices"
)

// QueueState is what a queue holds at a moment.
type QueueState struct {
	Ready     int // messages that wait for a consumer
	Unacked   int // messages that consumers hold
	Consumers int
}

// Queue returns the state of a queue of the first virtual host. False: it isn't there.
func (b *Broker) Queue(name string) (QueueState, bool) {
	b.mu.Lock()
	defer b.unlock()
	return b.queueState(name)
}

func (b *Broker) queueState(name string) (QueueState, bool) {
	q := b.first().queues[name]
	if q == nil {
		return QueueState{}, false
	}
	return QueueState{Ready: q.ready(), Unacked: q.unacked, Consumers: len(q.consumers)}, true
}

func (b *Broker) first() *vhost { return b.vhosts[b.cfg.VHosts[0]] }

// Messages returns the messages of a queue of the first virtual host: first those that consumers hold, then those
// that wait, in the order in which they'll go out.
func (b *Broker) Messages(queue string) []Message {
	b.mu.Lock()
	defer b.unlock()
	q := b.first().queues[queue]
	if q == nil {
		return nil
	}
	var out []Message
	for _, c := range b.connections() {
		for _, ch := range c.sortedChannels() {
			for _, d := range ch.unacked {
				if d.queue == q && !d.void {
					out = append(out, d.entry.inspect(true))
				}
			}
		}
	}
	for _, e := range slices.Concat(q.returns, q.entries) {
		out = append(out, e.inspect(false))
	}
	return out
}

func (e *entry) inspect(unacked bool) Message {
	m := e.msg.Message
	m.Redelivered, m.DeliveryCount, m.Unacked = e.redelivered, e.count, unacked
	return m
}

// Publish publishes a message in the first virtual host as a client would, without a connection: no fault strikes it.
// It returns how many queues took it. Its error says that the exchange isn't there.
func (b *Broker) Publish(m Message) (queues int, err error) {
	b.mu.Lock()
	defer b.unlock()
	v := b.first()
	x := v.exchanges[m.Exchange]
	if x == nil {
		return 0, fmt.Errorf("amqptest: %w", v.noExchange(m.Exchange))
	}
	if _, err := expiration(&m); err != nil {
		return 0, fmt.Errorf("amqptest: %w", err)
	}
	s := newStored(m)
	for _, q := range v.route(x, &s.Message) {
		if q.publish(s) {
			queues++
		}
	}
	return queues, nil
}

// watcher waits for a state.
type watcher struct {
	reached func() bool
	done    chan struct{}
	over    bool
}

func (w *watcher) look() {
	if !w.over && w.reached() {
		w.over = true
		close(w.done)
	}
}

// AwaitQueue returns when a queue of the first virtual host is in a state that is asked for, or with the context's
// error. ok is called under the broker's lock with each new state, so it misses none, and must not call the broker. A
// queue that isn't there has the zero state.
func (b *Broker) AwaitQueue(ctx context.Context, queue string, ok func(QueueState) bool) error {
	return b.await(ctx, "queue "+queue, func() bool {
		s, _ := b.queueState(queue)
		return ok(s)
	})
}

// AwaitConnections returns when so many connections are open, or with the context's error.
func (b *Broker) AwaitConnections(ctx context.Context, n int) error {
	return b.await(ctx, fmt.Sprintf("%d connections", n), func() bool { return b.open() == n })
}

func (b *Broker) await(ctx context.Context, what string, reached func() bool) error {
	w := &watcher{reached: reached, done: make(chan struct{})}
	b.mu.Lock()
	b.watchers[w] = struct{}{}
	b.unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.watchers, w)
	}()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("amqptest: wait for %s: %w", what, ctx.Err())
	}
}

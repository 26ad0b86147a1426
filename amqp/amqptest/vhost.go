package amqptest

import (
	"cmp"
	"maps"
	"slices"
)

// vhost is a virtual host: a world of exchanges and queues.
type vhost struct {
	broker    *Broker
	name      string
	exchanges map[string]*exchange
	queues    map[string]*queue
}

// newVHost returns a virtual host with the exchanges that each has (AMQP 0-9-1 §3.1.3).
func newVHost(b *Broker, name string) *vhost {
	v := &vhost{broker: b, name: name, exchanges: map[string]*exchange{}, queues: map[string]*queue{}}
	for name, kind := range map[string]string{
		"": "direct", "amq.direct": "direct", "amq.fanout": "fanout", "amq.topic": "topic",
		"amq.headers": "headers", "amq.match": "headers",
	} {
		v.exchanges[name] = &exchange{vhost: v, name: name, kind: kind, durable: true}
	}
	return v
}

func (v *vhost) noExchange(name string) *exception {
	return refuse(404, "no %s", exchangeText(name, v.name))
}

// route returns the queues that a message goes to, each once. An exchange that leads nowhere hands the message to its
// alternate exchange.
func (v *vhost) route(x *exchange, m *Message) []*queue {
	if x.name == "" {
		if q := v.queues[m.RoutingKey]; q != nil {
			return []*queue{q}
		}
		return nil
	}
	words := topicWords(m.RoutingKey)
	var queues []*queue
	seen := map[*exchange]bool{x: true}
	for todo := []*exchange{x}; len(todo) > 0; todo = todo[1:] {
		at, found := todo[0], false
		for _, b := range at.bindings {
			if !at.matches(b, m, words) {
				continue
			}
			found = true
			switch {
			case b.exchange != nil && !seen[b.exchange]:
				seen[b.exchange] = true
				todo = append(todo, b.exchange)
			case b.queue != nil && !slices.Contains(queues, b.queue):
				queues = append(queues, b.queue)
			}
		}
		if name, ok := at.args["alternate-exchange"].(string); ok && !found {
			if other := v.exchanges[name]; other != nil && !seen[other] {
				seen[other] = true
				todo = append(todo, other)
			}
		}
	}
	return queues
}

// deleteQueue deletes a queue with its messages and bindings. Its consumers are told.
func (v *vhost) deleteQueue(q *queue) {
	if q.deleted {
		return
	}
	q.deleted = true
	delete(v.queues, q.name)
	v.broker.stop(q.ttlTime)
	v.broker.stop(q.idle)
	q.purge()
	for _, c := range q.consumers {
		c.cancelled()
	}
	q.consumers, q.active = nil, nil
	v.unbindAll(func(b *binding) bool { return b.queue == q })
}

// deleteExchange deletes an exchange with the bindings from and to it.
func (v *vhost) deleteExchange(x *exchange) {
	if v.exchanges[x.name] != x {
		return
	}
	delete(v.exchanges, x.name)
	x.bindings = nil
	v.unbindAll(func(b *binding) bool { return b.exchange == x })
}

func (v *vhost) unbindAll(which func(*binding) bool) {
	for _, name := range slices.Sorted(maps.Keys(v.exchanges)) {
		if x := v.exchanges[name]; x != nil {
			x.unbind(which)
		}
	}
}

// deleteExclusive deletes the queues of a connection that has ended.
func (v *vhost) deleteExclusive(c *connection) {
	for _, q := range v.sortedQueues() {
		if q.owner == c {
			v.deleteQueue(q)
		}
	}
}

func (v *vhost) sortedQueues() []*queue {
	return slices.SortedFunc(maps.Values(v.queues), func(x, y *queue) int { return cmp.Compare(x.name, y.name) })
}

// crash loses what isn't durable.
func (v *vhost) crash(loseUnconfirmed bool) {
	for _, q := range v.sortedQueues() {
		if !q.durable || q.owner != nil {
			v.deleteQueue(q)
			continue
		}
		lost := func(e *entry) bool {
			return !q.quorum && !e.msg.Persistent() || loseUnconfirmed && e.msg.unconfirmed
		}
		q.entries = slices.DeleteFunc(q.entries, lost)
		q.returns = slices.DeleteFunc(q.returns, lost)
	}
	for _, q := range v.queues { // later, since queues share messages
		for _, e := range slices.Concat(q.returns, q.entries) {
			e.msg.unconfirmed = false
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.exchanges)) {
		if x := v.exchanges[name]; x != nil && !x.durable {
			v.deleteExchange(x)
		}
	}
}

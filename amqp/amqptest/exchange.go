package amqptest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// exchange routes messages to queues and other exchanges.
type exchange struct {
	vhost      *vhost
	name       string
	kind       string // direct, topic, fanout, headers
	durable    bool
	autoDelete bool
	internal   bool
	args       Table
	bindings   []*binding // in the order in which they were made
}

// binding leads from an exchange to a queue or to another exchange.
type binding struct {
	key      string
	words    []string // of the key, for topics
	args     Table
	queue    *queue    // or
	exchange *exchange //
}

// String returns RabbitMQ's way to name an exchange.
func (x *exchange) String() string { return exchangeText(x.name, x.vhost.name) }

func exchangeText(name, vhost string) string {
	return fmt.Sprintf("exchange '%s' in vhost '%s'", name, vhost)
}

// to says whether the binding leads where the other one does.
func (b *binding) to(other *binding) bool {
	return b.queue == other.queue && b.exchange == other.exchange
}

// same says whether both bindings are one to AMQP.
func (b *binding) same(other *binding) bool {
	return b.to(other) && b.key == other.key && equal(b.args, other.args)
}

// bind adds a binding, unless it is there.
func (x *exchange) bind(b *binding) {
	b.words = topicWords(b.key)
	if !slices.ContainsFunc(x.bindings, b.same) {
		x.bindings = append(x.bindings, b)
	}
}

// unbind removes bindings, and the exchange if it was the last one of an auto-delete exchange.
func (x *exchange) unbind(which func(*binding) bool) {
	before := len(x.bindings)
	x.bindings = slices.DeleteFunc(x.bindings, which)
	if x.autoDelete && len(x.bindings) == 0 && before > 0 {
		x.vhost.deleteExchange(x)
	}
}

// matches says whether a message goes along a binding.
func (x *exchange) matches(b *binding, m *Message, words []string) bool {
	switch x.kind {
	case "fanout":
		return true
	case "topic":
		return matchTopic(b.words, words)
	case "headers":
		return matchHeaders(b.args, m.Headers)
	}
	return b.key == m.RoutingKey
}

// topicWords splits a key. The empty key has no words, as in RabbitMQ.
func topicWords(key string) []string {
	if key == "" {
		return nil
	}
	return strings.Split(key, ".")
}

// matchTopic compares words: "*" stands for one, "#" for any number. When a word doesn't fit, the last "#" takes one
// more; earlier ones needn't, so the time is at most the product of both lengths.
func matchTopic(pattern, words []string) bool {
	p, w := 0, 0
	hash, taken := -1, 0
	for w < len(words) {
		switch {
		case p < len(pattern) && pattern[p] == "#":
			hash, taken = p, w
			p++
		case p < len(pattern) && (pattern[p] == "*" || pattern[p] == words[w]):
			p, w = p+1, w+1
		case hash >= 0:
			taken++
			p, w = hash+1, taken
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == "#" {
		p++
	}
	return p == len(pattern)
}

// matchHeaders compares a message's headers with a binding's arguments: all of them by default, or with x-match any
// at least one. Arguments that begin with x- don't count, unless x-match ends in -with-x. A nil argument asks only
// that the header is there.
func matchHeaders(args, headers Table) bool {
	how, _ := args["x-match"].(string)
	how, withX := strings.CutSuffix(how, "-with-x")
	hit, missed := false, false
	for name, want := range args {
		if name == "x-match" || !withX && strings.HasPrefix(name, "x-") {
			continue
		}
		got, ok := headers[name]
		if ok && (want == nil || equal(want, got)) {
			hit = true
		} else {
			missed = true
		}
	}
	if how == "any" {
		return hit
	}
	return !missed
}

// equal compares fields; integers by their value, whatever their type.
func equal(a, b any) bool {
	x, xOk := integer(a)
	y, yOk := integer(b)
	if xOk && yOk {
		return x == y
	}
	return reflect.DeepEqual(a, b)
}

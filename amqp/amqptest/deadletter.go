package amqptest

import (
	"slices"
	"time"
)

// Why a message is dead-lettered, as the header x-death says it.
const (
	deadByReject        = "rejected"
	deadByTTL           = "expired"
	deadByLength        = "maxlen"
	deadByDeliveryLimit = "delivery_limit"
)

// death says how often a message died of a reason in a queue, and how it came there first.
type death struct {
	queue, reason string
	exchange      string
	keys          []string
	count         int64
	at            time.Time
	expiration    string // that the message had
}

// deadLetter takes a message that has left its queue to the queue's dead-letter exchange. Without one, or where the
// exchange isn't there, or the way leads in a circle, it is dropped.
func (q *queue) deadLetter(e *entry, reason string) {
	if !q.deadLetters {
		return
	}
	x := q.vhost.exchanges[q.deadLetterExchange]
	if x == nil {
		return
	}
	s := q.letter(e.msg, reason)
	s.redelivered = q.broker().rules.lettersAreRedelivered && e.acquired > 0 && reason != deadByLength
	for _, to := range q.vhost.route(x, &s.Message) {
		if reason == deadByReject || !s.circles(to) {
			to.publish(s)
		}
	}
}

// letter returns the message as a dead letter: with its history, and without its own time to live.
func (q *queue) letter(from *stored, reason string) *stored {
	d := death{queue: q.name, reason: reason, exchange: from.Exchange, keys: []string{from.RoutingKey},
		at: time.Now(), expiration: from.Expiration}
	deaths := slices.Clone(from.deaths)
	if i := slices.IndexFunc(deaths, func(o death) bool { return o.queue == d.queue && o.reason == d.reason }); i >= 0 {
		d = deaths[i]
		d.at = time.Now()
		deaths = slices.Delete(deaths, i, i+1)
	}
	d.count++
	deaths = slices.Insert(deaths, 0, d)

	m := from.Message
	m.Exchange = q.deadLetterExchange
	if q.hasDeadLetterKey {
		m.RoutingKey = q.deadLetterKey
	}
	m.Expiration = ""
	headers := make(Table, len(m.Headers)+7)
	for k, v := range m.Headers {
		headers[k] = v
	}
	headers["x-death"] = deathTables(deaths)
	if _, ok := headers["x-first-death-reason"]; !ok || len(from.deaths) == 0 {
		headers["x-first-death-reason"] = reason
		headers["x-first-death-queue"] = q.name
		headers["x-first-death-exchange"] = from.Exchange
	}
	if q.broker().rules.lastDeath {
		headers["x-last-death-reason"] = reason
		headers["x-last-death-queue"] = q.name
		headers["x-last-death-exchange"] = from.Exchange
	}
	m.Headers = headers
	s := newStored(m)
	s.deaths = deaths
	return s
}

// circles says whether a message that comes to a queue has gone round in a circle without any client's doing: it died
// there before, and nobody has rejected it since (RabbitMQ's dead lettering guide, "Dead-lettered cycles").
func (s *stored) circles(to *queue) bool {
	for _, d := range s.deaths {
		if d.reason == deadByReject {
			return false
		}
		if d.queue == to.name {
			return true
		}
	}
	return false
}

func deathTables(deaths []death) []any {
	out := make([]any, 0, len(deaths))
	for _, d := range deaths {
		keys := make([]any, 0, len(d.keys))
		for _, k := range d.keys {
			keys = append(keys, k)
		}
		t := Table{"count": d.count, "reason": d.reason, "queue": d.queue, "time": d.at,
			"exchange": d.exchange, "routing-keys": keys}
		if d.expiration != "" {
			t["original-expiration"] = d.expiration
		}
		out = append(out, t)
	}
	return out
}

// deathsOf reads the header x-death; what isn't as the broker writes it is left out.
func deathsOf(headers Table) []death {
	list, _ := headers["x-death"].([]any)
	var out []death
	for _, item := range list {
		t, _ := item.(Table)
		d := death{}
		d.queue, _ = t["queue"].(string)
		d.reason, _ = t["reason"].(string)
		d.exchange, _ = t["exchange"].(string)
		d.count, _ = t["count"].(int64)
		d.at, _ = t["time"].(time.Time)
		d.expiration, _ = t["original-expiration"].(string)
		keys, _ := t["routing-keys"].([]any)
		for _, k := range keys {
			if key, ok := k.(string); ok {
				d.keys = append(d.keys, key)
			}
		}
		if d.queue != "" && d.reason != "" {
			out = append(out, d)
		}
	}
	return out
}

package amqptest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// exchangeKinds are the exchange types that the broker knows.
var exchangeKinds = []string{"direct", "fanout", "headers", "topic"}

// exchangeDeclare executes exchange.declare.
func (ch *channel) exchangeDeclare(d *decoder) error {
	d.u16()
	name, kind, bits, args := d.shortstr(), d.shortstr(), d.u8(), d.table()
	if d.err != nil {
		return refuse(502, "%v", d.err)
	}
	passive, noWait := bits&1 != 0, bits&16 != 0
	v := ch.conn.vhost
	x := &exchange{vhost: v, name: name, kind: kind,
		durable: bits&2 != 0, autoDelete: bits&4 != 0, internal: bits&8 != 0, args: args}
	there := v.exchanges[name]
	switch {
	case name == "":
		return refuse(403, "operation not permitted on the default exchange")
	case passive && there == nil:
		return v.noExchange(name)
	case passive:
	case !slices.Contains(exchangeKinds, kind):
		if ch.broker().rules.unknownKindIsHard {
			return refuse(503, "unknown exchange type '%s'", kind)
		}
		return refuse(406, "unknown exchange type '%s'", kind)
	case there != nil:
		if err := there.equivalent(x); err != nil {
			return err
		}
	case strings.HasPrefix(name, "amq."):
		return refuse(403, "exchange name '%s' contains reserved prefix 'amq.*'", name)
	default:
		v.exchanges[name] = x
	}
	ch.answer(noWait, exchangeDeclareOk, begin(exchangeDeclareOk))
	return nil
}

// equivalent says what differs from a declaration of the same name.
func (x *exchange) equivalent(as *exchange) error {
	switch {
	case x.kind != as.kind:
		return inequivalent("type", x, as.kind, x.kind)
	case x.durable != as.durable:
		return inequivalent("durable", x, as.durable, x.durable)
	case x.autoDelete != as.autoDelete:
		return inequivalent("auto_delete", x, as.autoDelete, x.autoDelete)
	case x.internal != as.internal:
		return inequivalent("internal", x, as.internal, x.internal)
	}
	return equivalentArgs(x, x.args, as.args, []string{"alternate-exchange"})
}

// inequivalent words a property that differs (rabbit_misc:assert_field_equivalence).
func inequivalent(arg string, of fmt.Stringer, received, current any) error {
	return refuse(406, "inequivalent arg '%s' for %s: received '%v' but current is '%v'", arg, of, received, current)
}

// equivalentArgs says which argument differs (rabbit_misc:assert_args_equivalence).
func equivalentArgs(of fmt.Stringer, current, received Table, names []string) error {
	for _, name := range names {
		now, isThere := current[name]
		want, isWanted := received[name]
		if name == "x-queue-type" { // what has none is classic
			now, want = cmp.Or(now, any("classic")), cmp.Or(want, any("classic"))
			isThere, isWanted = true, true
		}
		switch {
		case isThere == isWanted && equal(now, want):
		case isThere && isWanted:
			return inequivalent(name, of, want, now)
		default:
			return refuse(406, "inequivalent arg '%s' for %s: received %s but current is %s",
				name, of, argText(received, name), argText(current, name))
		}
	}
	return nil
}

func argText(args Table, name string) string {
	value, ok := args[name]
	if !ok {
		return "none"
	}
	return fmt.Sprintf("the value '%v' of type '%s'", value, typeName(value))
}

// exchangeDelete executes exchange.delete. What isn't there is deleted, too.
func (ch *channel) exchangeDelete(d *decoder) error {
	d.u16()
	name, bits := d.shortstr(), d.u8()
	if d.err != nil {
		return refuse(502, "%v", d.err)
	}
	v := ch.conn.vhost
	x := v.exchanges[name]
	switch {
	case name == "":
		return refuse(403, "operation not permitted on the default exchange")
	case strings.HasPrefix(name, "amq."):
		return refuse(403, "exchange name '%s' contains reserved prefix 'amq.*'", name)
	case x == nil:
	case bits&1 != 0 && len(x.bindings) > 0:
		return refuse(406, "%s in use", x)
	default:
		v.deleteExchange(x)
	}
	ch.answer(bits&2 != 0, exchangeDeleteOk, begin(exchangeDeleteOk))
	return nil
}

// exchangeBind executes exchange.bind.
func (ch *channel) exchangeBind(d *decoder) error {
	return ch.bindExchange(d, exchangeBindOk, (*exchange).bind)
}

// exchangeUnbind executes exchange.unbind.
func (ch *channel) exchangeUnbind(d *decoder) error {
	return ch.bindExchange(d, exchangeUnbindOk, unbindOne)
}

func unbindOne(x *exchange, b *binding) { x.unbind(b.same) }

func (ch *channel) bindExchange(d *decoder, ok methodID, do func(*exchange, *binding)) error {
	d.u16()
	destination, source, key, noWait, args := d.shortstr(), d.shortstr(), d.shortstr(), d.u8()&1 != 0, d.table()
	if d.err != nil {
		return refuse(502, "%v", d.err)
	}
	v := ch.conn.vhost
	if source == "" || destination == "" {
		return refuse(403, "operation not permitted on the default exchange")
	}
	from, to := v.exchanges[source], v.exchanges[destination]
	if from == nil {
		return v.noExchange(source)
	}
	if to == nil {
		return v.noExchange(destination)
	}
	do(from, &binding{key: key, args: args, exchange: to})
	ch.answer(noWait, ok, begin(ok))
	return nil
}

// queue returns a queue that the channel may use. An empty name is the last one that it declared.
func (ch *channel) queue(name string) (*queue, error) {
	if name == "" {
		name = ch.declared
		if name == "" {
			return nil, refuse(404, "no previously declared queue")
		}
	}
	q := ch.conn.vhost.queues[name]
	if q == nil {
		return nil, refuse(404, "no %s", queueText(name, ch.conn.vhost.name))
	}
	if q.owner != nil && q.owner != ch.conn {
		return nil, q.locked()
	}
	return q, nil
}

func (q *queue) locked() *exception {
	return refuse(405, "cannot obtain exclusive access to locked %s. It could be originally declared on another "+
		"connection or the exclusive property value does not match that of the original declaration.", q)
}

// queueDeclare executes queue.declare.
func (ch *channel) queueDeclare(d *decoder) error {
	d.u16()
	name, bits, args := d.shortstr(), d.u8(), d.table()
	if d.err != nil {
		return refuse(502, "%v", d.err)
	}
	passive, durable, exclusive, autoDelete, noWait := bits&1 != 0, bits&2 != 0, bits&4 != 0, bits&8 != 0, bits&16 != 0
	var q *queue
	if passive && name == "" {
		return refuse(404, "no %s", queueText("", ch.conn.vhost.name))
	}
	if passive || name != "" && ch.conn.vhost.queues[name] != nil {
		var err error
		if q, err = ch.queue(name); err != nil {
			return err
		}
		if !passive {
			err = q.equivalent(durable, exclusive, autoDelete, args)
		}
		if err != nil {
			return err
		}
	} else {
		q = &queue{vhost: ch.conn.vhost, name: name, durable: durable, autoDelete: autoDelete, args: args}
		if exclusive {
			q.owner = ch.conn
		}
		if err := ch.create(q); err != nil {
			return err
		}
	}
	q.used()
	ch.declared = q.name
	ch.answer(noWait, queueDeclareOk,
		begin(queueDeclareOk).shortstr(q.name).u32(uint32(q.ready())).u32(uint32(len(q.consumers))))
	return nil
}

func (ch *channel) create(q *queue) error {
	b := ch.broker()
	if strings.HasPrefix(q.name, "amq.") {
		return refuse(403, "queue name '%s' contains reserved prefix 'amq.*'", q.name)
	}
	if q.name == "" {
		b.named++
		q.name = fmt.Sprintf("amq.gen-%d", b.named)
	}
	if err := q.configure(b.rules); err != nil {
		return err
	}
	q.vhost.queues[q.name] = q
	return nil
}

// equivalent says what differs from a declaration of the same name.
func (q *queue) equivalent(durable, exclusive, autoDelete bool, args Table) error {
	switch {
	case exclusive != (q.owner != nil):
		return q.locked()
	case durable != q.durable:
		return inequivalent("durable", q, durable, q.durable)
	case autoDelete != q.autoDelete:
		return inequivalent("auto_delete", q, autoDelete, q.autoDelete)
	}
	return equivalentArgs(q, q.args, args, comparedArgs)
}

// queueBind executes queue.bind.
func (ch *channel) queueBind(d *decoder) error {
	return ch.bindQueue(d, true, queueBindOk, (*exchange).bind)
}

// queueUnbind executes queue.unbind, which has no flag to ask for no answer.
func (ch *channel) queueUnbind(d *decoder) error {
	return ch.bindQueue(d, false, queueUnbindOk, unbindOne)
}

func (ch *channel) bindQueue(d *decoder, hasFlags bool, ok methodID, do func(*exchange, *binding)) error {
	d.u16()
	name, source, key, noWait := d.shortstr(), d.shortstr(), d.shortstr(), false
	if hasFlags {
		noWait = d.u8()&1 != 0
	}
	args := d.table()
	if d.err != nil {
		return refuse(502, "%v", d.err)
	}
	q, err := ch.queue(name)
	if err != nil {
		return err
	}
	if source == "" {
		return refuse(403, "operation not permitted on the default exchange")
	}
	x := ch.conn.vhost.exchanges[source]
	if x == nil {
		return ch.conn.vhost.noExchange(source)
	}
	do(x, &binding{key: key, args: args, queue: q})
	ch.answer(noWait, ok, begin(ok))
	return nil
}

// queuePurge executes queue.purge.
func (ch *channel) queuePurge(d *decoder) error {
	d.u16()
	name, noWait := d.shortstr(), d.u8()&1 != 0
	if d.err != nil {
		return refuse(502, "%v", d.err)
	}
	q, err := ch.queue(name)
	if err != nil {
		return err
	}
	ch.answer(noWait, queuePurgeOk, begin(queuePurgeOk).u32(uint32(q.purge())))
	return nil
}

// queueDelete executes queue.delete. What isn't there is deleted, too.
func (ch *channel) queueDelete(d *decoder) error {
	d.u16()
	name, bits := d.shortstr(), d.u8()
	if d.err != nil {
		return refuse(502, "%v", d.err)
	}
	n := 0
	q, err := ch.queue(name)
	switch e, _ := err.(*exception); {
	case e != nil && e.code == 404:
	case err != nil:
		return err
	case bits&1 != 0 && len(q.consumers) > 0:
		return refuse(406, "%s in use", q)
	case bits&2 != 0 && q.ready() > 0:
		return refuse(406, "%s not empty", q)
	default:
		n = q.ready()
		q.vhost.deleteQueue(q)
	}
	ch.answer(bits&4 != 0, queueDeleteOk, begin(queueDeleteOk).u32(uint32(n)))
	return nil
}

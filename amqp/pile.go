package amqp

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// pile is a dead-letter queue that is read in order while most of it stays where it is. What is read and not
// acknowledged goes back when the pile is closed, in front and in order.
//
// It reads by basic.consume, since what basic.get has taken comes back in any order once it is more than 32 messages
// (measured: to a quorum queue each basic.get is a consumer of its own). A consumer stands still when its prefetch is
// used up by letters that stay; then the next one goes on behind it. They come back in the order of the consumers, as
// long as there are at most 32 (rabbit_fifo keeps them in a map, ordered up to that size; measured with 3.10.8 and 4.3.6
// for 30).
type pile struct {
	queue   string
	waiting int // letters at the beginning
	notes   []string

	link       *link
	channel    *amqp091.Channel
	deliveries <-chan amqp091.Delivery
	consumers  int
	left       int // of the present consumer's letters those that stay
	seen       int
	ends       notices
	ahead      *amqp091.Delivery // read by hasMore
}

const (
	// pilePrefetch bounds the memory for letters that were read ahead, and how many of them the broker has to take
	// back for each consumer.
	pilePrefetch  = 500
	pileConsumers = 30
	maxStaying    = pilePrefetch * pileConsumers
)

// ErrBusy is the error of a redrive or listing of a dead-letter queue that another one, or a consumer, works on.
var ErrBusy = errors.New("the dead-letter queue is in use")

func openPile(ctx context.Context, c Connection, queue string) (_ *pile, err error) {
	l, err := dial(ctx, c)
	if err != nil {
		return nil, err
	}
	p := &pile{queue: queue, link: l}
	if err := p.open(ctx); err != nil {
		p.close(ctx)
		return nil, err
	}
	return p, nil
}

func (p *pile) open(ctx context.Context) error {
	if err := p.lock(ctx); err != nil {
		return err
	}
	if err := p.awaitAlone(ctx); err != nil {
		return err
	}
	if err := p.checkLimit(ctx); err != nil {
		return err
	}
	var err error
	if p.channel, err = p.link.channel(ctx); err != nil {
		return err
	}
	p.ends = notices{
		link:    p.link.NotifyClose(make(chan *amqp091.Error, 1)),
		channel: p.channel.NotifyClose(make(chan *amqp091.Error, 1)),
		cancel:  p.channel.NotifyCancel(make(chan string, 1)),
	}
	err = p.link.do(ctx, "set the prefetch", func() error { return p.channel.Qos(pilePrefetch, 0, false) })
	if err != nil {
		return err
	}
	return p.consume(ctx)
}

// An earlier reader may have left just now: the broker frees its lock and takes back its letters a moment later.
const (
	pilePatience = 3 * time.Second
	pilePause    = 50 * time.Millisecond
	pileLooks    = 4 // in a row, at which nothing moves
)

// lock makes sure that nobody else reads this pile, by a queue that only one connection can have. An exclusive consumer
// wouldn't do: it would keep out the pile's own further ones.
func (p *pile) lock(ctx context.Context) error {
	sum := sha256.Sum256([]byte(p.queue))
	name := "surepost-redrive-" + hex.EncodeToString(sum[:8])
	for began := time.Now(); ; {
		err := declare(ctx, p.link, entity{"queue", name}, "declare", func(ch *amqp091.Channel) error {
			const durable, autoDelete, exclusive = false, true, true
			_, err := ch.QueueDeclare(name, durable, autoDelete, exclusive, false, nil)
			return err
		})
		var refused *TopologyError
		switch {
		case !errors.As(err, &refused) || refused.Code != amqp091.ResourceLocked:
			return err
		case time.Since(began) > pilePatience:
			return fmt.Errorf("amqp: %w: another redrive or listing of %q is running: wait for its end (one that was cut "+
				"off ends when the broker misses its heartbeats)", ErrBusy, p.queue)
		}
		if err := pauseFor(ctx, pilePause); err != nil {
			return err
		}
	}
}

// awaitAlone waits until the consumers of an earlier reader have disappeared, and what it held is back in its place. A consumer of
// one that was cut off may even appear after its lock was freed, since a quorum queue writes it to its log before it counts it. If it
// then shared the letters with ours, its share would come back behind ours, and never in its place again. Nobody can ask what is on
// its way to the log: so it waits until nothing has moved for a while.
func (p *pile) awaitAlone(ctx context.Context) error {
	same := 0
	for began := time.Now(); ; {
		state, there, err := inspectQueue(ctx, p.link, p.queue)
		switch {
		case err != nil:
			return err
		case !there:
			return fmt.Errorf("amqp: the dead-letter queue %q isn't there: correct Queue or DeadLetterQueue, "+
				"or start the consumer, which declares it", p.queue)
		case state.Consumers > 0:
			same = 0
		case state.Messages == p.waiting:
			same++
		default:
			same = 1
		}
		p.waiting = state.Messages
		late := time.Since(began) > pilePatience
		switch {
		case same >= pileLooks, late && state.Consumers == 0: // letters come all the time
			return nil
		case late:
			return fmt.Errorf("amqp: %w: %q has %d consumers, which would get letters out of their order: stop them",
				ErrBusy, p.queue, state.Consumers)
		}
		if err := pauseFor(ctx, pilePause); err != nil {
			return err
		}
	}
}

// pauseFor waits, but not beyond the end of ctx.
func pauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// checkLimit notes if the queue wasn't declared as a consumer of ours does: its letters would be dropped, or lose
// their place, by being looked at.
func (p *pile) checkLimit(ctx context.Context) error {
	err := ensureQueue(ctx, p.link, Declare, p.queue, deadLetterArgs(QuorumQueue))
	var differs *TopologyError
	if !errors.As(err, &differs) {
		return err
	}
	if differs.Argument == "x-delivery-limit" {
		p.notes = append(p.notes, fmt.Sprintf("the queue %q wasn't declared by a consumer of this version: its "+
			"x-delivery-limit is %s (and RabbitMQ 4 takes 20 for none): each look at a letter counts, and at the limit it "+
			"is dropped; redrive all of it, delete it when it is empty, and let the consumer declare it anew",
			p.queue, differs.Current))
	}
	return nil // a classic queue has no limit; who may not configure may still read
}

func (p *pile) consume(ctx context.Context) error {
	tag := fmt.Sprintf("surepost-redrive-%03d", p.consumers) // the order of the tags is the order of coming back
	of := entity{"queue", p.queue}
	err := p.link.do(ctx, "consume "+of.String(), func() (err error) {
		p.deliveries, err = p.channel.Consume(p.queue, tag, false, false, false, false, nil)
		return err
	})
	if err != nil {
		return explainTopology(of, "consume", p.link.vhost(), err)
	}
	p.consumers++
	p.left = 0
	return nil
}

// full reports whether nothing more can be read, because too many letters stay.
func (p *pile) full() bool { return p.left == pilePrefetch && p.consumers == pileConsumers }

// hasMore reports whether next wouldn't wait.
func (p *pile) hasMore() bool {
	if p.ahead != nil {
		return true
	}
	select {
	case d, ok := <-p.deliveries:
		if ok {
			p.ahead = &d
		}
		return ok
	default:
		return false
	}
}

// next returns the next letter; false at the end of those that were there at the beginning, or when the pile is full.
func (p *pile) next(ctx context.Context) (amqp091.Delivery, bool, error) {
	none := amqp091.Delivery{}
	if ctx.Err() != nil {
		return none, false, context.Cause(ctx)
	}
	if p.seen == p.waiting || p.full() {
		return none, false, nil
	}
	if p.hasMore() {
		return p.take(*p.ahead), true, nil
	}
	const look = time.Second
	tick := time.NewTicker(look)
	defer tick.Stop()
	for began := time.Now(); ; {
		select {
		case d, ok := <-p.deliveries:
			if ok {
				return p.take(d), true, nil
			}
			return none, false, p.lost()
		case <-tick.C: // fewer than the broker had counted, perhaps: an expired one, or a count that lags
			state, there, err := inspectQueue(ctx, p.link, p.queue)
			switch {
			case err != nil:
				return none, false, err
			case !there || state.Messages == 0:
				p.seen = p.waiting
				return none, false, nil
			case time.Since(began) > p.link.rpcTimeout:
				return none, false, fmt.Errorf("amqp: %d letters wait in %q, but none was delivered within RPCTimeout (%v): "+
					"see whether the queue's nodes are up", state.Messages, p.queue, p.link.rpcTimeout)
			}
		case <-ctx.Done():
			return none, false, context.Cause(ctx)
		}
	}
}

func (p *pile) take(d amqp091.Delivery) amqp091.Delivery {
	p.ahead = nil
	p.seen++
	return d
}

// lost says why the deliveries have ended.
func (p *pile) lost() error {
	select {
	case err, lost := <-p.ends.link:
		return ended("connection", err, lost)
	case err, lost := <-p.ends.channel:
		return ended("channel", err, lost)
	case <-p.ends.cancel:
		return fmt.Errorf("amqp: the queue %q was deleted, or has lost its leader", p.queue)
	case <-time.After(cutGrace):
		return errSessionClosed
	}
}

// leave says that the letter of an earlier next stays. All letters that came before the next call of next must have
// been decided on if this one was the last that the consumer had room for.
func (p *pile) leave(ctx context.Context) error {
	p.left++
	if p.left < pilePrefetch || p.consumers == pileConsumers {
		return nil
	}
	return p.consume(ctx)
}

// close gives back all that stays. It has a limit of its own, so that it also works after ctx has ended.
func (p *pile) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	p.link.close(ctx)
}

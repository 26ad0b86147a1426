package amqp

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// parcel is a message on its way from one queue to another: a dead letter, one that waits for its retry, one that is
// redriven.
type parcel struct {
	exchange, key string
	publishing    amqp091.Publishing
}

// courier publishes parcels and waits for their confirms. It needs a connection that nothing else uses: the broker stops
// reading from one that publishes during a resource alarm. It is used by one goroutine at a time, and of no more use
// after an error of send.
type courier struct {
	link    *link
	channel *amqp091.Channel
	returns chan amqp091.Return   // buffered: a return arrives before its confirm, and is read after it
	blocked chan amqp091.Blocking // whether the broker wants to be sent nothing
	paused  bool                  // what it said last
}

// maxParcels is how many parcels one send may have.
const maxParcels = 100

// newCourier makes a courier of a connection, to which it belongs from now on, whether there is an error or not.
func newCourier(ctx context.Context, l *link) (_ *courier, err error) {
	c := &courier{link: l, blocked: l.NotifyBlocked(make(chan amqp091.Blocking, 16))}
	if c.channel, err = l.channel(ctx); err != nil {
		return nil, err
	}
	c.returns = c.channel.NotifyReturn(make(chan amqp091.Return, maxParcels)) // never full, or one would be missed
	if err := l.do(ctx, "turn on confirms", func() error { return c.channel.Confirm(false) }); err != nil {
		return nil, err
	}
	return c, nil
}

// errNotThere says that a parcel was returned.
var errNotThere = errors.New("the queue isn't there: create it, or use Mode Declare")

// errNack says that the broker refused a parcel.
var errNack = errors.New("the broker refused it for now (nack): see the queue's limits, and whether its nodes are up")

// send publishes the parcels in order and waits until all are confirmed. It returns for each of them nil if it is
// confirmed, or why it surely isn't in its queue. After an error of the second kind it isn't known of any.
func (c *courier) send(ctx context.Context, parcels []parcel) ([]error, error) {
	if err := c.awaitUnblocked(ctx); err != nil {
		return nil, err
	}
	confirms := make([]*amqp091.DeferredConfirmation, len(parcels))
	err := c.link.do(ctx, "publish", func() error {
		const mandatory, immediate = true, false
		for i, p := range parcels {
			var err error
			confirms[i], err = c.channel.PublishWithDeferredConfirm(p.exchange, p.key, mandatory, immediate, p.publishing)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, confirm := range confirms {
		if err := c.await(ctx, confirm.Done()); err != nil {
			return nil, err
		}
		if !confirm.Acked() && c.channel.IsClosed() {
			return nil, errors.New("the channel was closed before the confirm came")
		}
	}
	returned := c.returned()
	outcomes := make([]error, len(parcels))
	for i, p := range parcels {
		switch {
		case returned[p.address()]:
			outcomes[i] = errNotThere
		case !confirms[i].Acked():
			outcomes[i] = errNack
		}
	}
	return outcomes, nil
}

// address is where a parcel goes. AMQP gives a returned message no number, and a dead letter may lack its message-id. So
// all parcels of one address count as returned where one is: their queue isn't there, or wasn't a moment ago, and a
// parcel that is sent again is at worst a duplicate.
func (p parcel) address() [2]string { return [2]string{p.exchange, p.key} }

func (c *courier) returned() map[[2]string]bool {
	var addresses map[[2]string]bool
	for {
		select {
		case r, ok := <-c.returns:
			if !ok {
				return addresses
			}
			if addresses == nil {
				addresses = map[[2]string]bool{}
			}
			addresses[[2]string{r.Exchange, r.RoutingKey}] = true
		default:
			return addresses
		}
	}
}

// awaitUnblocked waits until the broker accepts messages.
func (c *courier) awaitUnblocked(ctx context.Context) error {
	for {
		select {
		case b, ok := <-c.blocked:
			if !ok {
				return amqp091.ErrClosed
			}
			c.pause(b.Active)
			continue
		default:
		}
		if !c.paused {
			return nil
		}
		select {
		case b, ok := <-c.blocked:
			if !ok {
				return amqp091.ErrClosed
			}
			c.pause(b.Active)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// await waits for a confirm. The time in which the broker doesn't read doesn't count.
func (c *courier) await(ctx context.Context, confirmed <-chan struct{}) error {
	limit := time.NewTicker(c.link.rpcTimeout)
	defer limit.Stop()
	for {
		select {
		case <-confirmed:
			return nil
		case b, ok := <-c.blocked:
			if !ok {
				c.blocked = nil // the link has ended, which ends the wait for the confirm too
			}
			c.pause(b.Active)
			limit.Reset(c.link.rpcTimeout)
		case <-limit.C:
			if !c.paused {
				return fmt.Errorf("no confirm within RPCTimeout (%v)", c.link.rpcTimeout)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *courier) pause(paused bool) {
	c.paused = paused
	c.link.guard.pauseDeadline(paused)
}

package amqp

import (
	"context"
	"errors"
	"strings"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
)

// Consumer consumes one queue and hands its events to a Handler, in order per key.
type Consumer struct {
	config ConsumerConfig
	open   func(context.Context, ConsumerConfig) (consumerSession, error) // subscribe, save in tests
}

// NewConsumer returns a consumer; nothing is connected yet. The error lists everything that is wrong with config.
func NewConsumer(config ConsumerConfig) (*Consumer, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	config.member = surepost.NewID()
	return &Consumer{config: config, open: subscribe}, nil
}

// Run consumes until ctx ends, and reconnects for as long as it takes. It is called once at a time; several consumers
// of one queue may run, in one process or in many: one is active and the others stand by, unless
// ConsumerConfig.Competing says otherwise.
//
// When ctx ends it shuts down within ShutdownTimeout and returns nil: handlers that were started have finished, their
// messages are acknowledged, all others are given back to the queue, and no goroutine is left. It returns an error if
// handlers ignored the end of their context, or at once if the first connect finds a mistake that time can't mend:
// wrong credentials, a missing permission, a queue that is there with other arguments, or, if Mode isn't Declare, one
// that is missing. Once it has consumed, the same errors are logged and retried, since whoever changes a running
// broker may also change it back.
func (c *Consumer) Run(ctx context.Context) error {
	d := newDispatcher(ctx, c.config)
	defer d.stopHandlers()
	connected, failures, refusals := false, 0, 0
	for ctx.Err() == nil {
		began := time.Now()
		config := c.config
		config.resumed = connected
		s, err := c.open(ctx, config)
		switch {
		case err == nil:
			connected = true
			err = c.serve(ctx, d, s)
		case connected:
		case errors.Is(err, amqp091.ErrCredentials):
			if refusals++; refusals == mostRefusals {
				return err
			}
		case c.isMistake(err):
			return err
		}
		if ctx.Err() != nil {
			break
		}
		d.settleOwn(ctx)
		if time.Since(began) > reconnectBackoff.Max {
			failures = 0 // it was healthy
		}
		failures++
		pause := c.config.pause(reconnectBackoff, failures)
		d.log.Warn("not consuming", "error", err, "attempt", failures, "retry_in", pause)
		if hook := c.config.Hooks.OnDisconnect; hook != nil {
			hook(Disconnect{Err: err, Attempt: failures, Pause: pause})
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return d.shutdown()
}

// serve serves one session and returns why it ended. If ctx ended it leaves the session to the shutdown.
func (c *Consumer) serve(ctx context.Context, d *dispatcher, s consumerSession) error {
	d.log.Info("consuming", "prefetch", c.config.Prefetch, "workers", c.config.Workers, "batch_size", c.config.BatchSize)
	if hook := c.config.Hooks.OnConnect; hook != nil {
		hook()
	}
	d.attach(s)
	err := d.serve(ctx)
	if ctx.Err() == nil {
		d.detach(ctx)
	}
	return err
}

// mostRefusals is how many refused logins in a row are taken for wrong credentials. RabbitMQ refuses a login by
// hanging up, which can't be told from a broker that is stopped at that moment; but hardly three times.
const mostRefusals = 3

// isMistake reports whether the broker said something that it will say again until somebody changes the
// configuration.
func (c *Consumer) isMistake(err error) bool {
	if errors.Is(err, errPartitionsDiffer) {
		return true
	}
	var answer *amqp091.Error
	if !errors.As(err, &answer) || !answer.Server {
		return false
	}
	switch answer.Code {
	case amqp091.AccessRefused, amqp091.PreconditionFailed, amqp091.CommandInvalid:
		return true
	case amqp091.NotFound:
		return c.config.Mode != Declare // else it was there a moment ago
	case amqp091.NotAllowed: // of a vhost; its limit on connections is reported alike, but passes
		return !strings.Contains(answer.Reason, "limit")
	}
	return false
}

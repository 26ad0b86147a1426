package amqp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// Connection says how to reach RabbitMQ. It is part of PublisherConfig and ConsumerConfig.
type Connection struct {
	// URLs are the addresses of the cluster's nodes, amqp:// or amqps://, with user, password and vhost. They are tried in random
	// order at each connect, so that clients spread over the nodes. Required, at least one.
	URLs []string

	// Name is shown for the connection in RabbitMQ's management pages. Default: the program's name and process id.
	Name string

	// Heartbeat is the interval at which both sides prove that they live; the peer is given up after two missed ones. Default 10 s, the
	// client library's own. At least 1 s.
	Heartbeat time.Duration

	// ConnectTimeout bounds TCP connect, TLS and AMQP handshake of one attempt. Default 10 s.
	ConnectTimeout time.Duration

	// WriteTimeout bounds one write to the socket: a peer that accepts nothing for so long is given up. Default 60 s: a broker
	// under a resource alarm stops reading for a while on purpose.
	WriteTimeout time.Duration

	// RPCTimeout bounds one request to the broker (declare, bind, open a channel). Default 15 s: a cluster may need seconds to elect a leader.
	RPCTimeout time.Duration
}

func (c Connection) withDefaults() Connection {
	return c // TODO(publisher)
}

func (c Connection) validate() []error {
	var errs []error
	if len(c.URLs) == 0 {
		errs = append(errs, errors.New(`amqp: no URL: set Connection.URLs, for example "amqp://guest:guest@localhost:5672/"`))
	}
	for _, u := range c.URLs {
		if _, err := url.Parse(u); err != nil {
			errs = append(errs, fmt.Errorf("amqp: bad URL: %w", err))
		}
	}
	return errs
}

// link is one connection to one node. It never reconnects: after an error a new one is dialled.
type link struct {
	*amqp091.Connection
	raw net.Conn
}

// dial connects to one of the nodes, the first that answers.
func dial(ctx context.Context, c Connection) (*link, error) {
	return nil, errors.New("TODO(publisher)")
}

// channel opens a channel within RPCTimeout.
func (l *link) channel(ctx context.Context) (*amqp091.Channel, error) {
	return nil, errors.New("TODO(publisher)")
}

// do runs one RPC within RPCTimeout and ctx; when it runs out of time the socket is closed, which makes the RPC return.
func (l *link) do(ctx context.Context, what string, rpc func() error) error {
	return errors.New("TODO(publisher)")
}

// close closes the connection in good order until ctx ends, then cuts it.
func (l *link) close(ctx context.Context) error { return nil }

package postgres

import (
	"context"
	"errors"
	"sync"

	"github.com/surepost/surepost/relay"
)

// control is the connection that leases are taken and renewed on. It is not the one that the log is read on, so that a
// renewal never waits for a long read; it is opened when first needed and again after an error.
type control struct {
	dialer Dialer
	mu     sync.Mutex
	conn   Conn
}

// ErrNoPool is returned where a store without a pool is asked for more than writing.
var ErrNoPool = errors.New("sqlstore: this store was made without a pool: it can write events and record handled ones in transactions of the caller, no more")

// do runs work on the connection. An error other than one of the relay's own closes it.
func (c *control) do(ctx context.Context, work func(Querier) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		conn, err := c.dialer.Dial(ctx)
		if err != nil {
			return err
		}
		c.conn = conn
	}
	err := work(c.conn)
	if err != nil && !ofTheRelay(err) {
		c.close(ctx)
	}
	return err
}

// ofTheRelay reports whether the error is an answer of the tables, and says nothing against the connection.
func ofTheRelay(err error) bool {
	var held *relay.LeaseHeldError
	var lanes *relay.LanesChangedError
	var taken *relay.OwnerTakenError
	return errors.As(err, &held) || errors.As(err, &lanes) || errors.As(err, &taken) || errors.Is(err, relay.ErrLeaseLost)
}

func (c *control) close(ctx context.Context) {
	if c.conn != nil {
		_ = c.conn.Close(ctx) // it is of no use any more, whatever the error
		c.conn = nil
	}
}

// Close ends the connections that it keeps. The engine may be used again afterwards.
func (e *Engine) Close(ctx context.Context) {
	for _, c := range []*control{&e.control, &e.mover} {
		c.mu.Lock()
		c.close(ctx)
		c.mu.Unlock()
	}
}

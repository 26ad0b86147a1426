package relay

import (
	"context"
	"errors"
	"sync"
	"time"
)

// clerk works with the log from a goroutine of its own, one request at a time, so that reading and storing go on
// while events are sent.
type clerk struct {
	log      Log
	limit    time.Duration // of a request
	requests chan clerkRequest
	results  chan clerkResult
	cancel   context.CancelFunc
	done     chan struct{}
}

// clerkResult is what came of a request.
type clerkResult struct {
	of      clerkTask
	err     error
	page    Page       // clerkRead
	entries []Entry    // clerkReleased
	stored  settlement // clerkStored
	clear   []string   // clerkStored: keys without a parked event
	keys    []string   // clerkParkedKeys
}

type clerkTask uint8

const (
	clerkRead clerkTask = iota + 1
	clerkReleased
	clerkStored
	clerkParkedKeys
)

// newClerk returns a clerk whose requests fail after limit: the lease is renewed on another connection, so a log that
// hangs must not keep the lane from other relays.
func newClerk(ctx context.Context, log Log, limit time.Duration) *clerk {
	ctx, cancel := context.WithCancel(ctx)
	// One read and one store may be outstanding, so neither channel ever makes anybody wait.
	c := &clerk{
		log: log, limit: limit, cancel: cancel, done: make(chan struct{}),
		requests: make(chan clerkRequest, 2), results: make(chan clerkResult, 2),
	}
	go c.work(ctx)
	return c
}

type clerkRequest struct {
	of clerkTask
	do func(context.Context) clerkResult
}

// work does one request after the other until one fails, since a log is of no use after an error, and closes the log at the
// end. A request that ran out of time is given up as by within, but without a goroutine for each: the log is left to the call
// that still uses it, and closed after that.
func (c *clerk) work(ctx context.Context) {
	ended := sync.OnceFunc(func() { close(c.done) })
	defer ended()
	defer closeLog(c.log)
	for {
		select {
		case <-ctx.Done():
			return
		case request := <-c.requests:
			if result, givenUp := c.do(ctx, request, ended); givenUp || result.err != nil {
				return
			}
		}
	}
}

// do does a request and answers it; unless that takes too long: then it was answered before do returns, and the clerk ended.
func (c *clerk) do(ctx context.Context, request clerkRequest, ended func()) (result clerkResult, givenUp bool) {
	limited, cancel := context.WithTimeoutCause(ctx, c.limit, errLogHangs)
	defer cancel()
	answered := make(chan struct{})
	var once sync.Once // who comes first: the log's answer, or giving up
	defer context.AfterFunc(limited, func() {
		grace := time.NewTimer(abandonAfter)
		defer grace.Stop()
		select {
		case <-answered:
		case <-grace.C:
			once.Do(func() {
				givenUp = true
				c.results <- clerkResult{of: request.of, err: context.Cause(limited)}
				ended()
			})
		}
	})()
	result = request.do(limited)
	once.Do(func() {
		c.results <- result
		close(answered)
	})
	return result, givenUp
}

var errLogHangs = errors.New("relay: the store's log didn't answer within the lease's time")

func (c *clerk) read(limit int) {
	c.requests <- clerkRequest{clerkRead, func(ctx context.Context) clerkResult {
		page, err := c.log.Read(ctx, limit)
		return clerkResult{of: clerkRead, page: page, err: err}
	}}
}

func (c *clerk) released(limit int) {
	c.requests <- clerkRequest{clerkReleased, func(ctx context.Context) clerkResult {
		entries, err := c.log.Released(ctx, limit)
		return clerkResult{of: clerkReleased, entries: entries, err: err}
	}}
}

// store writes the checkpoint first and removes released events after it, so that a key is never found free of parked
// events while one is on its way into the store.
func (c *clerk) store(s settlement) {
	c.requests <- clerkRequest{clerkStored, func(ctx context.Context) clerkResult {
		result := clerkResult{of: clerkStored, stored: s}
		if s.at != nil {
			if result.err = c.log.Checkpoint(ctx, s.at, s.parked); result.err != nil {
				return result
			}
		}
		if s.released() {
			result.clear, result.err = c.log.Unpark(ctx, s.published, s.again, s.keys)
		}
		return result
	}}
}

// parkedKeys asks for the parked keys and waits for them. Nothing else may be outstanding.
func (c *clerk) parkedKeys(ctx context.Context) ([]string, error) {
	c.requests <- clerkRequest{clerkParkedKeys, func(ctx context.Context) clerkResult {
		keys, err := c.log.ParkedKeys(ctx)
		return clerkResult{of: clerkParkedKeys, keys: keys, err: err}
	}}
	select {
	case result := <-c.results:
		return result.keys, result.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// close ends the clerk, which closes its log.
func (c *clerk) close() {
	c.cancel()
	<-c.done
}

// closeLog closes a log that is of no use any more, whatever comes of it.
func closeLog(l Log) {
	closing, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_, _ = within(closing, errorOnly(l.Close), nil)
}

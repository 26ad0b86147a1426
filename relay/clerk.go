package relay

import "context"

// clerk works with the log from a goroutine of its own, one request at a time, so that reading and storing go on
// while events are sent.
type clerk struct {
	log      Log
	requests chan func(context.Context) clerkResult
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
}

type clerkTask uint8

const (
	clerkRead clerkTask = iota + 1
	clerkReleased
	clerkStored
)

func newClerk(ctx context.Context, log Log) *clerk {
	ctx, cancel := context.WithCancel(ctx)
	// One read and one store may be outstanding, so neither channel ever makes anybody wait.
	c := &clerk{
		log: log, cancel: cancel, done: make(chan struct{}),
		requests: make(chan func(context.Context) clerkResult, 2), results: make(chan clerkResult, 2),
	}
	go func() {
		defer close(c.done)
		for {
			select {
			case <-ctx.Done():
				return
			case request := <-c.requests:
				c.results <- request(ctx)
			}
		}
	}()
	return c
}

func (c *clerk) read(limit int) {
	c.requests <- func(ctx context.Context) clerkResult {
		page, err := c.log.Read(ctx, limit)
		return clerkResult{of: clerkRead, page: page, err: err}
	}
}

func (c *clerk) released(limit int) {
	c.requests <- func(ctx context.Context) clerkResult {
		entries, err := c.log.Released(ctx, limit)
		return clerkResult{of: clerkReleased, entries: entries, err: err}
	}
}

// store writes the checkpoint first and removes released events after it, so that a key is never found free of parked
// events while one is on its way into the store.
func (c *clerk) store(s settlement) {
	c.requests <- func(ctx context.Context) clerkResult {
		result := clerkResult{of: clerkStored, stored: s}
		if s.at != nil {
			if result.err = c.log.Checkpoint(ctx, s.at, s.parked); result.err != nil {
				return result
			}
		}
		if len(s.published)+len(s.again)+len(s.keys) > 0 {
			result.clear, result.err = c.log.Unpark(ctx, s.published, s.again, s.keys)
		}
		return result
	}
}

// close ends the clerk and its log.
func (c *clerk) close() {
	c.cancel()
	<-c.done
	closing, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = c.log.Close(closing) // it is of no use any more, whatever the error
}

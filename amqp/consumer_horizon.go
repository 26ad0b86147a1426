package amqp

import "time"

// RedeliveryHorizon returns the longest time from an event's first delivery to its last try, for inbox.Retention: what its
// queue adds while nothing consumes it isn't part of it, nor are outages of the handler's surroundings, in which nothing is
// recorded.
//
// One delivery takes MaxAttempts times HandlerTimeout, once more for a batch, once more where it waits for attempts that may be
// under way in other processes, and the pauses of Backoff between; the broker takes it away after its consumer_timeout at the
// latest. A delivery that ends with its process or its connection is repeated, as often as DeliveryLimit allows, or MaxUnfinished
// if that is more. All of that comes once, and once more for each of RetryDelays, which are waited in between. With the defaults
// it is 10.5 hours.
func (c ConsumerConfig) RedeliveryHorizon() time.Duration {
	c = c.withDefaults()
	tries := time.Duration(c.MaxAttempts) + 1
	if c.BatchSize > 1 {
		tries++
	}
	delivery := tries * c.HandlerTimeout
	for retry := 1; retry < c.MaxAttempts; retry++ {
		delivery += c.Backoff.ceiling(retry)
	}
	delivery = min(delivery, brokerConsumeTimeout)
	round := time.Duration(1+max(c.DeliveryLimit, c.MaxUnfinished)) * delivery
	horizon := round
	for _, delay := range c.RetryDelays {
		horizon += delay + round
	}
	return horizon
}

package amqp

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// owners returns, for each partition, the member with the highest priority.
func owners(members []string, n int) []string {
	owner, most := make([]string, n), make([]int32, n)
	for _, m := range members {
		for p, priority := range priorities(m, n) {
			if priority > most[p] {
				owner[p], most[p] = m, priority
			}
		}
	}
	return owner
}

// TestPrioritiesSpreadPartitions about evenly: better than dice would.
func TestPrioritiesSpreadPartitions(t *testing.T) {
	for _, c := range []struct{ members, partitions int }{{2, 8}, {3, 12}, {4, 32}, {5, 100}} {
		const rounds = 300
		var squares float64
		for round := range rounds {
			var members []string
			for m := range c.members {
				members = append(members, fmt.Sprintf("%d/%d", round, m))
			}
			counts := map[string]int{}
			for _, o := range owners(members, c.partitions) {
				counts[o]++
			}
			for _, m := range members {
				off := float64(counts[m]) - float64(c.partitions)/float64(c.members)
				squares += off * off
			}
		}
		share := 1 / float64(c.members)
		got := squares / float64(rounds*c.members)
		dice := float64(c.partitions) * share * (1 - share)
		t.Logf("%d partitions over %d members: variance %.2f, of dice %.2f", c.partitions, c.members, got, dice)
		if got > dice*0.75 {
			t.Errorf("%d partitions over %d members: variance %.2f, want well below the dice's %.2f",
				c.partitions, c.members, got, dice)
		}
	}
}

// TestOnlyTheJoinersPartitionsMove: those of all others stay where they are.
func TestOnlyTheJoinersPartitionsMove(t *testing.T) {
	before := owners([]string{"a", "b", "c"}, 64)
	after := owners([]string{"a", "b", "c", "joiner"}, 64)
	moved := 0
	for p := range before {
		if before[p] != after[p] {
			moved++
			if after[p] != "joiner" {
				t.Errorf("partition %d moved from %s to %s", p, before[p], after[p])
			}
		}
	}
	if moved == 0 || moved > 40 {
		t.Errorf("%d partitions moved", moved)
	}
	for _, p := range priorities("a", maxPartitions) {
		if p <= 0 {
			t.Fatalf("priority %d isn't above that of a consumer without one", p)
		}
	}
}

// TestPrioritiesAreForWhoUnderstandsThem.
func TestPrioritiesAreForWhoUnderstandsThem(t *testing.T) {
	c := ConsumerConfig{Partitions: 4, member: "m"}
	if args := c.consumeArgs(1, serverVersion{4, 0}); args["x-priority"] != priorities("m", 4)[1] {
		t.Errorf("4.0: %v", args)
	}
	if args := c.consumeArgs(1, serverVersion{3, 13}); args != nil {
		t.Errorf("3.13: %v", args)
	}
	c.OnlyPartitions = []int{2}
	if args := c.consumeArgs(0, serverVersion{4, 0}); args != nil {
		t.Errorf("by hand: %v", args)
	}
	if args := (ConsumerConfig{}).consumeArgs(0, serverVersion{}); args != nil {
		t.Errorf("one queue: %v", args)
	}
}

// TestPartitionsKeepTheChannelsOrder: the library spreads one channel's messages over a Go channel each; an
// acknowledgement of several at once needs them in the order of their tags.
func TestPartitionsKeepTheChannelsOrder(t *testing.T) {
	const consumers, messages = 5, 2000
	s := &amqpSession{}
	ctx, end := context.WithCancelCause(t.Context())
	s.ctx, s.end = ctx, end
	feeds := make([]chan amqp091.Delivery, consumers)
	var read []<-chan amqp091.Delivery
	for i := range feeds {
		feeds[i] = make(chan amqp091.Delivery, messages)
		read = append(read, feeds[i])
	}
	for tag := range uint64(messages) {
		feeds[rand.IntN(consumers)] <- amqp091.Delivery{DeliveryTag: tag + 1}
	}
	merged := s.merge(read)
	for tag := range uint64(messages) {
		select {
		case d := <-merged:
			if d.DeliveryTag != tag+1 {
				t.Fatalf("tag %d came in place %d", d.DeliveryTag, tag+1)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("tag %d didn't come", tag+1)
		}
	}
	end(errSessionClosed)
	s.goroutines.Wait()
}

func partitioned(change func(*ConsumerConfig)) error {
	c := ConsumerConfig{Connection: Connection{URLs: []string{"amqp://localhost"}}, Queue: "q", Types: []string{"T"},
		Handler: handlerFunc(nil), Partitions: 4}
	change(&c)
	_, err := NewConsumer(c)
	return err
}

// TestBadPartitionsAreRefused, each with a remedy.
func TestBadPartitionsAreRefused(t *testing.T) {
	if err := partitioned(func(*ConsumerConfig) {}); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*ConsumerConfig)
		words  string
	}{
		"negative":         {func(c *ConsumerConfig) { c.Partitions = -1 }, "use 1 to 256"},
		"too many":         {func(c *ConsumerConfig) { c.Partitions, c.Prefetch = 257, 300 }, "use 1 to 256"},
		"competing":        {func(c *ConsumerConfig) { c.Competing = true }, "choose Partitions to scale out in order"},
		"classic":          {func(c *ConsumerConfig) { c.QueueType = ClassicQueue }, "use QuorumQueue"},
		"prefetch":         {func(c *ConsumerConfig) { c.Prefetch = 3 }, "at least one message for each"},
		"unknown way":      {func(c *ConsumerConfig) { c.PartitionBy = 7 }, "PartitionByKey or PartitionByRoutingKey"},
		"types":            {func(c *ConsumerConfig) { c.PartitionBy = PartitionByRoutingKey }, "would lose their order"},
		"no such":          {func(c *ConsumerConfig) { c.OnlyPartitions = []int{0, 4} }, "OnlyPartitions[1] is 4: use 0 to 3"},
		"twice":            {func(c *ConsumerConfig) { c.OnlyPartitions = []int{2, 2} }, "name each partition once"},
		"only without":     {func(c *ConsumerConfig) { c.Partitions, c.OnlyPartitions = 0, []int{1} }, "set Partitions to the number"},
		"way without":      {func(c *ConsumerConfig) { c.Partitions, c.PartitionBy = 0, PartitionByRoutingKey }, "without Partitions"},
		"long":             {func(c *ConsumerConfig) { c.Queue, c.DeadLetterQueue = strings.Repeat("q", 254), "d" }, "names of partitions"},
		"dead letter loop": {func(c *ConsumerConfig) { c.DeadLetterQueue = "q.3" }, "in a circle"},
		"exchange's name":  {func(c *ConsumerConfig) { c.DeadLetterQueue = "q" }, "partitions' exchange"},
	} {
		err := partitioned(test.change)
		if err == nil || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDeadLettersDontGoRoundInCircles.
func TestDeadLettersDontGoRoundInCircles(t *testing.T) {
	for dlq, words := range map[string]string{
		"q": "in a circle", "q.retry.5s": "in a circle", "amq.x": "for the broker", strings.Repeat("x", 256): "the limit is 255",
		"q.dlq": "", "shared.dead": "", "": "",
	} {
		err := partitioned(func(c *ConsumerConfig) {
			c.Partitions, c.DeadLetterQueue, c.RetryDelays = 0, dlq, []time.Duration{5 * time.Second}
		})
		if words == "" && err != nil || words != "" && (err == nil || !strings.Contains(err.Error(), words)) {
			t.Errorf("%.20s: %v", dlq, err)
		}
	}
}

func TestConsumedQueues(t *testing.T) {
	c := ConsumerConfig{Queue: "q"}
	if got := c.consumed(); !slices.Equal(got, []string{"q"}) {
		t.Error(got)
	}
	c.Partitions = 3
	if got := c.consumed(); !slices.Equal(got, []string{"q.0", "q.1", "q.2"}) {
		t.Error(got)
	}
	c.OnlyPartitions = []int{2, 0}
	if got := c.consumed(); !slices.Equal(got, []string{"q.2", "q.0"}) {
		t.Error(got)
	}
	for name, want := range map[string]bool{"q.0": true, "q.12": true, "q.012": false, "q.x": false, "q": false, "p.1": false, "q.-1": false} {
		if _, ok := cutPartition(name, "q"); ok != want {
			t.Errorf("%s is a partition of q: %v", name, ok)
		}
	}
}

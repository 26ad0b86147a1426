package amqp

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
)

// A partitioned subscription has N queues, and every event of a key goes to the same one:
//
//	events ──binding keys──▶ exchange <queue> ──hash of the key──▶ <queue>.0 … <queue>.N-1
//
// Each has a single active consumer, so that order per key holds across all processes, and each process consumes all of
// them over one channel. Which process is the active one of a partition is decided by the broker, by the priorities
// that the processes give (priorities).

// PartitionBy says what decides on an event's partition.
type PartitionBy uint8

const (
	// PartitionByKey hashes the header [HeaderPartitionKey], which every event of this package's publisher has: its
	// key. Exchange type x-consistent-hash, of RabbitMQ's plugin rabbitmq_consistent_hash_exchange. Messages without the
	// header all go to one and the same partition.
	PartitionByKey PartitionBy = iota
	// PartitionByRoutingKey hashes the routing key, for relays whose Routing publishes to an exchange of this
	// subscription's kind under a routing key that stands for the event's key and nothing else ("{key}", or
	// "orders.{key}"). With a type in the routing key, as in the default "{source}.{type}", a key's events would
	// spread over partitions and lose their order; so Types can't be bound, only BindingKeys. Exchange type
	// x-modulus-hash, of the plugin rabbitmq_sharding.
	PartitionByRoutingKey
)

// maxPartitions is more than any subscription of one broker needs: each is a Raft group with a leader, a few megabytes
// and timers of its own.
const maxPartitions = 256

// partition returns the name of a partition's queue.
func (c ConsumerConfig) partition(n int) string { return c.Queue + "." + strconv.Itoa(n) }

// cutPartition returns the number of a partition's queue.
func cutPartition(name, queue string) (n int, ok bool) {
	number, ok := strings.CutPrefix(name, queue+".")
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(number)
	return n, err == nil && n >= 0 && strconv.Itoa(n) == number
}

// consumed returns the queues that the consumer consumes.
func (c ConsumerConfig) consumed() []string {
	if c.Partitions == 0 {
		return []string{c.Queue}
	}
	var queues []string
	for _, n := range c.consumedPartitions() {
		queues = append(queues, c.partition(n))
	}
	return queues
}

func (c ConsumerConfig) consumedPartitions() []int {
	if len(c.OnlyPartitions) > 0 {
		return c.OnlyPartitions
	}
	all := make([]int, c.Partitions)
	for n := range all {
		all[n] = n
	}
	return all
}

// priorities deals out one member's priorities for n partitions. Of the members that consume a partition, the one with
// the highest priority is its active one. As in rendezvous hashing nobody needs to know of the others, and a member that
// joins or leaves moves only the partitions that it gets or had.
//
// Drawn independently, priorities would spread the partitions like dice: of 8, each of two members would get 1 or 2 in
// one case of seven. So a member deals like a hand of cards: every rank from 0 to n-1 once, in an order of its own. Who
// is strong here is weak there, which cuts the variance to a third. Equal ranks are decided by the bits below.
func priorities(member string, n int) []int32 {
	const tieBits = 20 // with 8 bits of rank they fit into any integer that the broker may use
	type card struct {
		partition int
		hash      uint64
	}
	cards := make([]card, n)
	for p := range cards {
		sum := sha256.Sum256([]byte(member + "/" + strconv.Itoa(p)))
		cards[p] = card{p, binary.BigEndian.Uint64(sum[:])}
	}
	slices.SortFunc(cards, func(a, b card) int { return cmp.Compare(a.hash, b.hash) })
	dealt := make([]int32, n)
	for rank, c := range cards {
		dealt[c.partition] = int32(rank<<tieBits|int(c.hash&(1<<tieBits-1))) + 1 // above 0, every other consumer's
	}
	return dealt
}

// consumeArgs returns the arguments with which the n-th of the consumed queues is consumed.
func (c ConsumerConfig) consumeArgs(n int, v serverVersion) amqp091.Table {
	if c.Partitions == 0 || len(c.OnlyPartitions) > 0 || !v.movesActiveConsumer() {
		return nil
	}
	return amqp091.Table{"x-priority": priorities(c.member, c.Partitions)[n]}
}

// partitionExchange spreads the events over the partitions. Of its arguments RabbitMQ compares none when it is
// declared again.
func (c ConsumerConfig) partitionExchange() Exchange {
	if c.PartitionBy == PartitionByRoutingKey {
		return Exchange{Name: c.Queue, Kind: "x-modulus-hash"}
	}
	return Exchange{Name: c.Queue, Kind: "x-consistent-hash", Args: map[string]any{"hash-header": HeaderPartitionKey}}
}

// ensurePartitions declares or verifies the partitions and what leads to them. The order counts twice:
//   - Queues from the last to the first, so that, whoever dies meanwhile, the first one is there only if all are: that
//     is how checkPartitions knows a set of another size.
//   - Bindings from the first to the last. A consistent-hash exchange numbers its queues as they are bound, so that
//     every order would be another spread; and of several consumers that begin at once, none can bind a queue before
//     all lower ones are bound.
func (c ConsumerConfig) ensurePartitions(ctx context.Context, l *link) error {
	if !c.resumed {
		if err := c.checkPartitions(ctx, l); err != nil {
			return err
		}
	}
	for n := c.Partitions - 1; n >= 0; n-- {
		if err := ensureQueue(ctx, l, c.Mode, c.partition(n), c.queueArgs()); err != nil {
			return err
		}
	}
	if err := c.partitionExchange().ensure(ctx, l, c.Mode); err != nil {
		return err
	}
	const weight = "1" // to a consistent-hash exchange a binding's key is the share that the queue gets
	for n := range c.Partitions {
		if err := ensureBinding(ctx, l, c.Mode, c.Queue, c.partition(n), weight); err != nil {
			return err
		}
	}
	for _, key := range c.bindingKeys() {
		if err := ensureExchangeBinding(ctx, l, c.Mode, c.Exchange, c.Queue, key); err != nil {
			return err
		}
	}
	return nil
}

// errPartitionsDiffer is the cause of a [*TopologyError] about partitions that are there in another number.
var errPartitionsDiffer = errors.New("the queues that are there show it")

// checkPartitions finds a set of queues that was made for another number of partitions, or for none: with more queues
// bound than are consumed events would wait for ever, and with fewer the keys would change places while earlier events
// of theirs still wait.
func (c ConsumerConfig) checkPartitions(ctx context.Context, l *link) error {
	if c.Mode == None {
		return nil
	}
	differ := func(problem string) error {
		return &TopologyError{Verb: "declare", Entity: "partitions", Name: c.Queue, Vhost: l.vhost(),
			Code: amqp091.PreconditionFailed, Argument: "Partitions", Asked: strconv.Itoa(c.Partitions),
			Problem: problem,
			Remedy: "set Partitions as it was; or, to change it without losing the order, unbind the exchange " +
				strconv.Quote(c.Queue) + " from " + strconv.Quote(c.Exchange) + " (stop the relay, or keep its events by a queue " +
				"of their own), let the consumers empty the queues, stop them, and delete exchange and queues",
			Err: errPartitionsDiffer}
	}
	if there, err := queueExists(ctx, l, c.partition(c.Partitions)); err != nil {
		return err
	} else if there {
		return differ(fmt.Sprintf("Partitions is %d, but there is a queue %q, of a larger number",
			c.Partitions, c.partition(c.Partitions)))
	}
	if there, err := queueExists(ctx, l, c.Queue); err != nil {
		return err
	} else if there {
		return differ(fmt.Sprintf("Partitions is %d, but there is a queue %q, of the subscription without partitions",
			c.Partitions, c.Queue))
	}
	first, err := queueExists(ctx, l, c.partition(0))
	if err != nil || !first || c.Partitions == 1 {
		return err
	}
	if last, err := queueExists(ctx, l, c.partition(c.Partitions-1)); err != nil {
		return err
	} else if !last {
		return differ(fmt.Sprintf("Partitions is %d, but there is a queue %q and no %q: the number was smaller, "+
			"or somebody has deleted the last one", c.Partitions, c.partition(0), c.partition(c.Partitions-1)))
	}
	return nil
}

func (c ConsumerConfig) validatePartitions(bad func(string, ...any)) {
	if c.Partitions < 0 || c.Partitions > maxPartitions {
		bad("Partitions is %d: use 1 to %d, or 0 for one queue without partitions", c.Partitions, maxPartitions)
	}
	if c.PartitionBy > PartitionByRoutingKey {
		bad("PartitionBy is %d: use PartitionByKey or PartitionByRoutingKey", c.PartitionBy)
	}
	if c.Partitions <= 0 {
		if len(c.OnlyPartitions) > 0 {
			bad("OnlyPartitions is set without Partitions: set Partitions to the number of all")
		}
		if c.PartitionBy != PartitionByKey {
			bad("PartitionBy is set without Partitions: set Partitions to their number")
		}
		return
	}
	if c.Competing {
		bad("Competing and Partitions are both set: choose Partitions to scale out in order, or Competing to give it up")
	}
	if c.QueueType == ClassicQueue {
		bad("Partitions is set with ClassicQueue: use QuorumQueue, since only those move their single active consumer " +
			"in order")
	}
	if c.PartitionBy == PartitionByRoutingKey && len(c.Types) > 0 {
		bad("PartitionByRoutingKey is set with Types, whose routing keys end in the type, so that the events of a key " +
			"would lose their order: publish under the key alone and set BindingKeys, or use PartitionByKey")
	}
	if name := c.partition(c.Partitions - 1); len(name) > surepost.MaxNameBytes {
		bad("Queue makes names of partitions with %d bytes, the limit is %d: shorten it", len(name), surepost.MaxNameBytes)
	}
	for i, n := range c.OnlyPartitions {
		switch {
		case n < 0 || n >= c.Partitions:
			bad("OnlyPartitions[%d] is %d: use 0 to %d (Partitions is %d)", i, n, c.Partitions-1, c.Partitions)
		case slices.Contains(c.OnlyPartitions[:i], n):
			bad("OnlyPartitions[%d] is %d for the second time: name each partition once", i, n)
		}
	}
	if n := len(c.consumedPartitions()); c.Prefetch > 0 && c.Prefetch < n {
		bad("Prefetch is %d for %d partitions, which share it: use at least one message for each", c.Prefetch, n)
	}
}

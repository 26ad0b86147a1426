package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// kind is a sort of fault.
type kind struct {
	name   string
	weight int // how often it comes, once each kind has had its turn

	// of says what the fault may hit: it draws the target.
	of func(*rand.Rand) string
	// lasts is how long it lasts at least and at most; for a process that is killed, until it is started again. Zero for
	// what takes as long as it takes.
	least, most time.Duration
	// after is how long its target needs afterwards: it is left alone for so long.
	after time.Duration

	private  bool // needs a server that is nobody else's
	database bool // is done by way of the database
	broker   bool // … the broker
}

// heavy reports whether a run must leave time after it.
func (k kind) heavy() bool { return k.private && k.after > 0 }

// The relays' lease is short, since this program kills them and has little time.
const leaseTTL = 3 * time.Second

const (
	anyDatabase = "postgres"
	anyBroker   = "rabbitmq"
	theLog      = "log"
)

func always(target string) func(*rand.Rand) string {
	return func(*rand.Rand) string { return target }
}

func oneOf(names ...string) func(*rand.Rand) string {
	return func(r *rand.Rand) string { return names[r.IntN(len(names))] }
}

// aLink draws whose connections suffer, and to which server: usually one process's, sometimes everybody's.
func aLink(r *rand.Rand) string {
	server := oneOf(anyDatabase, anyBroker)(r)
	if r.IntN(4) == 0 {
		return "all>" + server
	}
	names := roleNames()
	if server == anyBroker {
		names = slices.DeleteFunc(names, func(name string) bool { return !roles[name].broker })
	}
	return oneOf(names...)(r) + ">" + server
}

func aProcess(r *rand.Rand) string { return oneOf(roleNames()...)(r) }

func aRelay(r *rand.Rand) string { return oneOf("relay-1", "relay-2", "relay-3")(r) }

// kinds are all sorts of faults.
var kinds = []kind{
	{name: "kill", weight: 6, of: aProcess, least: 50 * time.Millisecond, most: 3 * time.Second, after: time.Second},
	{name: "freeze", weight: 4, of: aProcess, least: 200 * time.Millisecond, most: 5 * time.Second},
	{name: "lease-long-pause", weight: 3, of: aRelay, least: leaseTTL, most: 2 * leaseTTL, after: time.Second},

	{name: "cut", weight: 4, of: aLink},
	{name: "cut-unnoticed-by-server", weight: 2, of: aLink, least: 500 * time.Millisecond, most: 5 * time.Second},
	{name: "cut-unnoticed-by-client", weight: 2, of: aLink, least: 500 * time.Millisecond, most: 5 * time.Second},
	{name: "stall", weight: 3, of: aLink, least: 200 * time.Millisecond, most: 6 * time.Second},
	{name: "stall-one-way", weight: 3, of: aLink, least: 200 * time.Millisecond, most: 6 * time.Second},
	{name: "half-close", weight: 3, of: aLink},
	{name: "trickle", weight: 2, of: aLink, least: time.Second, most: 5 * time.Second},
	{name: "latency", weight: 1, of: aLink, least: time.Second, most: 5 * time.Second},
	{name: "refuse", weight: 2, of: aLink, least: 500 * time.Millisecond, most: 4 * time.Second},

	{name: "terminate-backends", weight: 3, of: always("backends"), database: true},
	{name: "postgres-crash", weight: 1, of: always(anyDatabase), least: 100 * time.Millisecond, most: 2 * time.Second, after: 4 * time.Second, private: true},
	{name: "postgres-immediate-shutdown", weight: 1, of: always(anyDatabase), least: 100 * time.Millisecond, most: 2 * time.Second, after: 4 * time.Second, private: true},
	{name: "postgres-freeze", weight: 1, of: always(anyDatabase), least: 500 * time.Millisecond, most: 4 * time.Second, private: true},
	{name: "long-writer", weight: 2, of: always("long-writer"), least: 2 * time.Second, most: 10 * time.Second, database: true},
	{name: "prepared-transaction", weight: 2, of: always("prepared"), least: 2 * time.Second, most: 10 * time.Second, database: true},
	{name: "long-reader", weight: 2, of: always("long-reader"), least: 2 * time.Second, most: 10 * time.Second, database: true},
	{name: "vacuum", weight: 2, of: always("vacuum"), database: true},
	{name: "truncate", weight: 4, of: always(theLog), least: 2 * time.Second, most: 6 * time.Second, database: true},
	{name: "change-lanes", weight: 3, of: always("lanes"), database: true},

	{name: "rabbitmq-crash", weight: 1, of: always(anyBroker), least: 100 * time.Millisecond, most: 2 * time.Second, after: 15 * time.Second, private: true},
	{name: "rabbitmq-freeze", weight: 1, of: always(anyBroker), least: 500 * time.Millisecond, most: 4 * time.Second, private: true},
	{name: "memory-alarm", weight: 1, of: always(anyBroker), least: time.Second, most: 4 * time.Second, after: 6 * time.Second, private: true},
	{name: "close-connections", weight: 1, of: always("connections"), broker: true},
}

func kindNames() []string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = k.name
	}
	return names
}

// fault is something that shall go wrong.
type fault struct {
	at     time.Duration // since the work began
	kind   kind
	target string // a process, "process>server" for its connections, or a server
	lasts  time.Duration
	draw   uint64 // what its further choices are made from
}

func (f fault) String() string {
	text := fmt.Sprintf("%6.1fs  %s", f.at.Seconds(), f.kind.name)
	switch {
	case strings.Contains(f.target, ">"), roles[f.target].run != nil:
		text += " " + f.target
	}
	if f.lasts > 0 {
		text += fmt.Sprintf(" for %v", f.lasts.Round(time.Millisecond))
	}
	return text
}

// resources are what the fault needs for itself: two that would undo each other never overlap.
func (f fault) resources() []string {
	process, server, link := strings.Cut(f.target, ">")
	if !link {
		return []string{f.target}
	}
	if process != "all" {
		return []string{f.target}
	}
	var all []string
	for _, name := range roleNames() {
		if server == anyDatabase || roles[name].broker {
			all = append(all, name+">"+server)
		}
	}
	return all
}

const (
	// planBegin leaves the first seconds in peace: a quorum queue that is killed within a second of its declaration comes
	// back empty, which is RabbitMQ's own.
	planBegin = 3 * time.Second
	// planEnd leaves the last moments in peace, so that the faults end about when the work does.
	planEnd = 500 * time.Millisecond
)

// plan draws the faults of a run, by their time. The same arguments give the same faults: at first, in random order, one of
// each kind as far as they fit in, then more by weight.
func plan(seed uint64, duration, every time.Duration, only []string) []fault {
	r := rand.New(rand.NewPCG(seed, 0x5ca1ab1e))
	var bag, refill []kind
	for _, k := range kinds {
		if len(only) == 0 || slices.Contains(only, k.name) {
			bag = append(bag, k)
			for range k.weight {
				refill = append(refill, k)
			}
		}
	}
	r.Shuffle(len(bag), func(i, j int) { bag[i], bag[j] = bag[j], bag[i] })
	// What takes longest to heal has its turn in the first third, or a run of a minute would end before.
	early := len(bag) / 3
	for i := early; i < len(bag); i++ {
		if k := bag[i]; k.heavy() {
			bag = slices.Insert(slices.Delete(bag, i, i+1), r.IntN(early+1), k)
		}
	}

	var faults []fault
	busy := map[string]time.Duration{} // until when something needs its target
	for at := planBegin; at < duration-planEnd; at += every/2 + time.Duration(r.Int64N(int64(every))) {
		if len(bag) == 0 {
			bag = slices.Clone(refill)
			r.Shuffle(len(bag), func(i, j int) { bag[i], bag[j] = bag[j], bag[i] })
		}
		for i, k := range bag {
			f := fault{at: at, kind: k, target: k.of(r), draw: r.Uint64()}
			if k.most > 0 {
				f.lasts = k.least + time.Duration(r.Int64N(int64(k.most-k.least)+1))
			}
			free := !slices.ContainsFunc(f.resources(), func(name string) bool { return busy[name] > at })
			if !free || k.heavy() && at+f.lasts+k.after > duration {
				continue
			}
			f.lasts = min(f.lasts, max(k.least, duration-planEnd-at))
			for _, name := range f.resources() {
				busy[name] = at + f.lasts + k.after
			}
			faults = append(faults, f)
			bag = slices.Delete(bag, i, i+1)
			break
		}
	}
	return faults
}

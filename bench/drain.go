package main

import (
	"context"
	"slices"
	"strings"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

var drain = benchmark{
	name: "drain",
	compares: "The relay, with its defaults, publishes a log of events from PostgreSQL to a durable queue, " +
		"persistent, mandatory " +
		"and confirmed; the reference is amqp091-go alone with the same messages ready in memory, one connection, " +
		"one channel, " +
		"confirms pipelined in the same window. Once with a classic queue, once with a quorum queue, which is what " +
		"Surepost's consumers declare.",
	defaults: options{events: 200_000, rounds: 3},
	smoke:    options{events: 300, rounds: 1},
	run:      runDrain,
}

const drainQueue = "drained"

func runDrain(ctx context.Context, l *lab) ([]result, error) {
	var results []result
	for name, queueType := range map[string]string{"drain/classic": "classic", "drain/quorum": "quorum"} {
		r, err := l.drainInto(ctx, name, queueType)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	slices.SortFunc(results, func(a, b result) int { return strings.Compare(a.Case, b.Case) })
	return results, nil
}

func (l *lab) drainInto(ctx context.Context, name, queueType string) (result, error) {
	_, bodyBytes, err := publishings(ctx, 0, 1000)
	if err != nil {
		return result{}, err
	}
	if err := l.declare(drainQueue, amqp091.Table{amqp091.QueueTypeArg: queueType}); err != nil {
		return result{}, err
	}
	defer l.discard(drainQueue)
	cpu, peak := map[string][]float64{}, []float64{}
	s, err := alternate(ctx, l.rounds,
		side{"relay", func(ctx context.Context) (float64, error) {
			if err := writeEvents(ctx, l.pool, l.box, l.events); err != nil {
				return 0, err
			}
			r, err := l.drained(ctx, job{Worker: "relay", Postgres: l.url, Events: l.events})
			cpu["relay"] = append(cpu["relay"], 1e6*r.CPUSeconds/float64(l.events))
			peak = append(peak, r.PeakMiB)
			return r.rate(l.events), err
		}},
		side{"client", func(ctx context.Context) (float64, error) {
			r, err := l.drained(ctx, job{Worker: "client", Events: l.events})
			cpu["client"] = append(cpu["client"], 1e6*r.CPUSeconds/float64(l.events))
			return r.rate(l.events), err
		}})
	if err != nil {
		return result{}, err
	}
	settings := s.settings("relay", "client")
	settings["events"], settings["keys"], settings["window"] = l.events, eventKeys, clientWindow
	settings["body_bytes"], settings["queue"] = bodyBytes, queueType+", durable"
	settings["reference"] = "client: amqp091-go alone, one connection, one channel, deferred confirms, messages " +
		"in memory"
	settings["clock"] = "from before connecting to the last confirm; each side in a process of its own"
	settings["cpu_us_per_event"] = map[string]float64{
		"relay": rounded(median(cpu["relay"])), "client": rounded(median(cpu["client"])),
	}
	settings["peak_mib_of_relay"] = rounded(median(peak))
	return newRate(name, "events/s", s.median("relay"), s.median("client"), settings).atLeast(1.1), nil
}

// drained lets a worker publish to the drained queue, after a checkpoint so that it doesn't pay for what was written
// before, and checks that all of it arrived.
func (l *lab) drained(ctx context.Context, j job) (report, error) {
	if err := l.exec(ctx, "CHECKPOINT"); err != nil {
		return report{}, err
	}
	r, err := l.employ(ctx, j)
	if err != nil {
		return r, err
	}
	return r, l.empty(drainQueue, r.Published)
}

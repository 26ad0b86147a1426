package main

import (
	"cmp"
	"context"
	"maps"
	"slices"
)

var peers = benchmark{
	name: "peers",
	compares: "The drain case's relay against Watermill's forwarder (watermill-sql to watermill-amqp) and against " +
		"River jobs that " +
		"publish and wait for the confirm: the same events, broker, durable queue, persistent and confirmed; the " +
		"ratio is to " +
		"the faster peer.",
	defaults: options{events: 20_000, rounds: 3},
	smoke:    options{events: 100, rounds: 1},
	run:      runPeers,
}

// peer is one way to drain with other libraries. Each is tried with the settings that its documentation names, and
// with others that gave more here; the best one counts.
type peer struct {
	name     string
	parallel int
	worker   string
	fill     func(ctx context.Context, url string, events, parallel int) error
	settings string
}

var contenders = []peer{
	{"watermill", 1, "watermill", fillWatermill,
		"one forwarder: batch 1000, channel pool, ConfirmDelivery, poll 10 ms; keeps the order"},
	{"watermill-16", 16, "watermill", fillWatermill,
		"16 forwarders with a table each and 16 pooled channels, events spread by key: keeps the order per key"},
	{"river-100", 100, "river", ignoreParallel(fillRiver),
		"MaxWorkers 100 on one confirm channel, FetchCooldown and FetchPollInterval 1 ms, 20 connections; keeps " +
			"no order"},
	{"river-1000", 1000, "river", ignoreParallel(fillRiver),
		"MaxWorkers 1000, else the same; keeps no order"},
}

func ignoreParallel(fill func(context.Context, string, int) error) func(context.Context, string, int, int) error {
	return func(ctx context.Context, url string, events, _ int) error { return fill(ctx, url, events) }
}

// relayTimes is how many more events the relay gets than a peer, so that its rounds aren't over in no time. Rates
// are compared; fewer events are rather to a peer's advantage, since its tables stay small.
const relayTimes = 5

func runPeers(ctx context.Context, l *lab) ([]result, error) {
	if err := l.declare(drainQueue, nil); err != nil {
		return nil, err
	}
	defer l.discard(drainQueue)
	sides := []side{{"surepost", func(ctx context.Context) (float64, error) {
		events := l.events * relayTimes
		if err := writeEvents(ctx, l.pool, l.box, events); err != nil {
			return 0, err
		}
		if err := l.exec(ctx, "VACUUM ANALYZE"); err != nil {
			return 0, err
		}
		r, err := l.drained(ctx, job{Worker: "relay", Postgres: l.url, Events: events})
		return r.rate(events), err
	}}}
	for _, p := range contenders {
		sides = append(sides, side{p.name, func(ctx context.Context) (float64, error) {
			r, err := l.drainedByPeer(ctx, p)
			return r.rate(l.events), err
		}})
	}
	s, err := alternate(ctx, l.rounds, sides...)
	if err != nil {
		return nil, err
	}

	best := slices.MaxFunc(contenders, func(a, b peer) int { return cmp.Compare(s.median(a.name), s.median(b.name)) })
	settings := s.settings("surepost", best.name)
	maps.Copy(settings, map[string]any{
		"best_peer": best.name, "peer": best.settings,
		"events": map[string]int{"surepost": l.events * relayTimes, "each peer": l.events},
		"tables": "vacuumed and analysed after each filling; a database of its own for each peer and round",
		"versions": map[string]string{
			"watermill":      moduleVersion("github.com/ThreeDotsLabs/watermill"),
			"watermill-sql":  moduleVersion("github.com/ThreeDotsLabs/watermill-sql/v3"),
			"watermill-amqp": moduleVersion("github.com/ThreeDotsLabs/watermill-amqp/v3"),
			"river":          moduleVersion("github.com/riverqueue/river"),
		},
	})
	results := []result{newRate("peers", "events/s", s.median("surepost"), s.median(best.name), settings).atLeast(10)}
	for _, p := range contenders {
		settings := s.settings(p.name)
		settings["peer"] = p.settings
		results = append(results, newRate("peers/"+p.name, "events/s", s.median("surepost"), s.median(p.name), settings))
	}
	return results, nil
}

// drainedByPeer fills a database of its own and lets the peer drain it.
func (l *lab) drainedByPeer(ctx context.Context, p peer) (report, error) {
	url, pool, store, err := l.newDatabase(ctx, p.name)
	if err != nil {
		return report{}, err
	}
	defer pool.Close()
	defer store.Close(ctx)
	if err := p.fill(ctx, url, l.events, p.parallel); err != nil {
		return report{}, err
	}
	if err := execAll(ctx, pool, "VACUUM ANALYZE"); err != nil {
		return report{}, err
	}
	return l.drained(ctx, job{Worker: p.worker, Postgres: url, Events: l.events, Parallel: p.parallel})
}

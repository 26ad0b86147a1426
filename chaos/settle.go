package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

const (
	settlePoll = 300 * time.Millisecond
	// quietFor is how long nothing may come any more before all is taken to be settled: a copy that is still on its way must
	// have its chance to do harm.
	quietFor = 2 * time.Second
	// settleLimit bounds the end, however much still moves.
	settleLimit = 10 * time.Minute
	// asking bounds one question to a server.
	asking = 5 * time.Second
)

// standing is how far everything is, by the database and the broker.
type standing struct {
	missing   int64 // effects
	effects   int64
	backlog   int64
	scheduled int64
	parked    int64
	queued    int // messages that wait in the consumers' queues
	copies    int64
}

func (s standing) complete() bool {
	return s.missing == 0 && s.backlog == 0 && s.scheduled == 0 && s.parked == 0 && s.queued == 0
}

func (s standing) String() string {
	return fmt.Sprintf("%d effects missing, %d events to be published, %d scheduled, %d parked, %d messages in queues",
		s.missing, s.backlog, s.scheduled, s.parked, s.queued)
}

// settle waits until everything that was written has had its effects, or until nothing has moved for the patience though
// something is missing. It returns when all was there, zero if it never was, and else what is in the way.
func (st *stage) settle(ctx context.Context, tick func(standing)) (complete time.Time, waiting []string, err error) {
	var last standing
	moved, end := time.Now(), time.Now().Add(settleLimit)
	for {
		now, err := st.standing(ctx)
		if err == nil {
			tick(now)
			if now != last {
				last, moved = now, time.Now()
			}
			if !now.complete() {
				complete = time.Time{}
			} else if complete.IsZero() {
				complete = time.Now()
			}
		}
		still := time.Since(moved)
		if !complete.IsZero() && still >= quietFor {
			return complete, nil, nil
		}
		if still >= st.patience || time.Now().After(end) {
			waiting, askErr := st.waiting(ctx)
			if err := errors.Join(err, askErr); err != nil {
				return time.Time{}, nil, fmt.Errorf("the servers don't say how things stand: %w", err)
			}
			return time.Time{}, waiting, nil
		}
		if !pause(ctx, settlePoll) {
			return time.Time{}, nil, context.Cause(ctx)
		}
	}
}

func (st *stage) standing(ctx context.Context) (s standing, err error) {
	ctx, cancel := context.WithTimeout(ctx, asking)
	defer cancel()
	var events, by []string
	for kind, consumers := range handledBy {
		for _, consumer := range consumers {
			events, by = append(events, kind), append(by, consumer)
		}
	}
	err = st.pool.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM chaos_written w JOIN unnest($1::text[], $2::text[]) AS h (type, consumer) USING (type)
				WHERE NOT (w.poison AND h.consumer = $3)
					AND NOT EXISTS (SELECT FROM chaos_effect e WHERE e.event_id = w.event_id AND e.consumer = h.consumer)),
			(SELECT count(*) FROM chaos_effect)`, events, by, billing).Scan(&s.missing, &s.effects)
	if err != nil {
		return s, err
	}
	status, err := st.store.Status(ctx)
	if err != nil {
		return s, err
	}
	s.scheduled = status.Scheduled
	for _, d := range status.Destinations {
		s.backlog += d.Backlog()
		s.parked += d.Parked
	}
	queued, err := st.queued(ctx)
	for _, n := range queued {
		s.queued += n
	}
	_, _, _, s.copies = st.counts()
	return s, err
}

// queued returns how many messages wait in each consumer's queue. Those that are being handled don't count.
func (st *stage) queued(ctx context.Context) (queued map[string]int, err error) {
	deadline, _ := ctx.Deadline()
	conn, err := amqp091.DialConfig(st.env.RabbitMQ.URL(), amqp091.Config{Dial: amqp091.DefaultDial(time.Until(deadline))})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	queued = map[string]int{}
	for _, name := range consumers {
		queue, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
		if err != nil {
			return nil, err
		}
		queued[name] = queue.Messages
	}
	return queued, nil
}

var consumers = []string{billing, shipping, audit}

// waiting says what is still on its way, and where.
func (st *stage) waiting(ctx context.Context) (waiting []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, asking)
	defer cancel()
	status, err := st.store.Status(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range status.Destinations {
		for _, l := range d.LanesStatus {
			if l.Backlog > 0 {
				waiting = append(waiting, fmt.Sprintf(
					"lane %s has %d events to publish, the oldest of %s; its owner is %q, its last checkpoint of %s",
					l.Lane, l.Backlog, l.OldestUnpublished.Format(time.TimeOnly), l.Owner, l.CheckpointAt.Format(time.TimeOnly)))
			}
		}
		if d.Parked > 0 {
			waiting = append(waiting, fmt.Sprintf("%d events are parked", d.Parked))
		}
	}
	if status.Scheduled > 0 {
		waiting = append(waiting, fmt.Sprintf("%d events are scheduled", status.Scheduled))
	}
	queued, err := st.queued(ctx)
	for name, n := range queued {
		if n > 0 {
			waiting = append(waiting, fmt.Sprintf("%d messages wait in the queue %s", n, name))
		}
	}
	slices.Sort(waiting)
	return waiting, err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/surepost/surepost"
)

const (
	writers = 4 // of each producer: so many transactions are open at once
	keys    = 60

	// delayedKey is what the keys of delayed events begin with. They have an order of their own, by NotBefore.
	delayedKey = "delayed/"
)

// transaction is a producer's database transaction, whatever library it is of.
type transaction interface {
	exec(ctx context.Context, sql string, args ...any) error
	number(ctx context.Context, sql, key string) (int64, error)
	write(ctx context.Context, events []surepost.Event) error
	commit(ctx context.Context) error
	rollback()
}

// producer writes orders until it is stopped.
type producer struct {
	surroundings
	begin        func(ctx context.Context) (transaction, error)
	outside      func(ctx context.Context, events []surepost.Event) error // planted: writes events in a transaction of their own
	tell         *teller
	acknowledged *os.File
}

// order is what a business transaction will do.
type order struct {
	keys     []string // in their order, so that no two transactions wait for each other
	events   int      // of each key
	poison   bool
	delay    time.Duration
	regret   bool          // an event is written in a savepoint that is rolled back
	hold     time.Duration // between the events and the end
	rollback bool
}

// draw draws what is usual, and at times what is not.
func (p *producer) draw() order {
	seldom := func(percent int) bool { return rand.IntN(100) < percent }
	o := order{events: 1, poison: rand.IntN(300) == 0, regret: seldom(5), rollback: seldom(10)}
	of := keys
	if p.Planted == "no-row-lock" {
		of = 3 // or two would seldom meet
	}
	for range 1 + rand.IntN(10)/7 { // 1 or 2
		o.keys = append(o.keys, fmt.Sprintf("%02d", rand.IntN(of)))
	}
	slices.Sort(o.keys)
	o.keys = slices.Compact(o.keys)
	if seldom(10) {
		o.events = 2
	}
	if seldom(3) {
		o.delay = time.Duration(rand.IntN(2000)) * time.Millisecond
	}
	if seldom(3) {
		o.hold = time.Duration(rand.IntN(2000)) * time.Millisecond
	}
	return o
}

// run writes orders at the rate, until ctx ends.
func (p *producer) run(ctx context.Context) (err error) {
	p.acknowledged, err = os.OpenFile(acknowledgedFile(p.Folder, p.Name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer p.acknowledged.Close()
	pace := time.Duration(float64(writers) * 2 * 1.4 / p.Rate * float64(time.Second)) // two producers, and 1.4 events an order
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for ctx.Err() == nil {
				select {
				case <-time.After(rand.N(2 * pace)):
				case <-ctx.Done():
					return
				}
				limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), producerTimeout)
				if err := p.place(limited, p.draw()); err != nil && !errors.Is(err, errOnPurpose) {
					slog.Info("an order came to nothing, as far as is known", "err", err)
				}
				cancel()
			}
		})
	}
	p.tell.ready()
	group.Wait()
	return nil
}

var errOnPurpose = errors.New("rolled back on purpose")

// place writes an order. After an error nothing of it is there, or all of it, if it came from the commit.
func (p *producer) place(ctx context.Context, o order) error {
	tx, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer tx.rollback()
	var events []surepost.Event
	for _, name := range o.keys {
		for range o.events {
			event, err := p.enter(ctx, tx, name, o)
			if err != nil {
				return err
			}
			events = append(events, event)
		}
	}
	if o.regret {
		if err := p.regret(ctx, tx, o); err != nil {
			return err
		}
	}
	if p.Planted == "event-outside-transaction" {
		err = p.outside(ctx, events)
	} else {
		err = tx.write(ctx, events)
	}
	if err != nil {
		return err
	}
	select {
	case <-time.After(o.hold):
	case <-ctx.Done():
		return ctx.Err()
	}
	if o.rollback {
		return errOnPurpose
	}
	if err := tx.commit(ctx); err != nil {
		return err
	}
	p.tell.done.Add(int64(len(events)))
	return p.acknowledge(events)
}

// enter makes an event, and enters it in the ledger.
func (p *producer) enter(ctx context.Context, tx transaction, name string, o order) (event surepost.Event, err error) {
	event = surepost.Event{ID: surepost.NewID(), Type: placed, Key: "placed/" + name, Source: "shop"}
	if o.delay > 0 {
		event.Key, event.NotBefore = delayedKey+name, time.Now().Add(o.delay)
	}
	sql := nextNumber
	if p.Planted == "no-row-lock" {
		sql = `SELECT nextval('chaos_planted') + 0 * length($1)`
	}
	number, err := tx.number(ctx, sql, event.Key)
	if err != nil {
		return event, err
	}
	event.Data = data{Number: number, Poison: o.poison}
	return event, tx.exec(ctx, noteWritten, event.ID, event.Type, event.Key, number, "", o.poison, p.Name)
}

// regret writes an event that must never be seen.
func (p *producer) regret(ctx context.Context, tx transaction, o order) error {
	if err := tx.exec(ctx, "SAVEPOINT regret"); err != nil {
		return err
	}
	event, err := p.enter(ctx, tx, o.keys[0], o)
	if err != nil {
		return err
	}
	if err := tx.write(ctx, []surepost.Event{event}); err != nil {
		return err
	}
	return tx.exec(ctx, "ROLLBACK TO SAVEPOINT regret")
}

// acknowledge notes, outside the database, that it said that the events are committed.
func (p *producer) acknowledge(events []surepost.Event) error {
	var lines strings.Builder
	for _, e := range events {
		lines.WriteString(e.ID + "\n")
	}
	_, err := p.acknowledged.WriteString(lines.String()) // one write, which O_APPEND makes whole
	return err
}

func acknowledgedFile(folder, producer string) string {
	return filepath.Join(folder, "acknowledged-"+producer+".txt")
}

package memstore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/surepost/surepost/internal/operator"
	"github.com/surepost/surepost/relay"
)

// RetryParked asks the relay to publish parked events again, and returns how many that concerns. Events that only
// wait behind one of their key follow by themselves once it is published. Who asks is recorded (ParkedActions).
func (s *Store) RetryParked(ctx context.Context, filter relay.ParkedFilter, by string) (n int64, err error) {
	return s.changeParked(ctx, filter, relay.ParkedRetry, by, func(p *relay.ParkedEvent) bool {
		asked := p.Retrying
		p.Retrying = true
		return !asked
	})
}

// DiscardParked removes parked events for good, and returns how many. Events that waited behind them are published
// then. Who does so is recorded (ParkedActions).
func (s *Store) DiscardParked(ctx context.Context, filter relay.ParkedFilter, by string) (n int64, err error) {
	return s.changeParked(ctx, filter, relay.ParkedDiscard, by, func(p *relay.ParkedEvent) bool {
		at := parkedAt{p.Destination, p.Seq}
		delete(s.parked, at)
		s.discarded[at] = true
		return true
	})
}

// changeParked records those that change reports to have changed.
func (s *Store) changeParked(
	ctx context.Context, filter relay.ParkedFilter, action relay.ParkedActionKind, by string, change func(*relay.ParkedEvent) bool,
) (n int64, err error) {
	if err := operator.Check(by); err != nil {
		return 0, fmt.Errorf("memstore: %s parked events: %w", action, err)
	}
	err = s.do(ctx, func() error {
		for _, p := range s.selected(filter) {
			if !change(p) {
				continue
			}
			n++
			s.actions = append(s.actions, relay.ParkedAction{
				Action: action, By: by, At: time.Now().UTC(), Destination: p.Destination, Seq: p.Seq,
				EventID: p.Event.ID, Type: p.Event.Type, Key: p.Event.Key, Reason: p.Reason,
			})
		}
		return nil
	})
	return n, err
}

// ParkedActions lists what operators did to parked events, newest first, at most limit.
func (s *Store) ParkedActions(
	ctx context.Context, f relay.ParkedFilter, limit int,
) (list []relay.ParkedAction, err error) {
	destination := cmp.Or(f.Destination, relay.DefaultDestination)
	err = s.do(ctx, func() error {
		for _, a := range slices.Backward(s.actions) {
			if a.Destination == destination && (f.Key == "" || a.Key == f.Key) && (f.Type == "" || a.Type == f.Type) &&
				(len(f.IDs) == 0 || slices.Contains(f.IDs, a.EventID)) && strings.Contains(a.Reason, f.Reason) && len(list) < limit {
				list = append(list, a)
			}
		}
		return nil
	})
	return list, err
}

package sqlstore

import (
	"context"

	"github.com/surepost/surepost/relay"
)

// Destinations lists the destinations by name, replays included.
func (s *Store) Destinations(ctx context.Context) ([]relay.Destination, error) {
	return s.engine.Destinations(ctx)
}

// CreateDestination makes a destination that begins to read the log at from, and holds back the log's retention from then
// on. Without it, a relay that names a new destination makes one that begins at the log's beginning. Its error matches
// relay.ErrDestinationExists if there is one of that name, replay or not.
//
// A start from a time is looked for in the log, ten thousand rows at a time, which takes a second or so for a million.
func (s *Store) CreateDestination(ctx context.Context, name string, from relay.Start) error {
	return s.engine.CreateDestination(ctx, name, from)
}

// RemoveDestination removes a destination, or cancels a replay, and all that is known of how far it came. A relay that names
// it later makes it anew and begins at the log's beginning, unless relay.Config.Replay is set. It refuses
//   - while a relay is alive on it, or died so recently that its lease hasn't run out;
//   - while it has parked events, which would be forgotten: retry or discard them first;
//   - if it is the only one that isn't a replay: nobody would hold back the log's retention any more.
//
// Its error matches relay.ErrNoDestination if there is none of that name.
func (s *Store) RemoveDestination(ctx context.Context, name string) error {
	return s.engine.RemoveDestination(ctx, name)
}

// CreateReplay makes a destination of a part of the log: of the events that are committed now, those that filter selects. A
// relay of that destination, with relay.Config.Replay, publishes them, each with the header relay.HeaderReplay, and ends.
// It is an ordinary destination otherwise: run the relay again to go on with a replay that was interrupted, and remove the
// destination to cancel it or to forget it.
//
// Events of transactions that were still open aren't part of it: destinations that follow the log publish them as they
// commit. by says who asked for it. Its error matches relay.ErrDestinationExists if there is a destination of that
// name, and relay.ErrNothingSelected if the filter selects nothing; then nothing was changed.
func (s *Store) CreateReplay(ctx context.Context, name string, filter relay.EventFilter, by string) (relay.Destination, error) {
	return s.engine.CreateReplay(ctx, name, filter, by)
}

// CountEvents returns how many events of the log the filter selects, by type: what a replay with this filter would publish
// if it were created now. It looks through the log ten thousand rows at a time.
func (s *Store) CountEvents(ctx context.Context, filter relay.EventFilter) (map[string]int64, error) {
	return s.engine.CountEvents(ctx, filter)
}

// Events returns the events of the log that the filter selects and whose number is above after, in the log's order, at most
// limit. It changes nothing, and looks through the log ten thousand rows at a time. Who follows the log with it misses
// events that commit late, since their numbers are lower than those of others that he has seen: a relay doesn't.
func (s *Store) Events(ctx context.Context, filter relay.EventFilter, after int64, limit int) ([]relay.Entry, error) {
	return s.engine.Events(ctx, filter, after, limit)
}

// Newest returns the newest events of the log that the filter selects, the newest first, at most limit. It reads the log from its
// end, ten thousand rows at a time, and so costs as much as it returns where the filter selects most.
func (s *Store) Newest(ctx context.Context, filter relay.EventFilter, limit int) ([]relay.Entry, error) {
	return s.engine.Newest(ctx, filter, limit)
}

package memstore_test

import (
	"testing"
	"time"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/memstore"
	"github.com/surepost/surepost/relay"
)

func TestTheStatusTellsWhatIsLeftToPublish(t *testing.T) {
	ctx, store := t.Context(), memstore.New()
	status := func() relay.DestinationStatus {
		t.Helper()
		s, err := store.Status(ctx)
		if err != nil || len(s.Destinations) != 1 {
			t.Fatalf("%+v, %v", s, err)
		}
		return s.Destinations[0]
	}
	old := time.Now().Add(-time.Hour).UTC().Truncate(time.Microsecond)
	err := store.Do(ctx, func(tx *memstore.Tx) error {
		return store.Append(ctx, tx, []surepost.Event{{ID: "1", Type: "T", Time: old, Key: "k"}, {ID: "2", Type: "T", Time: time.Now(), Key: "k"}})
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := status(); got.Name != relay.DefaultDestination || got.Backlog() != 2 || !got.OldestUnpublished().Equal(old) || got.LanesStatus[0].Owner != "" {
		t.Errorf("before any relay: %+v", got)
	}
	lease, err := store.Acquire(ctx, relay.Lane{Destination: relay.DefaultDestination, Of: 1}, "a", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	log, err := store.Open(ctx, lease)
	if err != nil {
		t.Fatal(err)
	}
	page, err := log.Read(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Checkpoint(ctx, page.After, []relay.Parked{{Entry: page.Entries[0], Reason: "unroutable"}}); err != nil {
		t.Fatal(err)
	}
	got := status()
	if got.Backlog() != 1 || got.Parked != 1 || got.ParkedKeys != 1 || got.ParkedAt.IsZero() || got.LanesStatus[0].Owner != "a" ||
		got.LanesStatus[0].Expires <= 0 || got.LanesStatus[0].Epoch != lease.Epoch {
		t.Errorf("after the first: %+v", got)
	}
	if _, err := store.RetryParked(ctx, relay.ParkedFilter{}); err != nil {
		t.Fatal(err)
	}
	if got := status(); got.Parked != 1 || got.ParkedKeys != 0 {
		t.Errorf("a key that is being retried waits for an operator: %+v", got)
	}
}

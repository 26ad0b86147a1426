package outbox

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/surepost/surepost"
)

// list is a store whose transaction is a slice.
type list struct{}

func (list) Append(_ context.Context, tx *[]surepost.Event, events []surepost.Event) error {
	*tx = append(*tx, events...)
	return nil
}

func (list) LockKeys(_ context.Context, tx *[]surepost.Event, keys []string) error {
	*tx = append(*tx, surepost.Event{Type: "lock " + strings.Join(keys, ",")})
	return nil
}

func TestWriteRefusesTheWholeCallWithEveryProblem(t *testing.T) {
	box, err := New(list{}, Config{Source: "s", MaxEvents: 4})
	if err != nil {
		t.Fatal(err)
	}
	var tx []surepost.Event
	err = box.Write(t.Context(), &tx, surepost.Event{ID: "1", Type: "T"}, surepost.Event{ID: "2"}, surepost.Event{ID: "1", Type: "T"}, surepost.Event{Type: "T", Data: []byte("x")})
	if !errors.Is(err, surepost.ErrInvalidEvent) || len(tx) != 0 {
		t.Fatalf("%v, %d written", err, len(tx))
	}
	for _, want := range []string{`event "2": Type is empty`, `ID is also the id of event #0`, `#3`, `Data is not JSON`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoesn't mention %q", err, want)
		}
	}
	if err := box.Write(t.Context(), &tx, make([]surepost.Event, 5)...); !errors.Is(err, surepost.ErrInvalidEvent) || !strings.Contains(err.Error(), "MaxEvents") {
		t.Errorf("five events: %v", err)
	}
	if err := box.Write(t.Context(), &tx); err != nil || len(tx) != 0 {
		t.Errorf("no events: %v, %d written", err, len(tx))
	}
}

func TestLockKeysComesBeforeTheWrite(t *testing.T) {
	box, err := New(list{}, Config{Source: "s", LockKeys: true})
	if err != nil {
		t.Fatal(err)
	}
	var tx []surepost.Event
	if err := box.Write(t.Context(), &tx, surepost.Event{Type: "T", Key: "b"}, surepost.Event{Type: "T", Key: "a"}, surepost.Event{Type: "T", Key: "b"}, surepost.Event{Type: "T"}); err != nil {
		t.Fatal(err)
	}
	if len(tx) != 5 || tx[0].Type != "lock a,b" {
		t.Errorf("got %+v", tx)
	}
}

func TestConfigReportsEveryProblemAtOnce(t *testing.T) {
	_, err := New(list{}, Config{Source: strings.Repeat("x", 300), MaxDataBytes: -1, MaxEvents: -1})
	for _, want := range []string{"Source", "MaxDataBytes", "MaxEvents"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v doesn't mention %s", err, want)
		}
	}
}

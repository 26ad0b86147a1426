package inbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/surepost/surepost"
)

// memory is a store whose transactions are lists of ids, kept when they commit.
type memory map[string]bool

func (m memory) Transact(
	_ context.Context, consumer string, ids []string, work func(tx *[]string, first []bool) error,
) error {
	var tx []string
	first := make([]bool, len(ids))
	for i, id := range ids {
		id = consumer + "/" + id
		if slices.Contains(tx, id) {
			return fmt.Errorf("id %s comes twice, against the contract", id)
		}
		if first[i] = !m[id]; first[i] {
			tx = append(tx, id)
		}
	}
	if err := work(&tx, first); err != nil {
		return err
	}
	for _, id := range tx {
		m[id] = true
	}
	return nil
}

func TestTheRecordAndTheWorkAreOneTransaction(t *testing.T) {
	store := memory{}
	in, err := New(store, Config{Consumer: "c"})
	if err != nil {
		t.Fatal(err)
	}
	event := surepost.Event{ID: "1", Type: "T", CorrelationID: "flow"}
	fail := errors.New("no luck")
	work := func(ctx context.Context, tx *[]string, e surepost.Event) error {
		if handling, ok := surepost.Handling(ctx); !ok || handling.ID != "1" || surepost.CorrelationID(ctx) != "flow" {
			t.Error("the context doesn't carry the event")
		}
		*tx = append(*tx, "effect")
		return fail
	}
	if _, err := in.Process(t.Context(), event, work); !errors.Is(err, fail) || len(store) != 0 {
		t.Errorf("%v, %v; want the handler's error and nothing kept", err, store)
	}
	fail = nil
	for _, want := range []Result{Handled, Duplicate} {
		delete(store, "effect")
		got, err := in.Process(t.Context(), event, work)
		if got != want || err != nil || store["effect"] != (want == Handled) {
			t.Errorf("%v, %v, %v; want %v", got, err, store, want)
		}
	}
}

func TestAPanicIsAnErrorAndRollsBack(t *testing.T) {
	store := memory{}
	in, _ := New(store, Config{Consumer: "c"})
	in.On("T", func(context.Context, *[]string, surepost.Event) error { panic("oh") })
	var p *PanicError
	if _, err := in.Handle(t.Context(), surepost.Event{ID: "1", Type: "T"}); !errors.As(err, &p) || p.Value != "oh" || len(p.Stack) == 0 || len(store) != 0 {
		t.Errorf("%v, %v", err, store)
	}
}

func TestBadInputIsExplained(t *testing.T) {
	for _, c := range []Config{{}, {Consumer: strings.Repeat("x", 256)}} {
		if _, err := New(memory{}, c); err == nil || !strings.Contains(err.Error(), "Consumer") {
			t.Errorf("%v: %v", c, err)
		}
	}
	in, _ := New(memory{}, Config{Consumer: "c"})
	if _, err := in.Process(t.Context(), surepost.Event{Type: "T"}, nil); !IsPermanent(err) || !errors.Is(err, surepost.ErrInvalidEvent) {
		t.Errorf("no id: %v", err)
	}
	in.On("T", func(context.Context, *[]string, surepost.Event) error { return nil })
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "has a handler already") {
			t.Errorf("a second handler: %v", r)
		}
	}()
	in.On("T", func(context.Context, *[]string, surepost.Event) error { return nil })
}

func ExamplePermanent() {
	err := fmt.Errorf("order 7: %w", Permanent(errors.New("no such product")))
	fmt.Println(err, IsPermanent(err))
	// Output: order 7: no such product true
}

func ExampleOn() {
	in, _ := New(memory{}, Config{Consumer: "inventory"})
	On(in, "OrderCreated", func(_ context.Context, _ *[]string, e surepost.Event, order struct{ Item string }) error {
		fmt.Println(e.ID, order.Item)
		return nil
	})
	event := surepost.Event{ID: "evt_1", Type: "OrderCreated", Data: []byte(`{"item":"tea"}`)}
	fmt.Println(in.Handle(context.Background(), event))
	fmt.Println(in.Handle(context.Background(), event))
	// Output:
	// evt_1 tea
	// handled <nil>
	// duplicate <nil>
}

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

// effects returns a handler that notes what it does in the transaction.
func effects(each func(ctx context.Context, e surepost.Event) error) Handler[*[]string] {
	return func(ctx context.Context, tx *[]string, e surepost.Event) error {
		*tx = append(*tx, "one "+e.ID)
		return each(ctx, e)
	}
}

func events(ids ...string) (all []surepost.Event) {
	for _, id := range ids {
		all = append(all, surepost.Event{ID: id, Type: id[:1], CorrelationID: "flow " + id})
	}
	return all
}

// Handlers get their events in the batch's order, whichever kind they are of, each with its own context; what is known,
// comes twice or has no handler is left out, and said.
func TestABatchIsHandledInItsOrder(t *testing.T) {
	store := memory{"c/B2": true}
	in, _ := New(store, Config{Consumer: "c"})
	var order []string
	in.On("A", effects(func(ctx context.Context, e surepost.Event) error {
		if handling, ok := surepost.Handling(ctx); !ok || handling.ID != e.ID || surepost.CorrelationID(ctx) != "flow "+e.ID {
			t.Errorf("%s: the context doesn't carry it", e.ID)
		}
		order = append(order, e.ID)
		return nil
	}))
	in.OnBatch("B", func(ctx context.Context, tx *[]string, run []surepost.Event) error {
		if _, ok := surepost.Handling(ctx); ok {
			t.Error("the context of several events carries one of them")
		}
		var ids []string
		for _, e := range run {
			ids = append(ids, e.ID)
		}
		order = append(order, strings.Join(ids, "+"))
		return nil
	})
	results, err := in.HandleBatch(t.Context(), events("A1", "B1", "B2", "B3", "X1", "B4", "A2", "B5", "A1", "A3"))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"A1", "B1+B3+B4", "A2", "B5", "A3"}; !slices.Equal(order, want) {
		t.Errorf("handled %v, want %v", order, want)
	}
	want := []Result{Handled, Handled, Duplicate, Handled, Skipped, Handled, Handled, Handled, Duplicate, Handled}
	if !slices.Equal(results, want) {
		t.Errorf("results %v, want %v", results, want)
	}
	again, err := in.HandleBatch(t.Context(), events("A1", "B1", "X1"))
	if err != nil || !slices.Equal(again, []Result{Duplicate, Duplicate, Skipped}) || len(order) != 5 {
		t.Errorf("again: %v, %v, handled %v", again, err, order)
	}
	if none, err := in.HandleBatch(t.Context(), events("X1")); err != nil || !slices.Equal(none, []Result{Skipped}) {
		t.Errorf("nothing to do: %v, %v", none, err)
	}
}

func TestAFailedBatchLeavesNothing(t *testing.T) {
	poison := errors.New("poison")
	for name, fail := range map[string]func() error{"error": func() error { return poison }, "panic": func() error { panic(poison) }} {
		for _, bad := range []string{"A2", "B2"} {
			store := memory{}
			in, _ := New(store, Config{Consumer: "c"})
			work := func(e surepost.Event) error {
				if e.ID == bad {
					return fail()
				}
				return nil
			}
			in.On("A", effects(func(_ context.Context, e surepost.Event) error { return work(e) }))
			in.OnBatch("B", func(_ context.Context, _ *[]string, run []surepost.Event) error { return work(run[len(run)-1]) })
			results, err := in.HandleBatch(t.Context(), events("A1", "B1", "A2", "B2"))
			if err == nil || results != nil || len(store) != 0 {
				t.Errorf("%s of %s: %v, %v, kept %v", name, bad, results, err, store)
			}
			var p *PanicError
			if is := errors.Is(err, poison); name == "error" && !is || name == "panic" && !errors.As(err, &p) {
				t.Errorf("%s of %s: %v", name, bad, err)
			}
			if word := map[string]string{"A2": "event A2 of type A", "B2": "1 events of type B"}[bad]; !strings.Contains(err.Error(), word) {
				t.Errorf("%s of %s: %v; want %q in it", name, bad, err, word)
			}
		}
	}
}

// An event that comes alone reaches a handler of batches too.
func TestAHandlerOfBatchesGetsSingleEvents(t *testing.T) {
	in, _ := New(memory{}, Config{Consumer: "c"})
	calls := 0
	in.OnBatch("B", func(ctx context.Context, _ *[]string, run []surepost.Event) error {
		if _, ok := surepost.Handling(ctx); ok || len(run) != 1 || run[0].ID != "B1" {
			t.Errorf("run %v", run)
		}
		calls++
		return nil
	})
	for _, want := range []Result{Handled, Duplicate} {
		if r, err := in.Handle(t.Context(), events("B1")[0]); r != want || err != nil {
			t.Errorf("%v, %v, want %v", r, err, want)
		}
	}
	if calls != 1 {
		t.Errorf("%d calls", calls)
	}
}

func TestABatchsBadInputIsExplained(t *testing.T) {
	in, _ := New(memory{}, Config{Consumer: "c"})
	OnBatch(in, "T", func(_ context.Context, _ *[]string, run []Typed[int]) error {
		if len(run) != 2 || run[0].Data != 7 || run[1].Data != 8 || run[1].ID != "2" {
			t.Errorf("typed %+v", run)
		}
		return nil
	})
	good := []surepost.Event{{ID: "1", Type: "T", Data: []byte("7")}, {ID: "2", Type: "T", Data: []byte("8")}}
	if _, err := in.HandleBatch(t.Context(), good); err != nil {
		t.Error(err)
	}
	if _, err := in.HandleBatch(t.Context(), []surepost.Event{{ID: "3", Type: "T", Data: []byte(`"x"`)}}); !IsPermanent(err) ||
		!strings.Contains(err.Error(), "event 3") {
		t.Errorf("data that doesn't decode: %v", err)
	}
	if _, err := in.HandleBatch(t.Context(), []surepost.Event{{Type: "T"}}); !errors.Is(err, surepost.ErrInvalidEvent) {
		t.Errorf("no id: %v", err)
	}
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), "has a handler already") {
			t.Errorf("a second handler: %v", r)
		}
	}()
	in.OnBatch("T", func(context.Context, *[]string, []surepost.Event) error { return nil })
}

func TestAStoreThatCannotCountSaysSo(t *testing.T) {
	in, _ := New(memory{}, Config{Consumer: "c"})
	_, err := in.StartAttempt(t.Context(), "1", 3)
	for _, err := range []error{err, in.FinishAttempt(t.Context(), "1", errors.New("no")), in.ForgetAttempts(t.Context(), "1")} {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%v, want errors.ErrUnsupported", err)
		}
	}
}

func ExampleInbox_HandleBatch() {
	in, _ := New(memory{}, Config{Consumer: "inventory"})
	OnBatch(in, "OrderCreated", func(_ context.Context, _ *[]string, orders []Typed[struct{ Item string }]) error {
		for _, order := range orders { // or one statement for all of them
			fmt.Println(order.ID, order.Data.Item)
		}
		return nil
	})
	fmt.Println(in.HandleBatch(context.Background(), []surepost.Event{
		{ID: "evt_1", Type: "OrderCreated", Data: []byte(`{"item":"tea"}`)},
		{ID: "evt_2", Type: "OrderCreated", Data: []byte(`{"item":"salt"}`)},
		{ID: "evt_1", Type: "OrderCreated", Data: []byte(`{"item":"tea"}`)},
	}))
	// Output:
	// evt_1 tea
	// evt_2 salt
	// [handled handled duplicate] <nil>
}

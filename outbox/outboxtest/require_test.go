package outboxtest

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/internal/testspy"
	"github.com/surepost/surepost/outbox"
)

// list is a store whose transaction is a slice.
type list struct{}

func (list) Append(_ context.Context, tx *[]surepost.Event, events []surepost.Event) error {
	*tx = append(*tx, events...)
	return nil
}

func (list) LockKeys(context.Context, *[]surepost.Event, []string) error { return nil }

func (list) Written(_ context.Context, tx *[]surepost.Event) ([]surepost.Event, error) {
	if tx == nil {
		return nil, errors.New("the transaction has ended")
	}
	return *tx, nil
}

type order struct {
	ID    int    `json:"id"`
	Item  string `json:"item"`
	Total int    `json:"total"`
}

// wrote is a transaction with four events.
func wrote(t *testing.T) *[]surepost.Event {
	t.Helper()
	box, err := outbox.New(list{}, outbox.Config{Source: "order-service"})
	if err != nil {
		t.Fatal(err)
	}
	var tx []surepost.Event
	err = box.Write(t.Context(), &tx,
		surepost.Event{ID: "e1", Type: "OrderCreated", Key: "c-42", Data: order{7, "tea", 300}, CorrelationID: "flow",
			Headers: map[string]string{"tenant": "a", "region": "eu"}},
		surepost.Event{ID: "e2", Type: "LineAdded", Key: "c-42", Data: json.RawMessage(`{"line": {"n": 1, "sku": "x"}, "tags": ["a", "b"], "big": 9007199254740993}`)},
		surepost.Event{ID: "e3", Type: "LineAdded", Key: "c-42", Data: json.RawMessage(`{"line": {"n": 2, "sku": "y"}, "tags": []}`)},
		surepost.Event{ID: "e4", Type: "OrderPaid", Key: "c-43", CausationID: "e0", Category: surepost.Integration, Version: "2.0"},
	)
	if err != nil {
		t.Fatal(err)
	}
	return &tx
}

func ids(events []surepost.Event) string {
	var all []string
	for _, e := range events {
		all = append(all, e.ID)
	}
	return strings.Join(all, " ")
}

func TestWhatWasWrittenIsFound(t *testing.T) {
	tx := wrote(t)
	for name, c := range map[string]struct {
		want []Event
		ids  string
	}{
		"nothing wanted":      {nil, ""},
		"type":                {[]Event{{Type: "OrderPaid"}}, "e4"},
		"every field":         {[]Event{{ID: "e4", Type: "OrderPaid", Key: "c-43", Source: "order-service", Version: "2.0", CorrelationID: "e4", CausationID: "e0", Category: surepost.Integration}}, "e4"},
		"headers":             {[]Event{{Headers: map[string]string{"tenant": "a"}}}, "e1"},
		"data of a type":      {[]Event{{Data: order{7, "tea", 300}}}, "e1"},
		"data of another":     {[]Event{{Data: map[string]any{"total": 300.0, "item": "tea", "id": 7}}}, "e1"},
		"data as JSON":        {[]Event{{Data: []byte(`{"total":3e2,"id":7,"item":"tea"}`)}}, "e1"},
		"null":                {[]Event{{Data: json.RawMessage("null")}}, "e4"},
		"a part":              {[]Event{{Data: Partial{"id": 7}}}, "e1"},
		"a nested part":       {[]Event{{Data: Partial{"line": Partial{"sku": "y"}}}}, "e3"},
		"a list's parts":      {[]Event{{Data: Partial{"tags": []any{"a", "b"}}}}, "e2"},
		"a large number":      {[]Event{{Data: Partial{"big": 9007199254740993}}}, "e2"},
		"where":               {[]Event{{Type: "OrderCreated", Data: Where(func(o order) bool { return o.Total > 100 })}}, "e1"},
		"any order":           {[]Event{{Type: "OrderPaid"}, {Type: "OrderCreated"}}, "e4 e1"},
		"twice":               {[]Event{{Type: "LineAdded"}, {Type: "LineAdded"}}, "e2 e3"},
		"times":               {[]Event{{Type: "LineAdded", Times: 2}, {Type: "OrderPaid", Times: 1}}, "e2 e3 e4"},
		"the vague one first": {[]Event{{Key: "c-42"}, {Type: "OrderCreated"}, {Data: Partial{"tags": []any{}}}}, "e2 e1 e3"},
	} {
		if got := ids(RequireWritten(t, t.Context(), list{}, tx, c.want...)); got != c.ids {
			t.Errorf("%s: returned %q, want %q", name, got, c.ids)
		}
	}
	RequireOnlyWritten(t, t.Context(), list{}, tx, Event{Type: "OrderCreated"}, Event{Type: "LineAdded", Times: 2}, Event{Type: "OrderPaid"})
	RequireNotWritten(t, t.Context(), list{}, tx, Event{Type: "OrderPaid", Key: "c-42"}, Event{Type: "OrderLost"}, Event{Data: Partial{"big": 9007199254740992}})
	RequireNotWritten(t, t.Context(), list{}, new([]surepost.Event))
	RequireOnlyWritten(t, t.Context(), list{}, new([]surepost.Event))
}

// A failure says what is wanted, what the nearest event has instead, and all that was written.
func TestAFailureShowsWhatWasWrittenInstead(t *testing.T) {
	tx, none := wrote(t), new([]surepost.Event)
	const all = `#1 OrderCreated key="c-42" id="e1"`
	type tester = func(t testing.TB)
	written := func(tx *[]surepost.Event, want ...Event) tester {
		return func(t testing.TB) { RequireWritten(t, t.Context(), list{}, tx, want...) }
	}
	only := func(want ...Event) tester {
		return func(t testing.TB) { RequireOnlyWritten(t, t.Context(), list{}, tx, want...) }
	}
	not := func(want ...Event) tester {
		return func(t testing.TB) { RequireNotWritten(t, t.Context(), list{}, tx, want...) }
	}
	for name, c := range map[string]struct {
		assert tester
		want   []string
	}{
		"key": {written(tx, Event{Type: "OrderCreated", Key: "c-44"}), []string{`OrderCreated key="c-44"`, `nearest: #1, but key is "c-42", want "c-44"`, all}},
		"fields": {written(tx, Event{ID: "e4", Source: "x", Version: "1.0", CorrelationID: "x", CausationID: "y", Category: surepost.Domain}),
			[]string{"nearest: #4", `source is "order-service"`, `version is "2.0"`, `correlation id is "e4"`, `causation id is "e0"`, `category is "integration"`}},
		"headers": {written(tx, Event{Type: "OrderCreated", Headers: map[string]string{"tenant": "b", "zone": "z"}}),
			[]string{`header "tenant" is "a", want "b"`, `header "zone" isn't there, want "z"`}},
		"data": {written(tx, Event{Type: "OrderCreated", Data: order{ID: 7, Item: "salt", Total: 300}}),
			[]string{`data={"id":7,"item":"salt","total":300}`, `data.item is "tea", want "salt"`}},
		"more data": {written(tx, Event{Type: "OrderCreated", Data: map[string]int{"id": 7}}),
			[]string{`data.item is "tea", want none (Partial matches a part)`}},
		"part": {written(tx, Event{Type: "LineAdded", Data: Partial{"line": Partial{"n": 3}, "tags": []string{"a"}, "a b": nil}}),
			[]string{`data.line.n is 1, want 3`, `data.tags is ["a","b"], want ["a"]`, `data["a b"] isn't there, want null`, "data with {"}},
		"list":       {written(tx, Event{ID: "e2", Data: Partial{"tags": []any{"a", "c"}}}), []string{`data.tags[1] is "b", want "c"`}},
		"other kind": {written(tx, Event{ID: "e2", Data: Partial{"tags": "a", "line": 1, "big": Partial{}}}), []string{`data.tags is ["a","b"], want "a"`, `data.line is {"n":1,"sku":"x"}, want 1`, "data.big is 9007199254740993, want {}"}},
		"where": {written(tx, Event{Type: "OrderCreated", Data: Where(func(o order) bool { return o.Total > 1000 })}),
			[]string{"data where func(outboxtest.order) is true", "data is {ID:7 Item:tea Total:300}, which isn't what Where asks for"}},
		"where of another type": {written(tx, Event{Type: "OrderPaid", Data: Where(func(int) bool { return false })}), []string{"data is 0, which isn't"}},
		"doesn't decode":        {written(tx, Event{Type: "OrderCreated", Data: Where(func(int) bool { return true })}), []string{"data doesn't decode into int"}},
		"once too often":        {written(tx, Event{Type: "OrderPaid"}, Event{Key: "c-43"}), []string{"is wanted more often than it was written (#4)"}},
		"times":                 {written(tx, Event{Type: "LineAdded", Times: 1}), []string{"was written 2 times, want 1: #2, #3"}},
		"times more":            {written(tx, Event{Type: "LineAdded", Times: 3}), []string{"is wanted more often than it was written (#2, #3)"}},
		"nothing written":       {written(none, Event{Type: "OrderCreated"}), []string{"OrderCreated", "It wrote nothing: was the event written with another transaction?"}},
		"unmarshallable":        {written(tx, Event{Data: func() {}}), []string{"can't be marshalled"}},
		"negative":              {written(tx, Event{Type: "X", Times: -1}), []string{"Event.Times is -1 in X", "RequireNotWritten"}},
		"ended":                 {written(nil, Event{Type: "X"}), []string{"the transaction has ended", "Assert before the transaction is committed"}},
		"only: order": {only(Event{Type: "LineAdded"}, Event{Type: "OrderCreated"}, Event{Type: "LineAdded"}, Event{Type: "OrderPaid"}),
			[]string{"  - LineAdded\n", "    #1 OrderCreated", "    #2 LineAdded", "  + #3 LineAdded", "    #4 OrderPaid", "was written in another place"}},
		"only: more": {only(Event{Type: "OrderCreated"}, Event{Type: "OrderPaid"}), []string{"  + #2 LineAdded", "  + #3 LineAdded"}},
		"only: less": {only(Event{Type: "OrderCreated"}, Event{Type: "LineAdded", Times: 2}, Event{Type: "OrderPaid", Key: "k"}, Event{Type: "OrderSent"}),
			[]string{`  - OrderPaid key="k"`, "  - OrderSent", `nearest: #4, but key is "c-43", want "k"`}},
		"only: none": {only(), []string{"  + #1", "  + #4"}},
		"not":        {not(Event{Type: "OrderLost"}, Event{Type: "LineAdded"}), []string{"LineAdded\n    is #2, #3", all}},
		"not at all": {not(), []string{"should have written nothing", all}},
		"not times":  {not(Event{Type: "X", Times: 1}), []string{"has no use for Event.Times"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := testspy.Run(t, c.assert)
			for _, want := range c.want {
				if !r.Failed || !strings.Contains(r.Text, want) {
					t.Errorf("failed: %v; the text doesn't say %q:\n%s", r.Failed, want, r.Text)
				}
			}
		})
	}
}

func TestNumbersAreEqualByValue(t *testing.T) {
	for _, same := range [][]string{{"10", "10.0", "1e1", "100e-1", "1E+1"}, {"0", "-0", "0.000", "0e5"}, {"-0.5", "-5e-1"}, {"1e400", "10e399"}} {
		for _, other := range same {
			if !equalNumbers(same[0], other) {
				t.Errorf("%s and %s differ", same[0], other)
			}
		}
	}
	for _, differ := range [][2]string{{"1", "-1"}, {"1", "10"}, {"9007199254740993", "9007199254740992"}, {"0.1", "0.01"}, {"1e400", "1e401"}} {
		if equalNumbers(differ[0], differ[1]) {
			t.Errorf("%s and %s are equal", differ[0], differ[1])
		}
	}
}

// without is a store that can't tell what was written.
type without struct{ fail error }

func (s without) Append(context.Context, *int, []surepost.Event) error { return s.fail }
func (s without) LockKeys(context.Context, *int, []string) error       { return nil }

func TestARecorderKnowsWhatEachTransactionWrote(t *testing.T) {
	store := Record(without{})
	box, err := outbox.New(store, outbox.Config{Source: "s", LockKeys: true})
	if err != nil {
		t.Fatal(err)
	}
	one, other := new(int), new(int)
	for i, tx := range []*int{one, other, one} {
		if err := box.Write(t.Context(), tx, surepost.Event{ID: []string{"a", "b", "c"}[i], Type: "T"}); err != nil {
			t.Fatal(err)
		}
	}
	RequireOnlyWritten(t, t.Context(), store, one, Event{ID: "a"}, Event{ID: "c"})
	RequireOnlyWritten(t, t.Context(), store, other, Event{ID: "b"})
	RequireNotWritten(t, t.Context(), store, new(int))

	failing := Record(without{errors.New("no")})
	if err := failing.Append(t.Context(), one, []surepost.Event{{ID: "a"}}); err == nil {
		t.Error("the store's error is lost")
	}
	if got, _ := failing.Written(t.Context(), one); len(got) != 0 {
		t.Errorf("what the store refused was noted: %v", got)
	}
}

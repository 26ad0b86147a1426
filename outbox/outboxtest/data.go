package outboxtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Partial is a part of an event's data, a JSON object: the members that must be there. Whatever else there is doesn't
// matter, in nested objects too. A list must have as many elements, each of which may be given in part.
//
//	outboxtest.Event{Type: "OrderCreated", Data: outboxtest.Partial{"id": 7}}
type Partial map[string]any

// Where matches data that decodes into a T of which ok is true.
//
//	outboxtest.Event{Type: "OrderCreated", Data: outboxtest.Where(func(o Order) bool { return o.Total > 100 })}
func Where[T any](ok func(data T) bool) any { return where[T]{ok} }

// dataMatcher is Event.Data that isn't to be marshalled and compared.
type dataMatcher interface {
	differences(raw json.RawMessage) []string
	fmt.Stringer
}

func (p Partial) differences(raw json.RawMessage) []string {
	wanted, err := json.Marshal(map[string]any(p))
	if err != nil {
		return []string{"the wanted Partial can't be marshalled to JSON: " + err.Error()}
	}
	return compareJSON(raw, wanted, inPart)
}

func (p Partial) String() string {
	wanted, err := json.Marshal(map[string]any(p))
	if err != nil {
		return "data with (" + err.Error() + ")"
	}
	return "data with " + shorten(string(wanted))
}

type where[T any] struct{ ok func(T) bool }

func (w where[T]) differences(raw json.RawMessage) []string {
	var data T
	if err := json.Unmarshal(raw, &data); err != nil {
		return []string{fmt.Sprintf("data doesn't decode into %T: %v", data, err)}
	}
	if !w.ok(data) {
		return []string{fmt.Sprintf("data is %+v, which isn't what Where asks for", data)}
	}
	return nil
}

func (w where[T]) String() string {
	return fmt.Sprintf("data where func(%v) is true", reflect.TypeFor[T]())
}

// extent says how much of a value is wanted.
type extent bool

const (
	whole  extent = false
	inPart extent = true
)

// compareJSON says, path by path, where got isn't as wanted.
func compareJSON(got, want json.RawMessage, e extent) []string {
	g, err := decode(got)
	if err != nil {
		return []string{"data isn't JSON: " + err.Error()}
	}
	w, err := decode(want)
	if err != nil {
		return []string{"the wanted data isn't JSON: " + err.Error()}
	}
	return compare("data", g, w, e)
}

// decode keeps numbers as they are spelt: a float64 would take large ids for equal that aren't.
func decode(raw []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return v, d.Decode(&v)
}

func compare(path string, got, want any, e extent) (all []string) {
	differ := func() []string { return []string{fmt.Sprintf("%s is %s, want %s", path, text(got), text(want))} }
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return differ()
		}
		for _, name := range slices.Sorted(maps.Keys(w)) {
			value, there := g[name]
			if !there {
				all = append(all, fmt.Sprintf("%s isn't there, want %s", member(path, name), text(w[name])))
				continue
			}
			all = append(all, compare(member(path, name), value, w[name], e)...)
		}
		for _, name := range slices.Sorted(maps.Keys(g)) {
			if _, wanted := w[name]; !wanted && e == whole {
				all = append(all, fmt.Sprintf("%s is %s, want none (Partial matches a part)", member(path, name), text(g[name])))
			}
		}
		return all
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return differ()
		}
		for i := range w {
			all = append(all, compare(fmt.Sprintf("%s[%d]", path, i), g[i], w[i], e)...)
		}
		return all
	case json.Number:
		if g, ok := got.(json.Number); !ok || !equalNumbers(string(g), string(w)) {
			return differ()
		}
		return nil
	}
	switch got.(type) {
	case map[string]any, []any: // not comparable
		return differ()
	}
	if got != want { // strings, bools, null
		return differ()
	}
	return nil
}

func member(path, name string) string {
	if strings.ContainsAny(name, ". []\"") || name == "" {
		return path + "[" + strconv.Quote(name) + "]"
	}
	return path + "." + name
}

func text(v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(v) // it was decoded from JSON
	return shorten(strings.TrimSpace(b.String()))
}

// equalNumbers compares two JSON numbers by value, however they are spelt (10, 10.0, 1e1) and however large they are.
func equalNumbers(a, b string) bool { return a == b || canonical(a) == canonical(b) }

// number is sign, digits and exponent of 0.digits × 10^exponent, without zeros at either end.
type number struct {
	negative bool
	digits   string
	exponent int
}

func canonical(s string) (n number) {
	s, n.negative = strings.CutPrefix(s, "-")
	mantissa := s
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		mantissa = s[:i]
		n.exponent, _ = strconv.Atoi(s[i+1:]) // at the limit where it overflows: equal to what else does
	}
	integer, fraction, _ := strings.Cut(mantissa, ".")
	n.exponent += len(integer)
	n.digits = integer + fraction
	trimmed := strings.TrimLeft(n.digits, "0")
	n.exponent -= len(n.digits) - len(trimmed)
	n.digits = strings.TrimRight(trimmed, "0")
	if n.digits == "" {
		return number{}
	}
	return n
}

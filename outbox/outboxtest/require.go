package outboxtest

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/surepost/surepost"
)

// RequireWritten fails the test at once unless tx has written the wanted events, in any order and among others. Each
// wanted event is matched by another written one, so that two equal ones must have been written twice. It returns the
// written events in the order of the wanted ones (one with Times: so many), for further checks.
//
// Call it before the commit, with the transaction that the code under test used.
func RequireWritten[TX any](
	t testing.TB, ctx context.Context, store Store[TX], tx TX, want ...Event,
) []surepost.Event {
	t.Helper()
	wrote := ask(t, ctx, store, tx, want)
	matched, problems := assign(wrote, want)
	if len(problems) > 0 {
		t.Fatalf("outboxtest: the transaction didn't write what is wanted:\n%s%s", strings.Join(problems, ""), listing(wrote))
	}
	return matched
}

// RequireOnlyWritten fails the test at once unless tx has written the wanted events, in this order, and nothing else.
// Without a wanted event: unless it has written nothing. It returns the written events.
func RequireOnlyWritten[TX any](
	t testing.TB, ctx context.Context, store Store[TX], tx TX, want ...Event,
) []surepost.Event {
	t.Helper()
	wrote := ask(t, ctx, store, tx, want)
	if diff, equal := align(wrote, repeated(want)); !equal {
		t.Fatalf("outboxtest: the transaction wrote other events than wanted (- wanted, + written):\n%s", diff)
	}
	return wrote
}

// RequireNotWritten fails the test at once if tx has written an event that one of the unwanted matches; without any, if
// it has written an event at all.
func RequireNotWritten[TX any](
	t testing.TB, ctx context.Context, store Store[TX], tx TX, unwanted ...Event,
) {
	t.Helper()
	wrote := ask(t, ctx, store, tx, unwanted)
	if len(unwanted) == 0 && len(wrote) > 0 {
		t.Fatalf("outboxtest: the transaction should have written nothing.\n%s", listing(wrote))
	}
	var problems []string
	for _, u := range unwanted {
		if u.Times != 0 {
			t.Fatalf("outboxtest: RequireNotWritten has no use for Event.Times: leave it out of %s", u)
		}
		if found := matches(wrote, u); len(found) > 0 {
			problems = append(problems, fmt.Sprintf("  %s\n    is %s\n", u, numbers(found)))
		}
	}
	if len(problems) > 0 {
		t.Fatalf("outboxtest: the transaction wrote what it shouldn't:\n%s%s", strings.Join(problems, ""), listing(wrote))
	}
}

// ask returns what tx has written.
func ask[TX any](t testing.TB, ctx context.Context, store Store[TX], tx TX, want []Event) []surepost.Event {
	t.Helper()
	for _, w := range want {
		if w.Times < 0 {
			t.Fatalf("outboxtest: Event.Times is %d in %s: use a positive number, or RequireNotWritten", w.Times, w)
		}
	}
	wrote, err := store.Written(ctx, tx)
	if err != nil {
		t.Fatalf("outboxtest: the store can't tell what the transaction has written: %v\n"+
			"Assert before the transaction is committed or rolled back, and before one of its statements has failed.", err)
	}
	return wrote
}

// repeated replaces each event with Times by so many without.
func repeated(want []Event) (all []Event) {
	for _, w := range want {
		times := max(w.Times, 1)
		w.Times = 0
		for range times {
			all = append(all, w)
		}
	}
	return all
}

// matches returns the places of the written events that want matches.
func matches(wrote []surepost.Event, want Event) (at []int) {
	for i, e := range wrote {
		if len(want.differences(e)) == 0 {
			at = append(at, i)
		}
	}
	return at
}

// assign finds another written event for each wanted one (a maximum matching by augmenting paths, since the first event
// that a vague want matches may be the only one for a precise one) and explains what is missing.
func assign(wrote []surepost.Event, want []Event) (matched []surepost.Event, problems []string) {
	for _, w := range want {
		if found := matches(wrote, w); w.Times > 0 && len(found) > w.Times {
			problems = append(problems, fmt.Sprintf("  %s\n    was written %d times, want %d: %s\n", w, len(found), w.Times, numbers(found)))
		}
	}
	all := repeated(want)
	candidates := make([][]int, len(all))
	taker := make([]int, len(wrote)) // of each written event: which wanted one has it, + 1
	var seat func(w int, tried []bool) bool
	seat = func(w int, tried []bool) bool {
		for _, i := range candidates[w] { // in the order of writing, as far as that does
			if taker[i] == 0 {
				taker[i] = w + 1
				return true
			}
		}
		for _, i := range candidates[w] {
			if tried[i] {
				continue
			}
			tried[i] = true
			if seat(taker[i]-1, tried) {
				taker[i] = w + 1
				return true
			}
		}
		return false
	}
	for w := range all {
		candidates[w] = matches(wrote, all[w])
		if !seat(w, make([]bool, len(wrote))) {
			problems = append(problems, "  "+all[w].String()+"\n"+missing(wrote, all[w], candidates[w]))
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	matched = make([]surepost.Event, len(all))
	for i, w := range taker {
		if w > 0 {
			matched[w-1] = wrote[i]
		}
	}
	return matched, nil
}

// missing says why a wanted event has no written one.
func missing(wrote []surepost.Event, want Event, candidates []int) string {
	if len(candidates) > 0 {
		return fmt.Sprintf("    is wanted more often than it was written (%s)\n", numbers(candidates))
	}
	if len(wrote) == 0 {
		return ""
	}
	nearest := 0
	for i := range wrote {
		if want.distance(wrote[i]) < want.distance(wrote[nearest]) {
			nearest = i
		}
	}
	return fmt.Sprintf("    nearest: #%d, but %s\n", nearest+1, strings.Join(want.differences(wrote[nearest]), "\n      and ")) // several on a line each
}

func numbers(at []int) string {
	words := make([]string, len(at))
	for n, i := range at {
		words[n] = fmt.Sprintf("#%d", i+1)
	}
	return strings.Join(words, ", ")
}

// listing shows all that was written.
func listing(wrote []surepost.Event) string {
	if len(wrote) == 0 {
		return "It wrote nothing: was the event written with another transaction?\n"
	}
	var b strings.Builder
	b.WriteString("It wrote:\n")
	for i, e := range wrote {
		fmt.Fprintf(&b, "  #%d %s\n", i+1, written(e))
	}
	return b.String()
}

// align shows both sequences side by side, by their longest common subsequence.
func align(wrote []surepost.Event, want []Event) (diff string, equal bool) {
	same := make([][]bool, len(want))
	common := make([][]int, len(want)+1) // of what follows from there on
	for w := range common {
		common[w] = make([]int, len(wrote)+1)
	}
	for w := len(want) - 1; w >= 0; w-- {
		same[w] = make([]bool, len(wrote))
		for i := len(wrote) - 1; i >= 0; i-- {
			same[w][i] = len(want[w].differences(wrote[i])) == 0
			common[w][i] = max(common[w+1][i], common[w][i+1])
			if same[w][i] {
				common[w][i] = max(common[w][i], common[w+1][i+1]+1)
			}
		}
	}
	var lines, reasons []string
	var absent []Event
	extra := 0
	w, i := 0, 0
	for w < len(want) || i < len(wrote) {
		switch {
		case w < len(want) && i < len(wrote) && same[w][i] && common[w][i] == common[w+1][i+1]+1:
			lines = append(lines, fmt.Sprintf("    #%d %s\n", i+1, written(wrote[i])))
			w, i = w+1, i+1
		case i == len(wrote) || w < len(want) && common[w+1][i] >= common[w][i+1]:
			lines = append(lines, fmt.Sprintf("  - %s\n", want[w]))
			absent = append(absent, want[w])
			w++
		default:
			lines = append(lines, fmt.Sprintf("  + #%d %s\n", i+1, written(wrote[i])))
			extra++
			i++
		}
	}
	for _, a := range absent {
		reason := missing(wrote, a, nil)
		if at := matches(wrote, a); len(at) > 0 {
			reason = fmt.Sprintf("    was written in another place (%s), or not as often\n", numbers(at))
		}
		if reason != "" {
			reasons = append(reasons, fmt.Sprintf("  %s\n%s", a, reason))
		}
	}
	return strings.Join(append(lines, reasons...), ""), extra == 0 && len(absent) == 0
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
)

// result is what a case prints.
type result struct {
	Case      string         `json:"case"`
	Figure    float64        `json:"figure"`
	Reference float64        `json:"reference"`
	Ratio     float64        `json:"ratio"`
	Unit      string         `json:"unit"`
	Settings  map[string]any `json:"settings"`
}

// options are the flags that cases understand.
type options struct {
	events, rounds int
}

var cases = map[string]func(ctx context.Context, o options) (result, error){
	"drain": drain,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 || cases[args[0]] == nil {
		return errors.New("usage: bench CASE [-n EVENTS] [-rounds N] [-json]; the cases are: drain")
	}
	var o options
	flags := flag.NewFlagSet("bench "+args[0], flag.ContinueOnError)
	flags.IntVar(&o.events, "n", 50_000, "events a round")
	flags.IntVar(&o.rounds, "rounds", 3, "rounds of each, of which the median counts")
	asJSON := flags.Bool("json", false, "print one JSON object")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if o.events < 1 || o.rounds < 1 {
		return errors.New("-n and -rounds must be positive")
	}
	r, err := cases[args[0]](ctx, o)
	if err != nil {
		return err
	}
	r.Case = args[0]
	r.Settings["cpus"], r.Settings["go"] = runtime.NumCPU(), runtime.Version()
	if *asJSON {
		return json.NewEncoder(os.Stdout).Encode(r)
	}
	fmt.Printf("%-10s %12s %12s %8s\n%-10s %12.0f %12.0f %8.2f   %s\n", "case", "figure", "reference", "ratio", r.Case, r.Figure, r.Reference, r.Ratio, r.Unit)
	for _, k := range sortedKeys(r.Settings) {
		fmt.Printf("  %s: %v\n", k, r.Settings[k])
	}
	return nil
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

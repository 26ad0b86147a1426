package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// benchmark is one case.
type benchmark struct {
	name     string
	compares string  // what is compared with what, in one sentence
	defaults options // for a run of minutes on two cores
	smoke    options // for a run of seconds: figures mean nothing
	run      func(ctx context.Context, l *lab) ([]result, error)
}

var benchmarks = []benchmark{drain, peers, write, flat, latency, consume, wal}

// options are the flags. A case says in its usage which ones it understands; 0 means its default.
type options struct {
	events  int           // -n
	rounds  int           // -rounds
	backlog int           // -backlog
	slice   time.Duration // -slice
	rate    int           // -rate
	profile string        // -cpuprofile

	servers *servers // given by a test; else every case starts its own
}

// or fills in what the flags left open.
func (o options) or(defaults options) options {
	def(&o.events, defaults.events)
	def(&o.rounds, defaults.rounds)
	def(&o.backlog, defaults.backlog)
	def(&o.slice, defaults.slice)
	def(&o.rate, defaults.rate)
	return o
}

func def[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
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
	if len(args) == 0 {
		return errors.New(usage())
	}
	switch args[0] {
	case workerCommand:
		return work(ctx, os.Stdin, os.Stdout)
	case "all":
		return runAll(ctx, args[1:])
	}
	i := slices.IndexFunc(benchmarks, func(b benchmark) bool { return b.name == args[0] })
	if i < 0 {
		return fmt.Errorf("no case %q; %s", args[0], usage())
	}
	var o options
	flags := flag.NewFlagSet("bench "+args[0], flag.ContinueOnError)
	o.flags(flags)
	asJSON := flags.Bool("json", false, "print one JSON object a figure, one per line")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if err := o.validate(); err != nil {
		return err
	}
	results, err := benchmarks[i].measure(ctx, o.or(benchmarks[i].defaults))
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(os.Stdout, results)
	}
	return printTable(os.Stdout, results)
}

func (o *options) flags(flags *flag.FlagSet) {
	flags.IntVar(&o.events, "n", 0, "events a round")
	flags.IntVar(&o.rounds, "rounds", 0, "rounds, of which the median counts; at least 3 for a figure that means "+
		"something")
	flags.IntVar(&o.backlog, "backlog", 0, "flat: events that wait in the long log")
	flags.DurationVar(&o.slice, "slice", 0, "write, latency: how long one measurement lasts")
	flags.IntVar(&o.rate, "rate", 0, "latency: events per second")
	flags.StringVar(&o.profile, "cpuprofile", "", "write CPU profiles: FILE.CASE of this process, and "+
		"FILE.WORKER.cpu of each worker's last round")
}

func (o options) validate() error {
	if o.events < 0 || o.rounds < 0 || o.backlog < 0 || o.slice < 0 || o.rate < 0 {
		return errors.New("-n, -rounds, -backlog, -slice and -rate must be positive")
	}
	return nil
}

// measure runs the case and says where its figures come from.
func (b benchmark) measure(ctx context.Context, o options) ([]result, error) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", b.name, b.compares)
	stopProfile, err := startProfile(o.profile, b.name)
	if err != nil {
		return nil, err
	}
	defer stopProfile()
	l, err := newLab(ctx, o)
	if err != nil {
		return nil, err
	}
	defer l.close()
	env, err := l.environment(ctx)
	if err != nil {
		return nil, err
	}
	results, err := b.run(ctx, l)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.name, err)
	}
	for _, r := range results {
		r.Settings["environment"] = env
	}
	return results, nil
}

func usage() string {
	names := make([]string, len(benchmarks))
	for i, b := range benchmarks {
		names[i] = b.name
	}
	return "usage: bench CASE [-json] [flags]; the cases are: " + strings.Join(names, ", ") +
		"; bench all [-only CASE,…] writes RESULTS.md"
}

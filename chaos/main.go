// Chaos tries to break Surepost's promises with real processes and real servers, and keeps a ledger that tells whether it did.
//
//	go run ./chaos -duration 120s -seed 7
//
// Two producers write orders' events in their business transactions, three relays share the lanes, and three services handle
// the events and write further ones: each a process of its own. Meanwhile processes are killed and halted, PostgreSQL and
// RabbitMQ crash and come back, connections are cut, stalled, half-closed and slowed down, by a plan that is drawn from the
// seed. At the end the ledger is reconciled: README.md says how to read the report. It exits with 1 if a promise was broken.
//
// To read on: plan.go has the faults and when they come, inflict.go how they are done; producer.go, relay.go and consumer.go are
// what the processes do; tables.go has the ledger, reconcile.go judges it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if isRole(os.Args) {
		os.Exit(runRole(os.Args))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// options are the command line.
type options struct {
	duration time.Duration
	seed     uint64
	every    time.Duration
	rate     float64
	only     []string
	planted  string
	patience time.Duration
	json     bool
	keep     bool
	plan     bool
}

const (
	defaultEvery = 1500 * time.Millisecond
	defaultRate  = 80
	leastTime    = 5 * time.Second
)

func parse(args []string, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.DurationVar(&o.duration, "duration", 2*time.Minute,
		"how long events are written and faults inflicted; the end comes on top")
	flags.Uint64Var(&o.seed, "seed", 0, "`number` that the faults are drawn from; 0 draws one")
	flags.DurationVar(&o.every, "every", defaultEvery, "mean time between two faults")
	flags.Float64Var(&o.rate, "rate", defaultRate, "orders' events a `second`, each of which leads to two more")
	only := flags.String("only", "", "`kinds` of faults to draw from, with commas between them; empty for all")
	flags.StringVar(&o.planted, "planted", "",
		"`fault` of this program's own, which the ledger must find: "+strings.Join(plantedNames(), ", "))
	flags.DurationVar(&o.patience, "patience", time.Minute,
		"how long the end waits while something is missing and nothing moves")
	flags.BoolVar(&o.json, "json", false, "print the report as one JSON object; progress goes to standard error")
	flags.BoolVar(&o.keep, "keep", false, "keep the logs and the ledger even if all is well")
	flags.BoolVar(&o.plan, "plan", false, "print the seed's faults, and inflict none")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if *only != "" {
		o.only = strings.Split(*only, ",")
	}
	if o.seed == 0 {
		o.seed = uint64(rand.Uint32()) + 1
	}
	var errs []error
	if flags.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unknown argument %q", flags.Arg(0)))
	}
	if o.duration < leastTime {
		errs = append(errs, fmt.Errorf("-duration is %v: use at least %v, or there is no time for a fault", o.duration, leastTime))
	}
	if o.every < 10*time.Millisecond {
		errs = append(errs, fmt.Errorf("-every is %v: use at least 10ms", o.every))
	}
	if o.rate <= 0 || o.rate > 10_000 {
		errs = append(errs, fmt.Errorf("-rate is %v: use a number above 0, up to 10000", o.rate))
	}
	if o.patience < time.Second {
		errs = append(errs, fmt.Errorf("-patience is %v: use at least 1s", o.patience))
	}
	for _, name := range o.only {
		if !slices.Contains(kindNames(), name) {
			errs = append(errs, fmt.Errorf("-only has %q: use %s", name, strings.Join(kindNames(), ", ")))
		}
	}
	if _, known := planted[o.planted]; o.planted != "" && !known {
		errs = append(errs, fmt.Errorf("-planted is %q: use %s", o.planted, strings.Join(plantedNames(), ", ")))
	}
	err = errors.Join(errs...)
	if err != nil {
		fmt.Fprintf(stderr, "chaos: %v\n", err)
	}
	return o, err
}

func plantedNames() []string { return slices.Sorted(maps.Keys(planted)) }

// Exit codes.
const (
	exitPassed = 0
	exitBroken = 1 // a promise was broken
	exitUsage  = 2
	exitFailed = 3 // the run itself failed: nothing is known of the promises
)

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitPassed
	}
	if err != nil {
		return exitUsage
	}
	faults := plan(o.seed, o.duration, o.every, o.only)
	if o.plan {
		for _, f := range faults {
			fmt.Fprintln(stdout, f)
		}
		return exitPassed
	}
	progress := stdout
	if o.json {
		progress = stderr
	}
	out := newConsole(progress)
	r, err := play(ctx, o, faults, out)
	if err != nil {
		fmt.Fprintf(stderr, "chaos: %v\n", err)
		return exitFailed
	}
	if o.json {
		if err := r.writeJSON(stdout); err != nil {
			return exitFailed
		}
	}
	r.writeText(progress, o)
	if !r.passed() {
		return exitBroken
	}
	return exitPassed
}

// play is one run, from the start of the servers to the verdict.
func play(ctx context.Context, o options, faults []fault, out *console) (r *report, err error) {
	defer out.done()
	folder, err := os.MkdirTemp("", "surepost-chaos-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err == nil && r.Logs == "" {
			err = os.RemoveAll(folder)
		} else if err != nil {
			err = fmt.Errorf("%w (logs: %s)", err, folder)
		}
	}()
	timeline, err := os.Create(filepath.Join(folder, "faults.txt"))
	if err != nil {
		return nil, err
	}
	defer timeline.Close()
	private := slices.ContainsFunc(faults, func(f fault) bool { return f.kind.private })
	out.say("seed %d: %d faults are planned for %v; starting the servers", o.seed, len(faults), o.duration)
	st, err := openStage(ctx, o, folder, private)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.close()) }()
	if err := st.raise(ctx); err != nil {
		return nil, err
	}
	out.say("%d processes are at work", len(st.processes))
	out.begin()
	r = &report{Seed: o.seed, Duration: o.duration.Seconds(), Planted: o.planted, Violations: []string{}}
	began := time.Now()
	st.work(ctx, faults, out, func(format string, args ...any) {
		out.say(format, args...)
		fmt.Fprintf(timeline, "%s  %s\n", time.Now().UTC().Format("15:04:05.000"), fmt.Sprintf(format, args...))
	})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	recovering := began.Add(o.duration)
	if st.tally.ended.After(recovering) {
		recovering = st.tally.ended
	}
	l, complete, err := st.finish(ctx, out)
	if err != nil {
		return nil, err
	}
	if !complete.IsZero() {
		seconds := max(0, complete.Sub(recovering).Seconds())
		r.RecoverSeconds = &seconds
	}
	st.fill(r, l)
	if o.keep || !r.passed() {
		r.Logs = folder
		if err := st.keep(ctx); err != nil {
			out.say("not everything could be kept: %v", err)
		}
	}
	return r, nil
}

// work lets the processes work for the duration, and the faults happen.
func (st *stage) work(ctx context.Context, faults []fault, out *console, say func(string, ...any)) {
	over, end := context.WithTimeout(ctx, st.duration)
	defer end()
	wrecked := make(chan struct{})
	go func() {
		defer close(wrecked)
		st.wreck(ctx, faults, say)
	}()
	for pause(over, 200*time.Millisecond) {
		out.show("%s", st.progress())
	}
	for {
		select {
		case <-wrecked:
			return
		case <-time.After(200 * time.Millisecond):
			out.show("%s; the last faults are coming to an end", st.progress())
		}
	}
}

// finish ends the run in good order: the producers, what is left to do, then everybody else; and reads the ledger.
func (st *stage) finish(ctx context.Context, out *console) (l ledger, complete time.Time, err error) {
	for _, p := range st.processes {
		if err := p.start(); err != nil { // it runs, as a rule
			return l, complete, err
		}
	}
	if err := st.stop(ctx, producers...); err != nil {
		return l, complete, err
	}
	complete, waiting, err := st.settle(ctx, func(now standing) { out.show("%s; %s", st.progress(), now) })
	if err != nil {
		return l, complete, err
	}
	var others []string
	for name, r := range roles {
		if r.broker {
			others = append(others, name)
		}
	}
	if err := st.stop(ctx, others...); err != nil {
		st.tally.failed = append(st.tally.failed, err.Error())
	}
	l, err = st.readLedger(ctx)
	l.waiting = waiting
	return l, complete, err
}

// fill fills in the report.
func (st *stage) fill(r *report, l ledger) {
	r.Faults, r.FaultsByKind, r.Emptied = st.tally.total(), st.tally.done, st.tally.emptied
	for _, n := range st.tally.fizzled {
		r.CameToNone += n
	}
	_, _, _, r.Copies = st.counts()
	r.Committed, r.Effects = int64(len(l.written)), int64(len(l.effects))
	for _, w := range l.written {
		if w.poison {
			r.Poisoned++
		}
	}
	r.take(judge(l))
	var ended []string
	for _, name := range roleNames() {
		p := st.processes[name]
		r.Starts += p.lives
		r.Emptied += int(p.count().Emptied)
		ended = append(ended, p.endedByItself()...)
	}
	r.count(&r.EndedThemselves, "a process ended by itself", ended)
	r.count(&r.Unmended, "not undone, or not ended in good order", st.tally.failed)
}

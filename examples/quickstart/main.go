// Quickstart shows what Surepost does, in a few seconds and without any server: four services with a SQLite database
// each, and a message broker inside of this program.
//
//	go run ./examples/quickstart
//
// A customer's order goes from service to service. None of them calls another one: each writes down what has happened,
// together with its own work, and whoever is concerned acts on it.
//
//	order ─── OrderCreated ──▶ inventory ─── StockReserved ──▶ payment
//	                           inventory ◀── PaymentRefused ──────┤
//	                        notification ◀── PaymentRefused ──────┤
//	                        notification ◀── PaymentTaken ────────┘
//
// On the way a process is killed, messages come twice, one can't be handled and one is wanted by nobody. At the end the
// databases are compared with each other. The program exits with 1 if anything is off.
//
// With -pg and -amqp the same happens on PostgreSQL and RabbitMQ.
//
// The services are what a user of Surepost writes. Read them first, in this order:
//
//	events.go        what the services tell each other
//	order.go         a business transaction that writes an event
//	inventory.go     handlers whose effects happen once, and that write an event themselves
//	payment.go       a handler that can't handle everything
//	notification.go  the end of the chain
//	service.go       what connects each service to Surepost: outbox, inbox, consumer, relay
//
// The rest is the stage: databases and broker (place.go, sqlite.go, postgres.go, broker.go), what runs (shop.go), what
// happens (story.go, orders.go, witness.go, logs.go), and the books at the end (facts.go, reconcile.go, table.go).
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/surepost/surepost/examples/internal/child"
	"github.com/surepost/surepost/examples/internal/console"
)

func main() {
	if child.Is(os.Args) {
		os.Exit(child.Run(os.Args, processes))
	}
	// SIGPIPE comes if standard output is a pipe that nobody reads any more, as with "| head".
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(program{}.run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

var processes = map[string]func(context.Context, *child.Teller) error{relayProcess: runOrderRelay}

// options are the command line.
type options struct {
	orders int
	seed   uint64
	pg     string
	amqp   string
}

const (
	fewestOrders = 20 // enough for each chapter
	mostOrders   = 100_000

	pgExample   = "postgres://user:password@host:5432/database"
	amqpExample = "amqp://user:password@host:5672/vhost"
)

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{}
	flags := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.orders, "n", 200, "`orders` to place")
	flags.Uint64Var(&o.seed, "seed", 1, "`number` that the orders are made from")
	flags.StringVar(&o.pg, "pg", "", "`URL` of a PostgreSQL database to use instead of SQLite: "+pgExample)
	flags.StringVar(&o.amqp, "amqp", "", "`URL` of a RabbitMQ to use instead of the broker in this program: "+amqpExample)
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var errs []error
	if flags.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unknown argument %q", flags.Arg(0)))
	}
	if o.orders < fewestOrders || o.orders > mostOrders {
		errs = append(errs, fmt.Errorf("-n is %d: use %d to %d", o.orders, fewestOrders, mostOrders))
	}
	errs = append(errs,
		checkURL("-pg", o.pg, pgExample, "postgres", "postgresql"),
		checkURL("-amqp", o.amqp, amqpExample, "amqp", "amqps"))
	err := errors.Join(errs...)
	if err != nil {
		fmt.Fprintf(stderr, "quickstart: %v\n", err)
	}
	return o, err
}

// checkURL doesn't repeat the URL: there may be a password in it.
func checkURL(flag, text, example string, schemes ...string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return fmt.Errorf("%s isn't a URL: write it like %s", flag, example)
	}
	if !slices.Contains(schemes, u.Scheme) {
		return fmt.Errorf("%s has the scheme %q: use %s, as in %s", flag, u.Scheme, strings.Join(schemes, " or "), example)
	}
	if u.Hostname() == "" {
		return fmt.Errorf("%s names no host: write it like %s", flag, example)
	}
	return nil
}

// program is the program but for its process. Its fields are for tests that don't want the books to balance.
type program struct {
	opened     func(*shop) error
	stallLimit time.Duration // default stallLimit
}

// run returns the exit code: 0 if the books balance, 1 if not or if that couldn't be found out, 2 for a wrong command
// line.
func (p program) run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	logs := &logs{}
	result, err := p.perform(ctx, o, console.New(stdout), logs)
	if err == nil && len(result.Problems) > 0 {
		err = errors.New("the books don't balance")
	}
	if err != nil {
		if ctx.Err() == nil {
			fmt.Fprint(stderr, logs)
		}
		fmt.Fprintf(stderr, "quickstart: %v\n", err)
		return 1
	}
	return 0
}

func (p program) perform(ctx context.Context, o options, c *console.Console, logs io.Writer) (result books, err error) {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	defer c.Done()
	slog.SetDefault(slog.New(slog.NewTextHandler(logs, nil)))

	at, release, err := openPlace(ctx, o)
	if err != nil {
		return books{}, orCause(ctx, err)
	}
	defer func() { err = errors.Join(err, release()) }()
	at.introduce(c)
	shop, err := openShop(ctx, at, logs, fail)
	if err != nil {
		return books{}, orCause(ctx, err)
	}
	defer shop.close()
	if p.opened != nil {
		if err := p.opened(shop); err != nil {
			return books{}, err
		}
	}
	odd := o.orders - max(o.orders/10, 5)
	s := &story{
		shop: shop, Console: c, orders: makeOrders(o.orders, odd, o.seed), odd: odd,
		stallLimit: cmp.Or(p.stallLimit, stallLimit),
	}
	told := s.tell(ctx)
	if told != nil && !errors.Is(told, errStalled) {
		return books{}, orCause(ctx, told)
	}
	if err := shop.stop(ctx); err != nil {
		return books{}, orCause(ctx, err)
	}
	found, err := shop.gather(ctx)
	if err != nil {
		return books{}, orCause(ctx, err)
	}
	result = reconcile(found)
	if told != nil {
		result.Problems = append(result.Problems, told.Error())
	}
	c.Done()
	result.show(c)
	return result, nil
}

// orCause prefers why ctx ended to what that led to.
func orCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// Orders is Surepost at work: an order service that takes orders by HTTP, an inventory and a notification service,
// each with a PostgreSQL database of its own, and a relay that publishes their events to RabbitMQ.
//
//	go run ./examples/orders -n 20000
//
// It posts orders from a file, refuses a tenth of them after their event was written, kills the relay three times and
// the inventory twice with SIGKILL, delivers messages twice, and then reads from the databases whether every order
// has changed the stock exactly once. It exits with 1 if anything is off.
//
// The services are what a user of Surepost writes; read them first:
//
//	service_order.go         a business transaction that writes an event
//	service_relay.go         the relay
//	service_inventory.go     a handler whose effects happen once, and that writes an event itself
//	service_notification.go  a handler of two services' events
//	subscription.go          the consumer
//	order.go, database.go    what they tell each other, and how they open their databases
//
// The rest is the stage: processes (role.go, internal/child), the orders (catalog.go, orders_file.go), clients.go, what
// goes wrong (chaos.go, redelivery.go), the end (settle.go, facts.go, reconcile.go) and what is shown of it (report.go,
// internal/console).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/surepost/surepost/examples/internal/child"
	"github.com/surepost/surepost/examples/internal/console"
)

func main() {
	if child.Is(os.Args) {
		os.Exit(child.Run(os.Args, services))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// options are the command line.
type options struct {
	orders  int
	clients int
	seed    uint64
	folder  string
	json    bool
	keep    bool
}

// fewestOrders is what the five kills need to be in the midst of something.
const fewestOrders = 100

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{}
	flags := flag.NewFlagSet("orders", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.IntVar(&o.orders, "n", ordersFileOrders, "`orders` to post")
	flags.IntVar(&o.clients, "clients", 8, "`clients` that post at once")
	flags.Uint64Var(&o.seed, "seed", 1, "`number` that the orders are made from")
	flags.StringVar(&o.folder, "folder", ".surepost", "`folder` of the orders file, which is made if it isn't there")
	flags.BoolVar(&o.json, "json", false, "print the result as one JSON object; progress goes to standard error")
	flags.BoolVar(&o.keep, "keep", false, "leave the databases and the virtual host, to look at them")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var errs []error
	if flags.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unknown argument %q", flags.Arg(0)))
	}
	if o.orders < fewestOrders {
		errs = append(errs, fmt.Errorf("-n is %d: use at least %d, or there is nothing left to kill anything at", o.orders, fewestOrders))
	}
	if o.clients < 1 || o.clients > 100 {
		errs = append(errs, fmt.Errorf("-clients is %d: use 1 to 100", o.clients))
	}
	if o.keep {
		errs = append(errs, canKeep())
	}
	err := errors.Join(errs...)
	if err != nil {
		fmt.Fprintf(stderr, "orders: %v\n", err)
	}
	return o, err
}

// run is the program but for its process. It returns the exit code: 0 if all is accounted for, 1 if not or if it
// couldn't be found out, 2 for a wrong command line.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	telling := stdout
	if o.json {
		telling = stderr
	}
	progress := console.New(telling)
	result, err := perform(ctx, o, progress)
	if err != nil {
		fmt.Fprintf(stderr, "orders: %v\n", err)
		return 1
	}
	if o.json {
		err = result.writeJSON(stdout)
	} else {
		err = result.writeTable(stdout)
	}
	if err != nil {
		fmt.Fprintf(stderr, "orders: %v\n", err)
		return 1
	}
	for _, problem := range result.Problems {
		fmt.Fprintf(stderr, "orders: %s\n", problem)
	}
	if len(result.Problems) > 0 {
		return 1
	}
	return 0
}

// perform gets orders and servers, and plays.
func perform(ctx context.Context, o options, progress *console.Console) (result outcome, err error) {
	orders, err := readOrders(o.folder, o.seed, o.orders)
	if err != nil {
		return outcome{}, err
	}
	progress.Say("opening PostgreSQL and RabbitMQ")
	servers, err := openServers(ctx)
	if err != nil {
		return outcome{}, orCause(ctx, err)
	}
	if o.keep {
		defer func() { progress.Say("%s", keepNote(servers.environment)) }()
	} else {
		defer func() { err = errors.Join(err, servers.close()) }()
	}
	return play(ctx, servers.environment, orders, o.clients, progress)
}

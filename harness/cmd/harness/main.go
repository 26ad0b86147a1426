// Command harness keeps one PostgreSQL, one RabbitMQ and one MariaDB running between test runs.
//
//	harness install   makes sure that servers can be started: installs Debian's packages if they can't
//	harness up        starts them and prints the lines that let tests find them: eval "$(make -s up)"
//	harness status    tells what runs, and exits with 1 if not everything does
//	harness down      ends them and removes their data
//
// Each does so for all three, or for those that are named: harness up postgres rabbitmq. The command
// install knows pgbouncer, too, which Surepost's own tests need.
//
// What `up` started is remembered in the folder .surepost of the working directory.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/surepost/surepost/harness/internal/server"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "harness:", err)
		}
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("harness", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: harness [-no-install] up | down | status | install [postgres] [rabbitmq] [mariadb]")
		flags.PrintDefaults()
	}
	noInstall := flags.Bool("no-install", false, "up: do not install missing packages")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return flag.ErrHelp
	}
	command, named := flags.Arg(0), flags.Args()[1:]
	kinds, pgbouncer, err := choose(command, named)
	if err != nil {
		flags.Usage()
		return err
	}
	switch command {
	case "install":
		return install(ctx, kinds, pgbouncer)
	case "up":
		if !*noInstall {
			if err := install(ctx, kinds, false); err != nil {
				return err
			}
		}
		return up(ctx, kinds)
	case "down":
		return down(ctx, kinds)
	case "status":
		return status(ctx, kinds)
	default:
		flags.Usage()
		return fmt.Errorf("unknown command %q", command)
	}
}

// choose returns the servers that are named, or all.
func choose(command string, named []string) (chosen []*server.Kind, pgbouncer bool, err error) {
	if len(named) == 0 {
		return kinds, command == "install", nil
	}
	for _, name := range named {
		switch kind := kindNames[name]; {
		case name == "pgbouncer" && command == "install":
			pgbouncer = true
		case kind == nil:
			return nil, false, fmt.Errorf("unknown server %q: there are postgres, rabbitmq and mariadb", name)
		default:
			chosen = append(chosen, kind)
		}
	}
	return chosen, pgbouncer, nil
}

// progress goes to standard error: standard output belongs to the shell that evaluates it.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

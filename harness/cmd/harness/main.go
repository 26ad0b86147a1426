// Command harness keeps one PostgreSQL and one RabbitMQ running between test runs.
//
//	harness install   makes sure that servers can be started: installs Debian's packages if they can't
//	harness up        starts both and prints the two lines that let tests find them: eval "$(make -s up)"
//	harness status    tells what runs, and exits with 1 if not everything does
//	harness down      ends both and removes their data
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
		fmt.Fprintln(flags.Output(), "usage: harness [-no-install] up | down | status | install")
		flags.PrintDefaults()
	}
	noInstall := flags.Bool("no-install", false, "up: do not install missing packages")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		flags.Usage()
		return flag.ErrHelp
	}
	switch command := flags.Arg(0); command {
	case "install":
		return install(ctx)
	case "up":
		if !*noInstall {
			// A failed installation isn't the end: up says in full what is missing.
			if err := install(ctx); err != nil {
				progress("cannot install: %v", err)
			}
		}
		return up(ctx)
	case "down":
		return down(ctx)
	case "status":
		return status(ctx)
	default:
		flags.Usage()
		return fmt.Errorf("unknown command %q", command)
	}
}

// progress goes to standard error: standard output belongs to the shell that evaluates it.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

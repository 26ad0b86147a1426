// Command surepost is Surepost's relay as a process of its own, and what operators use to see how the outbox stands and to
// set it right. README.md describes it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/surepost/surepost/cmd/surepost/internal/cli"
)

// version is set by -ldflags "-X main.version=v1.2.3"; without it the build's own version is shown.
var version string

func main() {
	os.Exit(cli.Run(untilSignal(), os.Args[1:], cli.Process{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		InTerminal:  term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stderr.Fd())),
		OutTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		Environment: os.Environ(),
		Version:     version,
	}))
}

// untilSignal returns a context that the first SIGTERM or SIGINT ends. The second one ends the process at once.
func untilSignal() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-signals
		cancel()
		second := <-signals
		number, _ := second.(syscall.Signal)
		os.Exit(cli.ExitSignal + int(number))
	}()
	return ctx
}

package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// LogLines is how much of a server's log an error or a failed test shows.
const LogLines = 50

// readyLimit bounds one start. RabbitMQ takes 6 s on two idle cores, and ten times that while all
// packages of a repository are being tested at once.
const readyLimit = 90 * time.Second

// Server is one PostgreSQL, RabbitMQ or MariaDB. Its methods are not safe for concurrent use, except reading
// the fields.
type Server struct {
	Kind *Kind

	// URL reaches the server as its administrator. For PostgreSQL it names the database postgres or
	// the one in the environment's URL; for RabbitMQ, the virtual host in the URL; for MariaDB none or
	// the one in the environment's URL.
	URL string

	// ManagementURL is RabbitMQ's management API with user and password, without the final slash.
	ManagementURL string

	// Origin says where the server comes from, in words for a person.
	Origin string

	run runner // nil when the server is not ours: it came as a URL
}

// runner is a server that we run ourselves, whatever runs it. None of its methods waits until the
// server serves: Server does.
type runner interface {
	start(ctx context.Context) error
	stop(ctx context.Context) error // in good order, without waiting for clients
	kill(ctx context.Context) error // without any chance to tidy up
	close(ctx context.Context) error
	died() error                      // why it does not run, or nil while it runs
	pause(ctx context.Context) error  // all of its processes, so that it neither works nor answers, but is there
	resume(ctx context.Context) error // after pause; else it does nothing
	log(ctx context.Context, since Mark) string
	control(ctx context.Context, args ...string) error // rabbitmqctl
	record() *Kept
	detach() error // from the guard, which then no longer ends it
}

// Ours reports whether the server can be stopped and started: false for one that came as a URL.
func (s *Server) Ours() bool { return s.run != nil }

// Start starts a stopped or killed server on the same port with the same data and returns when it
// serves again.
func (s *Server) Start(ctx context.Context) error {
	if err := s.run.start(ctx); err != nil {
		return fmt.Errorf("start %s: %w", s.Kind.Name, err)
	}
	return s.awaitReady(ctx)
}

// Stop shuts the server down in good order, but without waiting for its clients. A paused one is
// resumed for it.
func (s *Server) Stop(ctx context.Context) error {
	return errors.Join(s.run.resume(ctx), s.run.stop(ctx))
}

// Kill ends the server as a power cut would.
func (s *Server) Kill(ctx context.Context) error { return s.run.kill(ctx) }

// Pause halts the server where it is: its connections stay, and nothing answers on them. The kernel
// still accepts new ones, as many as fit the backlog.
func (s *Server) Pause(ctx context.Context) error {
	if err := s.run.died(); err != nil {
		return err
	}
	return s.run.pause(ctx)
}

// Unpause lets the server go on.
func (s *Server) Unpause(ctx context.Context) error { return s.run.resume(ctx) }

// Close ends the server and removes its data. It does nothing for a server that came as a URL.
func (s *Server) Close(ctx context.Context) error {
	if s.run == nil {
		return nil
	}
	return s.run.close(ctx)
}

// Mark is a moment in a server's log.
type Mark struct {
	at     time.Time // what a container's log is searched by
	offset int64     // … and a file
}

// Mark returns the present moment. The zero Mark is the server's start.
func (s *Server) Mark() Mark {
	m := Mark{at: time.Now()}
	if local, ok := s.run.(interface{ logFile() string }); ok {
		if info, err := os.Stat(local.logFile()); err == nil {
			m.offset = info.Size()
		}
	}
	return m
}

// Log returns the last lines, at most LogLines, of what the server's log has got since the mark.
func (s *Server) Log(ctx context.Context, since Mark) string {
	if s.run == nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(s.run.log(ctx, since)), "\n")
	return strings.Join(lines[max(0, len(lines)-LogLines):], "\n")
}

// Control runs rabbitmqctl against the server.
func (s *Server) Control(ctx context.Context, args ...string) error {
	return s.run.control(ctx, args...)
}

// awaitReady polls until a client can really work with the server: an open port alone says little,
// PostgreSQL listens while it recovers and RabbitMQ before its plugins run.
func (s *Server) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	for {
		try, cancelTry := context.WithTimeout(ctx, 5*time.Second)
		err := s.Kind.ready(try, s)
		cancelTry()
		if died := s.died(); died != nil {
			return s.withLog(fmt.Errorf("%s ended while it started: %w", s.Kind.Name, died))
		}
		if err == nil {
			return nil
		}
		if pause(ctx, 50*time.Millisecond) != nil {
			return s.withLog(fmt.Errorf("%s was not ready in time: %w", s.Kind.Name, errors.Join(err, ctx.Err())))
		}
	}
}

// Running reports whether a server of our own runs.
func (s *Server) Running() bool { return s.run != nil && s.run.died() == nil }

func (s *Server) died() error {
	if s.run == nil {
		return nil
	}
	return s.run.died()
}

func (s *Server) withLog(err error) error {
	tail := s.Log(context.Background(), Mark{})
	if tail == "" {
		return err
	}
	return fmt.Errorf("%w\nthe end of its log:\n%s", err, indent(tail))
}

// launch starts a server of our own, on another port where another process was quicker to take the
// chosen one: a port can be tried but not reserved, and several test processes start at once.
func launch(ctx context.Context, kind *Kind, origin string, build func() (*Server, error)) (*Server, error) {
	const attempts = 5
	for attempt := 1; ; attempt++ {
		s, err := build()
		if err == nil {
			s.Kind, s.Origin = kind, origin
			if err = s.Start(ctx); err == nil {
				return s, nil
			}
			err = errors.Join(err, s.Close(context.WithoutCancel(ctx)))
		}
		if attempt == attempts || !portTaken(err) {
			return nil, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}

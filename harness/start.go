package harness

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/surepost/surepost/harness/internal/server"
)

// Env is what a test or a program asked for: a field for each kind of server. One that was not asked
// for is not nil: its methods say so, and end the test.
type Env struct {
	Postgres *PostgresServer
	RabbitMQ *RabbitMQServer
	MariaDB  *MariaDBServer

	services []service
	close    func() error
}

// Service is a server to start: [Postgres], [RabbitMQ] or [MariaDB] with options.
type Service struct {
	kind *server.Kind
	cfg  server.Config
}

// service is what Env does with each of its servers.
type service interface {
	open(ctx context.Context, owner string) error
	log() string
	end() error
}

// Start gives a test the servers that it names: of each a database or a virtual host of the test's
// own, on a server that the tests of this process share, or on its own with [Private]. They start at
// the same time, when the first test asks. What the test got is removed when it ends.
//
// A test that can't have them fails, with what was tried and what to do. A test that fails for
// another reason shows the last lines of its servers' logs.
func Start(tb testing.TB, services ...Service) *Env {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	env, err := start(ctx, tb, services)
	if err != nil {
		tb.Fatalf("harness: %s", tellOnce(err, tb.Name()))
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			for _, s := range env.services {
				if text := s.log(); text != "" {
					tb.Log(text)
				}
			}
		}
		if err := env.Close(); err != nil {
			tb.Errorf("harness: clean up: %v", err)
		}
	})
	return env
}

// StartEnv is [Start] for a program that is not a test: its servers are those of the environment's URLs,
// or this program's own, which [Env.Close] ends. Methods that take a testing.TB are for tests.
func StartEnv(ctx context.Context, services ...Service) (*Env, error) {
	env, err := start(ctx, nil, services)
	if err != nil {
		return nil, fmt.Errorf("harness: %w", err)
	}
	return env, nil
}

func start(ctx context.Context, tb testing.TB, services []Service) (*Env, error) {
	if err := check(services); err != nil {
		return nil, err
	}
	owner := "main"
	if tb != nil {
		owner = tb.Name()
	}
	env := &Env{}
	env.close = sync.OnceValue(env.end)
	at := func(kind *server.Kind, option string) powerSwitch {
		p := powerSwitch{kind: kind, option: option, tb: tb}
		for _, s := range services {
			if s.kind == kind {
				p.asked, p.cfg = true, s.cfg
			}
		}
		return p
	}
	env.Postgres = &PostgresServer{powerSwitch: at(server.PostgreSQL, "harness.Postgres()")}
	env.RabbitMQ = &RabbitMQServer{powerSwitch: at(server.RabbitMQ, "harness.RabbitMQ()")}
	env.MariaDB = &MariaDBServer{powerSwitch: at(server.MariaDB, "harness.MariaDB()")}
	for _, s := range []struct {
		service
		asked bool
	}{{env.Postgres, env.Postgres.asked}, {env.RabbitMQ, env.RabbitMQ.asked}, {env.MariaDB, env.MariaDB.asked}} {
		if s.asked {
			env.services = append(env.services, s.service)
		}
	}
	problems := inParallel(env.services, func(s service) error { return s.open(ctx, owner) })
	if err := errors.Join(problems...); err != nil {
		return nil, failedStart(append(problems, env.Close()))
	}
	return env, nil
}

// check reports everything that is wrong with what was asked for.
func check(services []Service) error {
	var problems []error
	if len(services) == 0 {
		problems = append(problems, errors.New("no server was asked for: pass harness.Postgres(), harness.RabbitMQ() or harness.MariaDB()"))
	}
	asked := map[*server.Kind]bool{}
	for _, s := range services {
		switch {
		case s.kind == nil:
			problems = append(problems, errors.New("an empty Service was passed: use harness.Postgres(), harness.RabbitMQ() or harness.MariaDB()"))
			continue
		case asked[s.kind]:
			problems = append(problems, fmt.Errorf("%s was asked for twice: call Start once more for another one", s.kind.Name))
		}
		asked[s.kind] = true
		if len(s.cfg.Settings) > 0 && !s.cfg.Private {
			problems = append(problems, fmt.Errorf("a Setting changes %s for everybody who uses it: add harness.Private()", s.kind.Name))
		}
	}
	return errors.Join(problems...)
}

// Close removes what the program got and ends the servers that were started for it. It has its own
// time limit, so it may be deferred after an interrupt, and it may be called again. Tests need not
// call it.
func (e *Env) Close() error { return e.close() }

func (e *Env) end() error {
	return errors.Join(inParallel(e.services, service.end)...)
}

func inParallel(services []service, do func(service) error) []error {
	problems := make([]error, len(services))
	var group sync.WaitGroup
	for i, s := range services {
		group.Go(func() { problems[i] = do(s) })
	}
	group.Wait()
	return problems
}

// startError is why servers did not start, one by one.
type startError []error

func failedStart(problems []error) error {
	var e startError
	for _, err := range problems {
		if err != nil {
			e = append(e, err)
		}
	}
	return e
}

func (e startError) Unwrap() []error { return e }

// Error explains all missing servers together: most have the same trouble and the same remedy.
func (e startError) Error() string {
	var missing []*server.NoServerError
	var texts []string
	for _, err := range e {
		var m *server.NoServerError
		if errors.As(err, &m) {
			missing = append(missing, m)
		} else {
			texts = append(texts, err.Error())
		}
	}
	if len(missing) > 0 {
		texts = append(texts, server.NoServers(missing))
	}
	return strings.Join(texts, "\n")
}

// told has, for every problem that a test has shown in full, the test's name.
var told sync.Map

// tellOnce returns the text of an error for a test. On a machine without servers every test fails: the
// first says what to do, and the others say which one that is.
func tellOnce(err error, test string) string {
	all, ok := err.(startError)
	if !ok {
		return err.Error()
	}
	var fresh startError
	var known []string
	for _, problem := range all {
		text := problem.Error()
		key := text
		var missing *server.NoServerError
		if errors.As(problem, &missing) {
			key = missing.Cause()
		}
		if first, before := told.LoadOrStore(key, test); before {
			headline, _, _ := strings.Cut(text, "\n")
			headline, _, _ = strings.Cut(headline, ". ")
			known = append(known, fmt.Sprintf("%s: %s says why and what to do", headline, first))
		} else {
			fresh = append(fresh, problem)
		}
	}
	if len(fresh) > 0 {
		known = append(known, fresh.Error())
	}
	return strings.Join(known, "\n")
}

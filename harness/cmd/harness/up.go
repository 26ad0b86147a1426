package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/surepost/surepost/harness/internal/server"
)

// kinds are all that this command knows, in the order in which it works.
var kinds = []*server.Kind{server.PostgreSQL, server.RabbitMQ, server.MariaDB}

var kindNames = map[string]*server.Kind{"postgres": server.PostgreSQL, "rabbitmq": server.RabbitMQ, "mariadb": server.MariaDB}

// One file per server, so that what was started is on record even if the other fails.
func stateFile(k *server.Kind) string { return filepath.Join(stateDir, k.Package+".json") }

const stateDir = ".surepost"

// up starts what does not run yet and prints how to reach it.
func up(ctx context.Context, kinds []*server.Kind) error {
	// testcontainers-go's cleaner would take the containers away as soon as this process ends.
	if err := os.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true"); err != nil {
		return err
	}
	var exports string
	for _, kind := range kinds {
		kept, err := ensure(ctx, kind)
		if err != nil {
			return err
		}
		exports += fmt.Sprintf("export %s='%s'\n", kind.URLVar, kept.URL)
	}
	// All or nothing: a shell must not evaluate half of it.
	fmt.Print(exports)
	return nil
}

func ensure(ctx context.Context, kind *server.Kind) (*server.Kept, error) {
	kept, err := load(kind)
	if err != nil {
		return nil, err
	}
	if kept != nil && kept.Running(ctx) {
		progress("%s is up: %s", kind.Name, kept.Origin)
		return kept, nil
	}
	if kept != nil { // the machine was restarted, or a server crashed
		if err := discard(ctx, kind, kept); err != nil {
			return nil, err
		}
	}
	progress("starting %s…", kind.Name)
	// Not private, which would sync to disk, but our own: up is what sets the variables.
	s, err := server.Start(ctx, kind, server.Config{})
	if err != nil {
		return nil, err
	}
	progress("%s is up: %s", kind.Name, s.Origin)
	return keep(ctx, kind, s)
}

// keep writes the record before it lets the server go: an `up` that dies in between takes the server
// along, and leaves at worst a record of nothing.
func keep(ctx context.Context, kind *server.Kind, s *server.Server) (*server.Kept, error) {
	kept, err := s.Record()
	if err == nil {
		err = store(kind, kept)
	}
	if err == nil {
		err = s.Detach()
	}
	if err != nil {
		return nil, errors.Join(err, s.Close(context.WithoutCancel(ctx)))
	}
	return kept, nil
}

func down(ctx context.Context, kinds []*server.Kind) error {
	var problems []error
	for _, kind := range kinds {
		kept, err := load(kind)
		if err == nil && kept == nil {
			progress("%s is not up", kind.Name)
			continue
		}
		if err == nil {
			err = discard(ctx, kind, kept)
		}
		if err != nil {
			problems = append(problems, err)
			continue
		}
		progress("%s is down", kind.Name)
	}
	if len(problems) == 0 {
		_ = os.Remove(stateDir) // refuses when somebody else keeps something in it
	}
	return errors.Join(problems...)
}

func status(ctx context.Context, kinds []*server.Kind) error {
	var missing error
	for _, kind := range kinds {
		kept, err := load(kind)
		switch {
		case err != nil:
			return err
		case kept == nil || !kept.Running(ctx):
			fmt.Printf("%s: down\n", kind.Name)
			missing = errors.New("not everything is up: run `harness up`")
		default:
			fmt.Printf("%s: up, %s, %s\n", kind.Name, kept.Origin, kept.URL)
		}
	}
	return missing
}

func discard(ctx context.Context, kind *server.Kind, kept *server.Kept) error {
	if err := kept.Stop(ctx); err != nil {
		return fmt.Errorf("end %s: %w", kind.Name, err)
	}
	return os.Remove(stateFile(kind))
}

// load returns the record of a server, or nil when there is none.
func load(kind *server.Kind) (*server.Kept, error) {
	text, err := os.ReadFile(stateFile(kind))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	kept := new(server.Kept)
	if err := json.Unmarshal(text, kept); err != nil {
		return nil, fmt.Errorf("%s is damaged: end the servers that it names by hand and remove it: %w", stateFile(kind), err)
	}
	return kept, nil
}

// store writes the record whole or not at all. It holds PostgreSQL's password.
func store(kind *server.Kind, kept *server.Kept) error {
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return err
	}
	text, err := json.MarshalIndent(kept, "", "  ")
	if err != nil {
		return err
	}
	draft := stateFile(kind) + ".new"
	if err := os.WriteFile(draft, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(draft, stateFile(kind))
}

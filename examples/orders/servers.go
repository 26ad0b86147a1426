package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/surepost/surepost/harness"
)

// servers are a database for each service and a virtual host, on the servers that two variables name or that the
// harness finds.
type servers struct {
	environment
	env *harness.Env
}

func openServers(ctx context.Context) (s *servers, err error) {
	env, err := harness.StartEnv(ctx, harness.Postgres(), harness.RabbitMQ())
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, env.Close())
		}
	}()
	s = &servers{env: env}
	s.amqp = env.RabbitMQ.URL()
	for _, db := range []struct {
		name string
		url  *string
	}{{"orders", &s.ordersDatabase}, {"inventory", &s.inventoryDatabase}, {"notification", &s.notificationDatabase}} {
		if *db.url, err = env.Postgres.CreateDatabase(ctx, db.name); err != nil {
			return s, err
		}
	}
	return s, nil
}

// close removes the databases and the virtual host, and ends the servers if they were started for this run.
func (s *servers) close() error { return s.env.Close() }

// canKeep says whether -keep makes sense: servers that the harness starts end with the program.
func canKeep() error {
	for _, name := range []string{"SUREPOST_POSTGRES_URL", "SUREPOST_AMQP_URL"} {
		if os.Getenv(name) == "" {
			return fmt.Errorf("-keep needs servers that outlast this program: run `make up`, and set %s as it says", name)
		}
	}
	return nil
}

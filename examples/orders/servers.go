package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/surepost/surepost/harness"
)

// servers are a database for each service and a virtual host, on the servers that two variables name or that the
// harness finds.
type servers struct {
	environment
	postgres *harness.PostgresServer
	rabbit   *harness.RabbitMQServer
}

func openServers(ctx context.Context) (s *servers, err error) {
	s = &servers{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	var group sync.WaitGroup
	var postgresErr, rabbitErr error
	group.Go(func() { s.postgres, postgresErr = harness.StartPostgres(ctx) })
	group.Go(func() { s.rabbit, rabbitErr = harness.StartRabbitMQ(ctx) })
	group.Wait()
	if err := errors.Join(postgresErr, rabbitErr); err != nil {
		return s, err
	}
	s.amqp = s.rabbit.URL()
	for _, db := range []struct {
		name string
		url  *string
	}{{"orders", &s.ordersDatabase}, {"inventory", &s.inventoryDatabase}, {"notification", &s.notificationDatabase}} {
		if *db.url, err = s.postgres.CreateDatabase(ctx, db.name); err != nil {
			return s, err
		}
	}
	return s, nil
}

// close removes the databases and the virtual host, and ends the servers if they were started for this run.
func (s *servers) close() error {
	var errs []error
	if s.postgres != nil {
		errs = append(errs, s.postgres.Close())
	}
	if s.rabbit != nil {
		errs = append(errs, s.rabbit.Close())
	}
	return errors.Join(errs...)
}

// canKeep says whether -keep makes sense: servers that the harness starts end with the program.
func canKeep() error {
	for _, name := range []string{"SUREPOST_POSTGRES_URL", "SUREPOST_AMQP_URL"} {
		if os.Getenv(name) == "" {
			return fmt.Errorf("-keep needs servers that outlast this program: run `make up`, and set %s as it says", name)
		}
	}
	return nil
}

package main

import (
	"context"
	"os"

	"github.com/surepost/surepost/examples/internal/child"
)

// services are the processes by their names: the program starts itself anew for each, so that it can be killed.
var services = map[string]func(context.Context, *child.Teller) error{
	"order-service": inEnvironment(runOrderService),
	"inventory":     inEnvironment(runInventory),
	"notification":  inEnvironment(runNotification),
	"relay":         inEnvironment(runRelay),
}

func inEnvironment(run func(context.Context, environment, *child.Teller) error) func(context.Context, *child.Teller) error {
	return func(ctx context.Context, tell *child.Teller) error { return run(ctx, readEnvironment(), tell) }
}

// environment is where a service finds its database and the broker. It travels in environment variables: arguments,
// and the passwords in them, are for everybody to see in ps.
type environment struct {
	ordersDatabase       string
	inventoryDatabase    string
	notificationDatabase string
	amqp                 string
}

func (e environment) variables() []string {
	return []string{
		"ORDERS_DATABASE_URL=" + e.ordersDatabase,
		"INVENTORY_DATABASE_URL=" + e.inventoryDatabase,
		"NOTIFICATION_DATABASE_URL=" + e.notificationDatabase,
		"AMQP_URL=" + e.amqp,
	}
}

func readEnvironment() environment {
	return environment{
		ordersDatabase:       os.Getenv("ORDERS_DATABASE_URL"),
		inventoryDatabase:    os.Getenv("INVENTORY_DATABASE_URL"),
		notificationDatabase: os.Getenv("NOTIFICATION_DATABASE_URL"),
		amqp:                 os.Getenv("AMQP_URL"),
	}
}

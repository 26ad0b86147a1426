// Package server runs one PostgreSQL or one RabbitMQ for package harness: it finds a source (an
// address from the environment, a container, binaries on this machine), starts the server, waits
// until it really serves, and makes sure that nothing of it outlives the process that asked for it.
//
// How to read on: source.go decides where a server comes from, server.go is one running server,
// folder.go holds the guard that cleans up after a crash; postgres.go, rabbitmq.go and container.go
// are the three ways to run one.
//
// It needs a Unix: process groups, signals and /bin/sh.
package server

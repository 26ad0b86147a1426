// Package simulation tries to break the promises of DESIGN.md §1 in worlds that a seed decides (see internal/sim): the real
// relay, on a model of PostgreSQL and one of RabbitMQ.
//
// What is real: package relay, all of it. What is a model, and must be as mean as the original:
//
//   - database_test.go, log_test.go: transactions with ids, snapshots and numbers of a sequence, the statements of
//     sqlstore/internal/postgres as far as they decide something, crashes and failovers
//   - broker_test.go: sessions, confirms, returns, rejections, alarms, lost connections
//   - relay_test.go: producers, relays that are paused, killed and restarted, an operator; and what is promised
//   - planted_test.go: bugs, each of which must be found
//
// Run it for longer with
//
//	go test ./simulation -run TestPromisesOfTheRelay -for 10m
//
// and see package sim for what to do with a seed that it prints.
package simulation

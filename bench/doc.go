// Command bench measures Surepost against stated references in the same run: figures on their own say more about the
// machine.
//
//	go run ./bench CASE [-json] [-n N] [-rounds N] [-slice D] [-rate N] [-backlog N] [-cpuprofile FILE]
//	go run ./bench all [-only CASE,…] [-report]
//
// A case starts a PostgreSQL and a RabbitMQ of its own through the harness, with fsync on, since commits are part of
// what is measured. It prints a table, or with -json one object a figure, each on a line and with the keys case,
// figure, reference, ratio, unit and settings. all runs the cases one after the other and writes RESULTS.md, with the
// notes of notes.md; -only leaves the other cases' results as they were, and -report runs nothing.
//
// Cases:
//
//	drain    events per second from PostgreSQL to a durable queue, persistent, mandatory, confirmed; reference: the
//	         client library alone, with the same messages from memory
//	peers    the same drain; reference: Watermill's forwarder, and River jobs that publish
//	write    transactions with one event per second; reference: the same with a hand-written INSERT
//	flat     the drain's rate with a long backlog, and beside open transactions; reference: a short one, and none.
//	         Peak memory; reference: its limit
//	latency  from a commit to the handler; reference: from a bare publish to a bare consumer
//	consume  messages per second through the inbox; reference: the same handler without one
//	wal      WAL and dead tuples per event; reference: an outbox whose rows are deleted
//
// # How it measures
//
// Rounds of figure and references alternate, in an order that is drawn anew for each round (rounds.go), and their
// medians are compared; every single measurement is in the settings. Whatever drains a log does so in a process of
// its own (worker.go), with every default of the library that it shows. What arrived, was written or had an effect is
// counted after each round, and a wrong count fails the run: a fast way to lose events would win otherwise. A ratio
// above 1 is better than the reference, whatever the unit; what aims there are were set before anything was measured.
//
// To see what a case spends its time on: -cpuprofile FILE writes FILE.CASE, of this process, and FILE.WORKER.cpu, of
// each worker's last round.
package main

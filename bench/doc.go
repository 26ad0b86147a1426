// Command bench measures Surepost against a stated limit in the same run: figures on their own say more about the
// machine.
//
//	go run ./bench drain [-n 50000] [-rounds 3] [-json]
//
// starts a PostgreSQL and a RabbitMQ of its own through the harness (with fsync on, since commits are part of what is
// measured) and prints a table, or with -json one object with the keys case, figure, reference, ratio, unit and
// settings. Rounds of figure and reference alternate, and their medians are compared.
//
// Cases:
//
//	drain   events per second from PostgreSQL to a durable queue, persistent, mandatory, confirmed; reference: the client library alone, on one connection,
//	        with the same messages from memory, the same window and the confirms pipelined
package main

// Package relay publishes the events of a log to a broker: every committed event, none that was rolled back, and the
// events of one key in commit order. It knows no SQL and no AMQP; a [Store] and a [Publisher] do.
//
// What it promises, for first occurrences and whatever is killed, cut off or restarted: nothing is lost, nothing is
// invented, and nothing overtakes within a key. An outage of the store or the broker costs latency only. What it
// doesn't promise: that an event is published only once. After a crash or a lost connection the events since the last
// checkpoint are published again, with their ids; the inbox drops them.
//
// How to read it: stream.go decides what to send and what is settled, as a state machine without clocks, goroutines
// or I/O. run.go is the shell around it: one goroutine that owns the session, one that owns the log. keeper.go holds
// the lease, and leader.go begins again for as long as it is held: that is one lane. supervisor.go leads as many lanes as
// are the relay's share, which share.go works out.
package relay

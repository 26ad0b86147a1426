// Package relay publishes the events of a log to a broker: every committed event, none that was rolled back, and the
// events of one key in commit order. It knows no SQL and no AMQP; a [Store] and a [Publisher] do.
//
// What it promises, for first occurrences and whatever is killed, cut off or restarted: nothing is lost, nothing is
// invented, and nothing overtakes within a key. An outage of the store or the broker costs latency only. What it
// doesn't promise: that an event is published only once. After a crash or a lost connection the events since the last
// checkpoint are published again, with their ids; the inbox drops them.
//
// # Replays
//
// A destination is a named reader of the log with a cursor of its own: one log can feed several brokers, none of which
// waits for another. A replay is a destination that a store makes of a part of its log, by time, type, key, source or id
// (CreateReplay; CountEvents says beforehand how much it would be). A relay of it, with Config.Replay and a publisher that
// leads to the same exchange or another, publishes that part with all that a relay does, at Config.MaxEventsPerSecond if
// set, and ends. If it is interrupted, the next relay of the same destination goes on; RemoveDestination cancels it.
//
// Replayed events keep their ids, so that an inbox that has handled them drops them. That is what is wanted where only some
// consumers have missed events: those that have them lose nothing by a replay to the usual exchange. A consumer that is to
// handle events once more reads them under another consumer name, which has an inbox window of its own (and so is best
// served from a queue of its own: see the publisher's routing), or has its records removed first. Either way its handlers do
// their work a second time, and the events that they write are new ones, with new ids, unless the handlers know what to leave
// out by [HeaderReplay]. Such a handler must not copy that header to the events that it writes.
//
// How to read it: stream.go decides what to send and what is settled, as a state machine without clocks, goroutines
// or I/O. run.go is the shell around it: one goroutine that owns the session, one that owns the log. keeper.go holds
// the lease, and leader.go begins again for as long as it is held: that is one lane. supervisor.go leads as many lanes as
// are the relay's share, which share.go works out.
package relay

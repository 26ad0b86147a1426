// Package model is an executable model of what Surepost's promises rest on in PostgreSQL: the cut, the leases, the
// changes of the number of lanes, and the ring of leaves that is emptied by TRUNCATE. An explorer visits every state
// that it can come to within a scope (so many transactions, keys, relays, leaves), in every order of steps, and looks
// for one in which a promise is broken. It needs Go and nothing else:
//
//	go test ./internal/model -v                          # small scopes, and planted bugs: seconds each
//	go test ./internal/model -v -timeout 6h -model.soak  # larger ones too: half an hour, two gigabytes
//
// The promises, in every state, for every destination:
//
//	no loss    If every relay died now and one came and read on from the checkpoints, every committed event would have
//	           been published in the end.
//	no ghost   Nothing is published of a transaction that hasn't committed.
//	order      The first occurrences of a key's events are published in the order of their commits.
//	no alarm   A relay that opens the log isn't told that the sequence was set back: nothing here sets it back.
//
// A step is as small as what PostgreSQL does at once. What is one step here, and why it may be:
//
//   - A transaction gets its id (GetNewTransactionId): from then on every snapshot that is taken knows of it. Nothing says
//     when: with an earlier statement, or with the event's own INSERT.
//   - It draws a number (nextval): at once, for all to see, and never undone. The key's lock is taken with it, because
//     whoever takes it earlier only keeps others from doing something that they may as well do before.
//   - It locks a leaf and puts its row there. The leaf is locked when the row is routed to it, which is when its defaults have been
//     evaluated: the transaction may have its id and its number, and no lock. Which leaf is anybody's choice: the code
//     takes the current one as of the statement's snapshot, which may be as old as the transaction.
//   - It ends: it leaves the array of running transactions (ProcArrayEndTransaction), its rows become visible, and its locks go.
//   - A relay's read is three steps, between which all others go on: the snapshot, with locks on all leaves; the
//     last number drawn; the next transaction id. The rows are what the snapshot shows, whenever they are fetched.
//   - A checkpoint, an acquired lease and a change of the number of lanes are one step each. They hold locks on the lease's row
//     that make them wait for each other until they have committed, and what commits meanwhile doesn't matter to them.
//   - Retain locks a leaf, looks for rows that somebody hasn't passed, and truncates it, in three steps. It may choose any leaf
//     at any time: how old a leaf is and which one is current is left out, since nothing may be lost whatever the clock says.
//
// A lease runs out at any time, and who had it may go on for ever with what it knows, without ever looking at its clock: the
// promises don't rest on clocks. A relay that dies is one that does nothing more.
//
// What is left out: crashes of the server with what wasn't flushed, failovers and restored dumps (integration tests have
// those); parked events; replays; subtransactions, which are to a snapshot like other transactions without events, since
// the column tx and xip have top-level ids only; transaction ids that relays use up, for the same reason; the local
// clock by which a relay stops before its lease does, which only helps.
//
// Cursor.Advance and Oldest say again what sqlstore/internal/postgres says in cursor.go and lanes.go; a test there compares
// the two for every small input. The rest mirrors SQL; each step names it.
package model

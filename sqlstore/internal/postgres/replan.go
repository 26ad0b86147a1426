package postgres

import (
	"strconv"
	"time"
)

// replan has a statement planned anew when it has become slow.
//
// A driver that prepares statements has PostgreSQL keep their plans until something is known to have changed. A plan that was
// made while all leaves of the log were empty reads them from end to end, since nothing is cheaper then, and goes on doing so
// while they grow, until autovacuum comes by and has it planned anew: which takes it a minute at the least, in which a busy log
// gets a million rows. A plan that was made when there were rows uses the indexes, and stays right whatever comes.
//
// So a text that took long is exchanged for one that differs in a comment, which is planned with the tables as they are. They
// come round again, so that no server keeps more than a few.
type replan struct {
	text int
	at   time.Time
}

const (
	slowRead    = 10 * time.Millisecond // a read of a page takes one or two, or what the network takes
	replanEvery = time.Second           // planning takes a millisecond or two
	replanTexts = 8
)

// comment ends the statement.
func (r *replan) comment() string { return " -- plan " + strconv.Itoa(r.text) }

// took notes how long the statement took, and reports whether its text is another one from now on.
func (r *replan) took(d time.Duration, now time.Time) bool {
	if d < slowRead || now.Sub(r.at) < replanEvery {
		return false
	}
	r.text, r.at = (r.text+1)%replanTexts, now
	return true
}

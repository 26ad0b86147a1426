package surepost

import "crypto/sha256"

// Slots is the number of slots that keys hash to. Lanes divide the slots among themselves; the number is part of the
// stored log and can't change.
const Slots = 1024

// Slot returns the event's slot: the first ten bits of SHA-256 over its key, or over its id where it has no key, so
// that events without order spread evenly. SHA-256 because every database and language computes it alike
// (surepost_write does).
func (e Event) Slot() int {
	by := e.Key
	if by == "" {
		by = e.ID
	}
	sum := sha256.Sum256([]byte(by))
	return int(sum[0])<<2 | int(sum[1])>>6
}

package inbox

import "maps"

// Around returns an inbox with the same consumer and the same handlers, whose transactions go through the store that
// wrap makes of this one's: to measure them, or to let them fail in tests. Handlers that are registered later belong to
// the one inbox they are registered with.
func (in *Inbox[TX]) Around(wrap func(Store[TX]) Store[TX]) *Inbox[TX] {
	in.mu.RLock()
	defer in.mu.RUnlock()
	return &Inbox[TX]{store: wrap(in.store), config: in.config, handlers: maps.Clone(in.handlers)}
}

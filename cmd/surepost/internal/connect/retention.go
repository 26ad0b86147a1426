package connect

import "github.com/surepost/surepost/cmd/surepost/internal/config"

// validateRetention refuses what this kind of database would ignore.
func validateRetention(c *config.Config, kind Kind) (problems config.Problems) {
	for _, key := range []string{"relay.retention", "relay.keepForever"} {
		if kind == MySQL && c.IsSet(key) && (key == "relay.retention" || c.Relay.KeepForever) {
			problems = append(problems, c.Problem(key, "is set, and in "+string(kind)+" an event leaves the log when it is published",
				"remove it, or use PostgreSQL or SQLite if events are to be kept"))
		}
	}
	return problems
}

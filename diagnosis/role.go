package diagnosis

import (
	"fmt"
	"slices"
	"strings"
)

// Role is what a user of the database is there for, by which its privileges are judged (README, "Privileges").
type Role string

const (
	Reader   Role = "reader" // doctor, status and the lists of events
	Relay    Role = "relay"
	Operator Role = "operator" // who retries, discards and replays
	Producer Role = "producer"
	Consumer Role = "consumer"
)

// Roles are all roles.
func Roles() []Role { return []Role{Reader, Relay, Operator, Producer, Consumer} }

func (r Role) validate() error {
	if r == "" || slices.Contains(Roles(), r) {
		return nil
	}
	var names []string
	for _, known := range Roles() {
		names = append(names, string(known))
	}
	return fmt.Errorf("diagnosis: Limits.Role is %q: use %s, or leave it empty", string(r), strings.Join(names, ", "))
}

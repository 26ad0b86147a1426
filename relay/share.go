package relay

import (
	"cmp"
	"slices"
)

// shares says how many lanes each of the relays is to have: all the same number, or some one more. The odd lanes go to
// relays that have one already, else to the first by name: relays that see the same come to the same, and where everybody
// has his share nothing moves.
func shares(lanes int, relays []string, has map[string]int) map[string]int {
	least := lanes / max(len(relays), 1)
	order := slices.Clone(relays)
	slices.SortFunc(order, func(a, b string) int {
		return cmp.Or(-cmp.Compare(min(has[a], least+1), min(has[b], least+1)), cmp.Compare(a, b))
	})
	share := make(map[string]int, len(relays))
	for i, owner := range order {
		share[owner] = least
		if i < lanes%len(relays) {
			share[owner]++
		}
	}
	return share
}

// has counts the lanes of each relay that is alive, and of the owner those that it says, if they are more. A lease that ran
// out counts too, until somebody takes it: its owner may only have been kept from renewing it. So does the owner's own that it
// doesn't lead, because it was started again under its name or couldn't release it: the others take that for its lane, and if
// it didn't, nobody would take it.
func (m Membership) has(owner string, own int) map[string]int {
	has := map[string]int{}
	for _, l := range m.Leases {
		if slices.Contains(m.Relays, l.Owner) {
			has[l.Owner]++
		}
	}
	has[owner] = max(has[owner], own)
	return has
}

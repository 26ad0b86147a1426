package config

import "strings"

// maxNameBytes is the longest name that is compared with the known ones: those have some 30 bytes, and what somebody wrote
// into a file may be a megabyte.
const maxNameBytes = 100

// nearest returns the one of the known names that was probably meant: the fewest changes away, if they are few for its
// length.
func nearest(name string, known []string) (string, bool) {
	if len(name) > maxNameBytes {
		return "", false
	}
	best, least := "", 0
	for _, k := range known {
		if d := changes(strings.ToLower(name), strings.ToLower(k)); best == "" || d < least {
			best, least = k, d
		}
	}
	return best, best != "" && least <= max(1, min(len(name), len(best))/3)
}

// changes is the number of letters to insert, remove, replace or exchange with their neighbour that make b of a
// (Damerau-Levenshtein, restricted).
func changes(a, b string) int {
	before, above := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, above = above, row
	}
	return above[len(b)]
}

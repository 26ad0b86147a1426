// Package cli is surepost's command line: its grammar, its commands, how they print and how they fail.
//
// A file holds one command or one group of them; views.go has the shapes of --json, which the README's tables are made
// of. What a store can do is found out by type assertion (able.go).
package cli

// Package config reads the command line's configuration from a YAML file, environment variables and flags, and says
// about each value where it came from.
//
// There is one table of keys (keys.go); the file's structure, the variables' and the flags' names, the documentation and
// what `surepost config print` shows are made of it. A flag wins over a variable, a variable over the file, the file over the
// default. Nothing connects before the whole is known to be right: Load reports every problem at once, each with the place
// that it came from and its remedy.
package config

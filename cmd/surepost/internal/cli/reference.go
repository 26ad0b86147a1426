package cli

import (
	"fmt"
	"reflect"
	"strings"
)

// shapes are what --json prints, by command, in the order of the reference.
var shapes = []struct {
	commands string
	list     bool // one object a line
	view     any
}{
	{"errors, on standard error", false, Failure{}},
	{"version", false, VersionView{}},
	{"migrate up, migrate status", true, MigrationView{}},
	{"migrate sql", false, SQLView{}},
	{"status", false, StatusView{}},
	{"destinations list, replay list", true, DestinationView{}},
	{"… its replay", false, ReplayView{}},
	{"… … its filter", false, FilterView{}},
	{"… its laneStates", false, LaneView{}},
	{"… its relays", false, RelayView{}},
	{"destinations add, remove and lanes, replay cancel", false, DoneView{}},
	{"events list, events tail (lines), events show", true, EventView{}},
	{"scheduled list", true, ScheduledView{}},
	{"scheduled log", true, CancellationView{}},
	{"parked list (lines), parked show", true, ParkedView{}},
	{"parked log", true, ParkedActionView{}},
	{"parked retry, parked discard, scheduled cancel", false, CountView{}},
	{"replay start --dry-run", false, ReplayCountView{}},
	{"replay start, replay resume", false, ReplayResultView{}},
	{"deadletters list", true, DeadLetterView{}},
	{"redrive", false, RedriveView{}},
	{"inbox prune", false, PruneView{}},
	{"doctor", true, FindingView{}},
	{"config keys", true, KeyView{}},
	{"config check", false, CheckView{}},
}

// Reference is the part of the README that is made of the program: the keys and the shapes of --json. A test compares them.
func Reference() string {
	var b strings.Builder
	b.WriteString("### Keys\n\n| key | variable | flag | value | default | meaning |\n|---|---|---|---|---|---|\n")
	for _, k := range keyViews() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", k.Key, code(k.Env), code(k.Flag), k.Kind, code(k.Default), k.Help)
	}
	b.WriteString("\n### Shapes\n")
	for _, s := range shapes {
		lines := ""
		if s.list {
			lines = " (one object a line)"
		}
		fmt.Fprintf(&b, "\n**%s**%s\n\n| field | type | meaning |\n|---|---|---|\n", s.commands, lines)
		for f := range reflect.TypeOf(s.view).Fields() {
			name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
			optional := ""
			if option == "omitempty" {
				optional = ", may be missing"
			}
			fmt.Fprintf(&b, "| `%s` | %s%s | %s |\n", name, typeName(f.Type), optional, f.Tag.Get("doc"))
		}
	}
	return b.String()
}

func code(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

// typeName is JSON's name for a type.
func typeName(t reflect.Type) string {
	switch {
	case t.String() == "*time.Time":
		return "time or null"
	case t.String() == "json.RawMessage":
		return "any"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeName(t.Elem()) + " or null"
	case reflect.Slice:
		return "list of " + typeName(t.Elem())
	case reflect.Map, reflect.Struct:
		return "object"
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "text"
	}
	return "number"
}

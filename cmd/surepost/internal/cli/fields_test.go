package cli

import (
	"fmt"
	"reflect"
	"strings"
)

// fields lists all fields of all shapes with their types.
func fields() (all []string) {
	for _, s := range shapes {
		t := reflect.TypeOf(s.view)
		for f := range t.Fields() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			all = append(all, fmt.Sprintf("%s.%s: %s", t.Name(), name, typeName(f.Type)))
		}
	}
	return all
}

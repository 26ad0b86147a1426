// Package operator checks who does something that is recorded.
package operator

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/surepost/surepost"
)

// Check returns an error unless by can be recorded as the name of who does something.
func Check(by string) error {
	const remedy = "pass the name of the person or the program, for example a login: it is recorded with what is done"
	switch {
	case strings.TrimSpace(by) == "":
		return fmt.Errorf("surepost: nobody is named who does this: %s", remedy)
	case len(by) > surepost.MaxNameBytes:
		return fmt.Errorf("surepost: the name of who does this is %d bytes long, the limit is %d: shorten it", len(by), surepost.MaxNameBytes)
	case !utf8.ValidString(by) || strings.ContainsRune(by, 0):
		return fmt.Errorf("surepost: the name of who does this, %q, isn't valid UTF-8 without NUL: %s", by, remedy)
	}
	return nil
}

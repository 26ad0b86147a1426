// Package rowtext reads and writes texts in the columns that the stores have in common.
package rowtext

import (
	"encoding/json"
	"strings"
)

// Headers reads a row's headers. A row that was written by hand may hold other values than strings; they are
// taken as they stand, since one odd row must not hold up the log.
func Headers(object string) map[string]string {
	var headers map[string]string
	if json.Unmarshal([]byte(object), &headers) == nil {
		return headers
	}
	var values map[string]json.RawMessage
	_ = json.Unmarshal([]byte(object), &values) // of what isn't an object nothing is left
	headers = make(map[string]string, len(values))
	for k, v := range values {
		var text string
		if json.Unmarshal(v, &text) != nil {
			text = strings.ToValidUTF8(string(v), "\ufffd") // as encoding/json does with those that are strings
		}
		headers[k] = text
	}
	return headers
}

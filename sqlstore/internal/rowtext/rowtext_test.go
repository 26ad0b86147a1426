package rowtext

import (
	"encoding/json"
	"maps"
	"testing"
)

// FuzzHeaders: whatever a row's headers hold, they are read as far as they can be, and no longer than they are.
func FuzzHeaders(f *testing.F) {
	f.Add(`{"a":"b"}`)
	f.Add(`{"a":1,"b":{"c":[null,"d"]},"e":"f"}`)
	f.Add(`[1]`)
	f.Add(`{"a":"\ud800","a":"b"`)
	f.Fuzz(func(t *testing.T, object string) {
		headers := Headers(object)
		n := 0
		for k, v := range headers {
			n += len(k) + len(v)
		}
		if n > 3*len(object) { // an invalid byte becomes the three of U+FFFD
			t.Fatalf("%d bytes of %d: %v", n, len(object), headers)
		}
		written, err := json.Marshal(headers)
		if err != nil {
			t.Fatal(err)
		}
		if again := Headers(string(written)); !maps.Equal(again, headers) {
			t.Fatalf("%v came back as %v", headers, again)
		}
	})
}

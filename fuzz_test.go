package surepost

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// Fuzz targets of what reads foreign bytes. `go test` runs their seeds, and what was found in testdata/fuzz; `make fuzz`
// looks for more.

// maxErrorText is what an error about foreign bytes may have: it goes into a log and into a dead letter's header.
const maxErrorText = 4 << 10

func nested(open, end string, levels int) json.RawMessage {
	return json.RawMessage(strings.Repeat(open, levels) + "1" + strings.Repeat(end, levels))
}

// FuzzParseEnvelope: whatever a body holds, it is refused with a short reason, or becomes an event that keeps within the
// limits, reads again as it was, and can be the cause of others.
func FuzzParseEnvelope(f *testing.F) {
	body, _ := AppendEnvelope(nil, valid())
	f.Add(body)
	f.Add([]byte(`{"eventId":"1","eventType":"T","timestamp":"2024-01-15T10:30:00.123456789+01:00","data":null}`))
	f.Add([]byte(`{"eventId":"1","eventType":"T","timestamp":"9999-12-31T23:59:59-23:59"}`)) // year 10000
	f.Add([]byte(`{"eventId":"1","eventType":"T","timestamp":"` + strings.Repeat("9", 5000) + `"}`))
	f.Add([]byte(`{"eventId":` + strings.Repeat("9", 5000) + `,"eventType":"T"}`))
	f.Add([]byte(`{"eventId":"a\u0000","eventType":"T","correlationId":"` + strings.Repeat("c", 256) + `"}`))
	f.Add([]byte("{\"eventId\":\"a\xff\",\"eventType\":\"T\"}"))
	f.Add([]byte(`{"eventId":"\ud800","eventType":"T","data":"\ud800"}`))
	f.Add([]byte(`{"eventId":"1","eventType":"T","data":` + string(nested("[", "]", 9_999)) + `}`))
	f.Add([]byte(`{"eventId":"1","eventType":"T","data":` + string(nested(`{"a":`, "}", 10_001)) + `}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := ParseEnvelope(body)
		if err != nil {
			if text := err.Error(); !errors.Is(err, ErrNotAnEvent) || len(text) > maxErrorText || !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
				t.Fatalf("the reason has %d bytes: %.300q", len(text), text)
			}
			return
		}
		if data := e.Data.(json.RawMessage); len(data) > max(len(body), len("null")) {
			t.Fatalf("%d bytes became %d", len(body), len(data))
		}
		again, err := AppendEnvelope(nil, e)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseEnvelope(again)
		if err != nil || !reflect.DeepEqual(back, e) {
			t.Fatalf("%q became %q, which reads as %+v (%v)", body, again, back, err)
		}
		if _, err := (Event{Type: "Next"}).Prepare(WithHandling(context.Background(), e), Defaults{Source: "s"}, Limits{}); err != nil {
			t.Fatalf("its handler can't write: %v", err)
		}
	})
}

// FuzzParseCloudEvent: the same of a CloudEvent in JSON, and of one whose body is its data.
func FuzzParseCloudEvent(f *testing.F) {
	e := valid()
	e.Headers = map[string]string{headerTraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "cloudEvents_subject": "s"}
	body, _ := AppendCloudEvent(nil, e)
	f.Add(body)
	const core = `{"specversion":"1.0","type":"T","source":"/s","id":"1"`
	f.Add([]byte(core + `,"datacontenttype":"text/plain","data_base64":"aGk="}`))
	f.Add([]byte(core + `,"datacontenttype":"image/png","data":["AP8="],"ext":true,"Ext":-5e9}`))
	f.Add([]byte(core + `,"time":"9999-12-31T23:59:59-23:59"}`))
	f.Add([]byte(core + `,"partitionkey":"` + strings.Repeat("9", 5000) + `"}`))
	f.Add([]byte(core + `,"` + strings.Repeat("n", 5000) + `":[]}`))
	f.Add([]byte(core + `,"subject":"\ud800","ext":"a\u0000"}`))
	f.Add([]byte(core + `,"data":` + string(nested("[", "]", 9_999)) + `}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		binary := map[string]string{ceSpecVersion: ceDialect, ceID: "1", ceSource: "/s", ceType: "T", ceDataContentType: string(body[:min(len(body), 20)])}
		for _, read := range []func() (Event, error){
			func() (Event, error) { return ParseCloudEvent(body) },
			func() (Event, error) { return EventFromCloudEvent(binary, body) },
		} {
			e, err := read()
			if err != nil {
				if text := err.Error(); !errors.Is(err, ErrNotAnEvent) || len(text) > maxErrorText || !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
					t.Fatalf("the reason has %d bytes: %.300q", len(text), text)
				}
				continue
			}
			if data := e.Data.(json.RawMessage); len(data) > 6*len(body)+4 || !json.Valid(data) {
				t.Fatalf("%d bytes became %d: %.300q", len(body), len(data), data)
			}
			again, err := AppendCloudEvent(nil, e)
			if err != nil {
				t.Fatal(err)
			}
			// What isn't an attribute's name, and the type of data that isn't JSON, don't go into a CloudEvent of Surepost's.
			maps.DeleteFunc(e.Headers, func(k, _ string) bool {
				_, ok := extension(k)
				return !ok && k != headerTraceParent && k != headerTraceState
			})
			if len(e.Headers) == 0 {
				e.Headers = nil
			}
			e.Source = CloudEventSource(e.Source)
			back, err := ParseCloudEvent(again)
			if err != nil || !reflect.DeepEqual(back, e) {
				t.Fatalf("%q became %q, which reads as %+v, want %+v (%v)", body, again, back, e, err)
			}
			if _, err := (Event{Type: "Next"}).Prepare(WithHandling(context.Background(), e), Defaults{Source: "s"}, Limits{}); err != nil {
				t.Fatalf("its handler can't write: %v", err)
			}
		}
	})
}

// FuzzEnvelope: what Validate lets pass can be read, and is what was written.
func FuzzEnvelope(f *testing.F) {
	f.Add("evt_1", "OrderCreated", "1.0", "s", "c", "", "k\"\\\u2028", "domain", int64(1700000000), int64(123456000), []byte(`{"a":1}`))
	f.Add("a\xff", "T\x00", "", strings.Repeat("s", 256), "", "b", "", "other", int64(-1), int64(1), []byte(`"\ud800"`))
	f.Add("e", "T", "1", "s", "c", "", "", "", int64(1700000000), int64(0), []byte(nested("[", "]", 10_000)))
	f.Add("e", "T", "1", "s", "c", "", "", "", int64(-62135596800), int64(0), []byte(nested(`[{"a":`, "}]", 501)))
	f.Fuzz(func(t *testing.T, id, typ, version, source, correlation, causation, key, category string, seconds, nanos int64, data []byte) {
		e := Event{ID: id, Type: typ, Version: version, Source: source, CorrelationID: correlation, CausationID: causation, Key: key,
			Category: Category(category), Time: time.Unix(seconds, nanos).UTC(), Data: json.RawMessage(data)}
		if err := e.Validate(Limits{}); err != nil {
			if !errors.Is(err, ErrInvalidEvent) || len(err.Error()) > maxErrorText || !utf8.ValidString(err.Error()) {
				t.Fatalf("%.300q", err)
			}
			return
		}
		body, err := AppendEnvelope(nil, e)
		if err != nil {
			t.Fatal(err)
		}
		if data == nil {
			e.Data = json.RawMessage("null")
		}
		back, err := ParseEnvelope(body)
		if err != nil {
			t.Fatalf("%+v was valid, and reads with %v", e, err)
		}
		back.Data, e.Data = bytes.TrimSpace(back.Data.(json.RawMessage)), bytes.TrimSpace(e.Data.(json.RawMessage))
		if !reflect.DeepEqual(back, e) {
			t.Fatalf("wrote %+v\nread  %+v", e, back)
		}
		cloud, err := AppendCloudEvent(nil, e)
		if err != nil {
			t.Fatal(err)
		}
		back, err = ParseCloudEvent(cloud)
		if err != nil || CloudEventSource(e.Source) != back.Source {
			t.Fatalf("%s: %+v (%v)", cloud, back, err)
		}
		back.Source, back.Data = e.Source, bytes.TrimSpace(back.Data.(json.RawMessage))
		if !reflect.DeepEqual(back, e) {
			t.Fatalf("wrote %+v as a CloudEvent\nread  %+v", e, back)
		}
		for _, body := range [][]byte{body, cloud} {
			var generic map[string]json.RawMessage
			if err := json.Unmarshal(body, &generic); err != nil || len(generic) > 12 {
				t.Fatalf("a field has escaped: %s %v", body, err)
			}
		}
	})
}

// FuzzTrace: whatever a request's or a message's trace headers hold, what is written under them is valid, and its trace is
// a version-00 traceparent or none.
func FuzzTrace(f *testing.F) {
	const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	f.Add(good, "a=b,c=d")
	f.Add("cc"+good[2:]+"-\x00"+strings.Repeat("x", 40_000), "a=b")
	f.Add("01"+good[2:53]+"ff", strings.Repeat("a=b,", 10_000))
	f.Add(good, "a=\xff")
	f.Add(good[:54], "\x00")
	f.Fuzz(func(t *testing.T, parent, state string) {
		ctx := context.Background()
		for name, ctx := range map[string]context.Context{
			"request": WithTrace(ctx, TraceContext{parent, state}),
			"message": WithHandling(ctx, Event{ID: "e", Headers: map[string]string{headerTraceParent: parent, headerTraceState: state}}),
		} {
			e, err := (Event{Type: "T"}).Prepare(ctx, Defaults{Source: "s"}, Limits{})
			if err != nil {
				t.Fatalf("under a %s: %v", name, err)
			}
			carried, there := e.Headers[headerTraceParent]
			if there != validTraceParent(parent) || there && (len(carried) != 55 || carried[:2] != "00" || carried[2:52] != parent[2:52]) {
				t.Fatalf("under a %s: %q became %q", name, parent, carried)
			}
			if there && parent[:2] == "00" && carried != parent {
				t.Fatalf("under a %s: %q became %q", name, parent, carried)
			}
			if id := e.TraceID(); there != (len(id) == 32) {
				t.Fatalf("trace id %q of %q", id, carried)
			}
		}
	})
}

// Ids of which one stood for the other would make the inbox drop an event that it never saw.
func TestTwoBodiesThatAreNotUTF8AreNotOneEvent(t *testing.T) {
	for _, id := range []string{"a\xff", "a\xfe"} {
		if e, err := ParseEnvelope([]byte(`{"eventId":"` + id + `","eventType":"T"}`)); !errors.Is(err, ErrNotAnEvent) || !strings.Contains(err.Error(), "byte 14") {
			t.Errorf("%q: %+v, %v", id, e, err)
		}
	}
}

func TestWhatIsTooDeepToBeReadIsNotWritten(t *testing.T) {
	for _, c := range []struct {
		data  any
		valid bool
	}{
		{nested("[", "]", MaxDataDepth), true}, {nested("[", "]", MaxDataDepth+1), false},
		{nested(`{"a":`, "}", MaxDataDepth), true}, {nested(`{"a":`, "}", MaxDataDepth+1), false},
		{strings.Repeat(`["{\"`, 2000), true}, {json.RawMessage("[" + strings.Repeat(`[],"\\[",`, 2000) + "1]"), true},
	} {
		_, err := (Event{Type: "T", Data: c.data}).Prepare(context.Background(), Defaults{Source: "s"}, Limits{})
		if (err == nil) != c.valid || err != nil && !strings.Contains(err.Error(), "1000 levels") {
			t.Errorf("%.20s: %v", c.data, err)
		}
	}
}

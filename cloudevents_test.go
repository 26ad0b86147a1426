package surepost

import (
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestACloudEventIsAsTheSpecificationSays(t *testing.T) {
	e := Event{
		ID: "evt_abc123", Type: "OrderCreated", Time: time.Date(2024, 1, 15, 10, 30, 0, 123456000, time.UTC), Version: "2.1", Source: "order service",
		CorrelationID: "req_xyz789", CausationID: "evt_0", Key: "order-1", Category: Domain, Data: json.RawMessage(`{"a":[1,"<&>"]}`),
		Headers: map[string]string{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tenant": "acme",
			"cloudEvents_subject": "order/1", "cloudEvents_Bad-Name": "x", "cloudEvents_id": "forged"},
	}
	body, err := AppendCloudEvent([]byte("before"), e)
	if err != nil {
		t.Fatal(err)
	}
	const want = `before{"specversion":"1.0","id":"evt_abc123","source":"order%20service","type":"OrderCreated",` +
		`"time":"2024-01-15T10:30:00.123456Z","dataversion":"2.1","correlationid":"req_xyz789","causationid":"evt_0","partitionkey":"order-1",` +
		`"eventcategory":"domain","traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","subject":"order/1",` +
		`"datacontenttype":"application/json","data":{"a":[1,"<&>"]}}`
	if string(body) != want {
		t.Errorf("got  %s\nwant %s", body, want)
	}
	back, err := ParseCloudEvent(body[len("before"):])
	if err != nil {
		t.Fatal(err)
	}
	e.Source = "order%20service"
	e.Headers = map[string]string{"traceparent": e.Headers["traceparent"], "cloudEvents_subject": "order/1"}
	if !reflect.DeepEqual(back, e) {
		t.Errorf("got  %+v\nwant %+v", back, e)
	}
	if _, err := AppendCloudEvent(nil, Event{ID: "1", Type: "T"}); !errors.Is(err, ErrInvalidEvent) {
		t.Errorf("without a source: %v", err)
	}
}

// The examples of the JSON event format, and what other producers may send.
func TestCloudEventsOfOthersAreRead(t *testing.T) {
	const core = `"specversion":"1.0","type":"com.example.someevent","source":"/mycontext","id":"A234-1234-1234"`
	for name, c := range map[string]struct {
		body, data string
		headers    map[string]string
	}{
		"least":         {`{` + core + `}`, `null`, nil},
		"JSON":          {`{` + core + `,"datacontenttype":"application/json; charset=utf-8","data":{"a":1}}`, `{"a":1}`, nil},
		"a string":      {`{` + core + `,"data":"I'm just a string"}`, `"I'm just a string"`, nil},
		"another JSON":  {`{` + core + `,"datacontenttype":"application/vnd.x+json","data":7}`, `7`, map[string]string{"cloudEvents_datacontenttype": "application/vnd.x+json"}},
		"XML":           {`{` + core + `,"datacontenttype":"application/xml","data":"<a/>"}`, `"<a/>"`, map[string]string{"cloudEvents_datacontenttype": "application/xml"}},
		"null":          {`{` + core + `,"subject":null,"data":null,"data_base64":null}`, `null`, nil},
		"bytes":         {`{` + core + `,"datacontenttype":"image/png","data_base64":"AP8="}`, `"AP8="`, map[string]string{"cloudEvents_datacontenttype": "image/png"}},
		"JSON as bytes": {`{` + core + `,"datacontenttype":"application/json","data_base64":"eyJhIjoxfQ=="}`, `{"a":1}`, nil},
		"text as bytes": {`{` + core + `,"datacontenttype":"text/plain","data_base64":"aGk="}`, `"hi"`, map[string]string{"cloudEvents_datacontenttype": "text/plain"}},
		"extensions": {`{` + core + `,"comexampleextension1":"value","comexampleothervalue":5,"sampled":true,"ID":"other"}`, `null`,
			map[string]string{"cloudEvents_comexampleextension1": "value", "cloudEvents_comexampleothervalue": "5", "cloudEvents_sampled": "true", "cloudEvents_ID": "other"}},
	} {
		e, err := ParseCloudEvent([]byte(c.body))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if e.ID != "A234-1234-1234" || e.Type != "com.example.someevent" || e.Source != "/mycontext" || e.Version != DefaultVersion ||
			string(e.Data.(json.RawMessage)) != c.data || !maps.Equal(e.Headers, c.headers) {
			t.Errorf("%s: %+v, data %s", name, e, e.Data)
		}
	}
	e, err := EventFromCloudEvent(map[string]string{"specversion": "1.0", "id": "1", "source": "s", "type": "T"}, []byte{0xff, 0})
	var content []byte
	if err != nil || e.Decode(&content) != nil || string(content) != "\xff\x00" {
		t.Errorf("bytes without a type: %+v, %v", e, err)
	}
}

func TestWhatIsNotACloudEventIsRefused(t *testing.T) {
	const core = `"specversion":"1.0","type":"T","source":"/s","id":"1"`
	for body, want := range map[string]string{
		`[{` + core + `}]`:                    "isn't a CloudEvent in JSON",
		`{`:                                   "at byte 1",
		`{"type":"T","source":"/s","id":"1"}`: "no specversion",
		`{"specversion":"0.3","type":"T","source":"/s","id":"1"}`:                  `specversion is "0.3"`,
		`{"specversion":"1.0","source":"/s"}`:                                      "no id",
		`{"specversion":"1.0","source":"/s","id":"1"}`:                             "no type",
		`{"specversion":"1.0","type":"T","id":"1"}`:                                "no source",
		`{` + core + `,"time":"yesterday"}`:                                        `time is "yesterday"`,
		`{` + core + `,"time":"9999-12-31T23:59:59-23:59"}`:                        "year 10000",
		`{` + core + `,"ext":{"a":1}}`:                                             `"ext" is an object`,
		`{` + core + `,"data":1,"data_base64":"AA=="}`:                             "both data and data_base64",
		`{` + core + `,"data_base64":"*"}`:                                         "data_base64",
		`{` + core + `,"datacontenttype":"application/json","data_base64":"/w=="}`: "isn't JSON",
		`{` + core + `,"partitionkey":"` + strings.Repeat("k", 256) + `"}`:         "partitionkey is 256 bytes long",
		`{` + core + `,"correlationid":"a\u0000"}`:                                 "correlationid has a NUL",
		"{" + core + ",\"subject\":\"\xff\"}":                                      "isn't UTF-8",
	} {
		if e, err := ParseCloudEvent([]byte(body)); !errors.Is(err, ErrNotAnEvent) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v, want %q", body, e, err, want)
		}
	}
}

func TestACloudEventsSourceIsAURIReference(t *testing.T) {
	for source, want := range map[string]string{
		"order-service": "order-service", "https://example.com/orders?a=b#c": "https://example.com/orders?a=b#c", "urn:uuid:1": "urn:uuid:1",
		"order service": "order%20service", "Aufträge": "Auftr%C3%A4ge", "1:2": "1%3A2", "50%": "50%25", "a#b#c": "a%23b%23c", "%20": "%20",
	} {
		got := CloudEventSource(source)
		if got != want {
			t.Errorf("%q became %q, want %q", source, got, want)
		}
		if _, err := url.Parse(got); err != nil || CloudEventSource(got) != got {
			t.Errorf("%q: %v", got, err)
		}
	}
}

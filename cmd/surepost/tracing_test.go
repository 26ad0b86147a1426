package main

import (
	"context"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/cmd/surepost/internal/cli"
)

// otlp is a collector of OpenTelemetry's: it takes spans over HTTP and over gRPC.
type otlp struct {
	collector.UnimplementedTraceServiceServer
	t    *testing.T
	http string // URLs
	grpc string

	mu     sync.Mutex
	taken  []received
	tokens []string
}

type received struct {
	*spans.Span
	attributes, resource map[string]string
}

func startOTLP(t *testing.T) *otlp {
	o := &otlp{t: t}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var request collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &request)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		o.take(&request, r.Header.Get("X-Token"))
	})
	web := httptest.NewServer(mux)
	t.Cleanup(web.Close)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, o)
	go func() { _ = server.Serve(listener) }() // until it is stopped
	t.Cleanup(server.Stop)
	o.http, o.grpc = web.URL, "http://"+listener.Addr().String()
	return o
}

// Export implements the gRPC service.
func (o *otlp) Export(ctx context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	headers, _ := metadata.FromIncomingContext(ctx)
	o.take(request, strings.Join(headers.Get("X-Token"), ","))
	return &collector.ExportTraceServiceResponse{}, nil
}

func (o *otlp) take(request *collector.ExportTraceServiceRequest, token string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tokens = append(o.tokens, token)
	for _, r := range request.ResourceSpans {
		for _, scope := range r.ScopeSpans {
			for _, span := range scope.Spans {
				o.taken = append(o.taken, received{span, texts(span.Attributes), texts(r.Resource.Attributes)})
			}
		}
	}
}

func texts(attributes []*common.KeyValue) map[string]string {
	all := map[string]string{}
	for _, a := range attributes {
		all[a.Key] = a.Value.GetStringValue()
	}
	return all
}

// of returns the spans of an event.
func (o *otlp) of(id string) (list []received) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range o.taken {
		if r.attributes["messaging.message.id"] == id {
			list = append(list, r)
		}
	}
	return list
}

// traced returns an event as a producer writes it that traces: what its span's position is travels with it.
func traced(id, trace, span string, sampled bool) surepost.Event {
	flags := "00"
	if sampled {
		flags = "01"
	}
	return surepost.Event{ID: id, Type: "OrderCreated", Headers: map[string]string{"traceparent": "00-" + trace + "-" + span + "-" + flags}}
}

func TestTheSpansOfTheRelayContinueTheProducersTrace(t *testing.T) {
	s, o := openShop(t), startOTLP(t)
	headers := filepath.Join(t.TempDir(), "headers")
	write(t, headers, "X-Token: s3cret\n")
	const trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	for _, c := range []struct {
		name, service string
		env           []string
		flags         []string
	}{
		{"http by keys", "orders-relay", nil, []string{"--tracing-otlp-endpoint=" + o.http, "--tracing-service-name=orders-relay", "--tracing-headers-file=" + headers}},
		{"grpc by keys", "surepost", nil, []string{"--tracing-otlp-endpoint=" + o.grpc, "--tracing-protocol=grpc", "--tracing-headers-file=" + headers}},
		{"grpc by variables", "by-variable", []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + o.grpc, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
			"OTEL_SERVICE_NAME=by-variable", "OTEL_EXPORTER_OTLP_HEADERS=x-token=s3cret"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := user{t, append(slices.Clone(s.env), c.env...)}
			relay := u.start(append([]string{"relay"}, c.flags...)...)
			id := surepost.NewID()
			s.write(traced(id, trace, span, true), traced(id+"-unsampled", trace, span, false), surepost.Event{ID: id + "-untraced", Type: "OrderCreated"})
			s.receives(3)
			relay.signal(syscall.SIGTERM) // which sends what wasn't sent yet
			if code := relay.ends(); code != 0 {
				t.Errorf("the relay ends with %d", code)
			}
			got := o.of(id)
			if len(got) != 1 {
				t.Fatalf("%d spans of the event", len(got))
			}
			one := got[0]
			if one.Name != "publish events:shop.OrderCreated" || hex.EncodeToString(one.TraceId) != trace || hex.EncodeToString(one.ParentSpanId) != span {
				t.Errorf("the span doesn't continue the producer's: %v", one.Span)
			}
			if len(one.Links) != 1 || hex.EncodeToString(one.Links[0].SpanId) != span {
				t.Errorf("it doesn't link to the producer's: %v", one.Links)
			}
			if one.attributes["surepost.outcome"] != "confirmed" || one.attributes["messaging.rabbitmq.destination.routing_key"] != "shop.OrderCreated" ||
				one.resource["service.name"] != c.service || one.resource["service.version"] != "v1.2.3-test" {
				t.Errorf("attributes %v of %v", one.attributes, one.resource)
			}
			if len(o.of(id+"-unsampled"))+len(o.of(id+"-untraced")) > 0 {
				t.Error("there are spans of events whose producer doesn't want any")
			}
			o.mu.Lock()
			if token := o.tokens[len(o.tokens)-1]; token != "s3cret" {
				t.Errorf("the collector was given the token %q", token)
			}
			o.mu.Unlock()
		})
	}

	// A part of the traces only, decided by the trace's id, so that all who take the same part take the same traces.
	const low, high = "ffffffffffffffff0000000000000001", "00000000000000007fffffffffffffff"
	relay := s.start("relay", "--tracing-otlp-endpoint="+o.http, "--tracing-sample-ratio=0.5")
	s.write(traced("in", low, span, true), traced("out", strings.Repeat("f", 32), span, true))
	s.receives(2)
	relay.signal(syscall.SIGTERM)
	relay.ends()
	if len(o.of("in")) != 1 || len(o.of("out")) != 0 {
		t.Errorf("of the trace that is in the half there are %d spans, of the other one %d", len(o.of("in")), len(o.of("out")))
	}
}

func TestACollectorThatIsAwayHoldsUpNothing(t *testing.T) {
	s := openShop(t)
	relay := s.start("relay", "--log-format=json", "--tracing-otlp-endpoint=http://127.0.0.1:1")
	s.write(traced("one", "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", true))
	s.receives(1)
	from := time.Now()
	relay.signal(syscall.SIGTERM)
	if code := relay.ends(); code != 0 || time.Since(from) > 20*time.Second {
		t.Errorf("it ends with %d after %v", code, time.Since(from))
	}
	relay.says("see tracing.otlpEndpoint and the collector")
	shows(s.user, "that the event is published", func(v []cli.StatusView) bool { return *v[0].Destinations[0].Backlog == 0 }, "status")
}

func TestWhatIsWrongWithTracingIsToldBeforeAnythingStarts(t *testing.T) {
	headers := filepath.Join(t.TempDir(), "headers")
	write(t, headers, "authorization: Bearer s3cret\ns3cret without a name\n")
	u := user{t: t, env: []string{"SUREPOST_DATABASE_URL=postgres://u@127.0.0.1:1/none", "SUREPOST_BROKER_URLS=amqp://127.0.0.1:1"}}
	for flag, want := range map[string]string{
		"--tracing-otlp-endpoint=collector:4317":            "tracing.otlpEndpoint isn't the URL of a collector: write http://",
		"--tracing-otlp-endpoint=https://u:s3cret@c:4318":   "write a token into tracing.headersFile",
		"--tracing-protocol=http":                           "http/protobuf or grpc",
		"--tracing-sample-ratio=1.5":                        "write a number from 0 to 1",
		"--tracing-headers-file=" + headers:                 "line 2 of " + headers + " is no header: write name: value",
		"--tracing-headers-file=" + headers + ".none":       "is not there",
		"--tracing-tls-ca-file=" + headers:                  "holds no certificate",
		"--tracing-tls-cert-file=" + headers:                "without tracing.tls.keyFile",
		"--tracing-sample-ratio=many":                       "write a number from 0 to 1",
		"--tracing-otlp-endpoint=http://c:4318?key=s3cret":  "tracing.headersFile",
		"--tracing-otlp-endpont=http://c:4318":              "--tracing-otlp-endpoint",
		"--tracing-otlp-endpoint=ftp://collector.here:4317": "isn't the URL of a collector",
	} {
		r := u.run("relay", flag)
		if r.code != 2 || !strings.Contains(r.err, want) || strings.Contains(r.err, "s3cret") {
			t.Errorf("%s: %s\nwant %q", flag, r, want)
		}
	}
	u.env = append(u.env, "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL=udp")
	if r := u.run("relay"); r.code == 0 || !strings.Contains(r.err, "use grpc, http/protobuf or http/json") {
		t.Errorf("with a protocol that there isn't: %s", r)
	}
}

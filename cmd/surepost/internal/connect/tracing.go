package connect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"google.golang.org/grpc/credentials"

	"github.com/surepost/surepost/cmd/surepost/internal/config"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/telemetry/surepostotel"
)

// Tracing sends the relay's spans to a collector. Its nil value makes none.
type Tracing struct{ provider *sdktrace.TracerProvider }

// NewTracing returns a Tracing as the keys say, and for what they don't say as the variables of OpenTelemetry do; nil if
// neither names a collector. The collector need not be there: spans are dropped while it is away, and events aren't held up.
func NewTracing(ctx context.Context, c *config.Config, environment []string, version string, logger *slog.Logger) (*Tracing, error) {
	from := otelVariables(environment)
	if !from.on(c.Tracing) {
		return nil, nil
	}
	// The library is told before anything is made of it: by default it writes past the log.
	otel.SetLogger(logr.FromSlogHandler(logger.Handler()))
	otel.SetErrorHandler(&onceAMinute{logger: logger})
	exporter, err := newExporter(ctx, c, from)
	if err != nil {
		return nil, err
	}
	described, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithHost(),
		resource.WithAttributes(semconv.ServiceName("surepost"), semconv.ServiceVersion(version)), resource.WithFromEnv())
	if err == nil && c.Tracing.ServiceName != "" {
		described, err = resource.Merge(described, resource.NewSchemaless(semconv.ServiceName(c.Tracing.ServiceName)))
	}
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, kept{"the spans can't be described (" + err.Error() + ")", "correct OTEL_RESOURCE_ATTRIBUTES"}
	}
	options := []sdktrace.TracerProviderOption{sdktrace.WithResource(described), sdktrace.WithBatcher(exporter)}
	if c.IsSet("tracing.sampleRatio") {
		// All of the relay's spans have a parent elsewhere.
		options = append(options, sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample(),
			sdktrace.WithRemoteParentSampled(sdktrace.TraceIDRatioBased(c.Tracing.SampleRatio)))))
	}
	return &Tracing{sdktrace.NewTracerProvider(options...)}, nil
}

func newExporter(ctx context.Context, c *config.Config, from otelVariables) (sdktrace.SpanExporter, error) {
	t := c.Tracing
	headers, err := readHeaders(t.HeadersFile)
	if err != nil {
		return nil, err
	}
	secured, err := tlsConfig(t.TLS)
	if err != nil {
		return nil, err
	}
	protocol, err := from.protocol(t.Protocol)
	if err != nil {
		return nil, err
	}
	if protocol == "grpc" {
		var options []otlptracegrpc.Option
		if t.Endpoint != "" {
			options = append(options, otlptracegrpc.WithEndpointURL(t.Endpoint))
		}
		if headers != nil {
			options = append(options, otlptracegrpc.WithHeaders(headers))
		}
		if secured != nil {
			options = append(options, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(secured)))
		}
		return otlptracegrpc.New(ctx, options...)
	}
	var options []otlptracehttp.Option
	if t.Endpoint != "" {
		options = append(options, otlptracehttp.WithEndpointURL(tracesURL(t.Endpoint)))
	}
	if headers != nil {
		options = append(options, otlptracehttp.WithHeaders(headers))
	}
	if secured != nil {
		options = append(options, otlptracehttp.WithTLSClientConfig(secured))
	}
	return otlptracehttp.New(ctx, options...)
}

// tracesURL is where spans go below a collector's base URL, as for OTEL_EXPORTER_OTLP_ENDPOINT (OpenTelemetry Protocol Exporter,
// "Endpoint URLs for OTLP/HTTP"). A URL that ends so already is left.
func tracesURL(base string) string {
	const path = "/v1/traces"
	if base = strings.TrimRight(base, "/"); strings.HasSuffix(base, path) {
		return base
	}
	return base + path
}

// Hooks make spans of what the publisher publishes.
func (t *Tracing) Hooks(p *Publisher) relay.Hooks {
	if t == nil {
		return relay.Hooks{}
	}
	return surepostotel.New(surepostotel.Config{TracerProvider: t.provider, Route: p.route()}).Relay()
}

// flushTimeout is how long the last spans may take when the program ends.
const flushTimeout = 3 * time.Second

// Close sends what is left. What the collector doesn't take in time is dropped, which the log says.
func (t *Tracing) Close(ctx context.Context) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		otel.Handle(err)
	}
}

// onceAMinute logs what goes wrong with the spans, which is each batch of them while the collector is away.
type onceAMinute struct {
	logger *slog.Logger
	mu     sync.Mutex
	last   time.Time
}

// Handle implements otel.ErrorHandler.
func (o *onceAMinute) Handle(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now := time.Now(); o.last.IsZero() || now.Sub(o.last) >= time.Minute {
		o.last = now
		o.logger.Warn("spans were dropped; events are published all the same: see tracing.otlpEndpoint and the collector", "err", err)
	}
}

// otelVariables are the variables of OpenTelemetry's specification that its Go library leaves to programs.
type otelVariables []string

func (v otelVariables) get(name string) string {
	for _, variable := range v {
		if key, content, _ := strings.Cut(variable, "="); key == name {
			return content
		}
	}
	return ""
}

func (v otelVariables) first(names ...string) (name, content string) {
	for _, name := range names {
		if content := v.get(name); content != "" {
			return name, content
		}
	}
	return "", ""
}

// on reports whether there is a collector.
func (v otelVariables) on(t config.Tracing) bool {
	if t.Endpoint != "" {
		return t.Endpoint != tracingOff
	}
	if strings.EqualFold(v.get("OTEL_SDK_DISABLED"), "true") || v.get("OTEL_TRACES_EXPORTER") == "none" {
		return false
	}
	name, _ := v.first("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
	return name != ""
}

func (v otelVariables) protocol(configured string) (string, error) {
	if configured != "" {
		return configured, nil
	}
	name, protocol := v.first("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
	switch protocol {
	case "", "grpc", "http/protobuf", "http/json":
		return protocol, nil
	}
	return "", kept{fmt.Sprintf("%s is %q", name, protocol), "use grpc, http/protobuf or http/json"}
}

const tracingOff = "off"

// readHeaders reads headers, one a line. No error quotes one: they are secrets.
func readHeaders(path string) (map[string]string, error) {
	if path == "" {
		return nil, nil
	}
	text, err := config.ReadSecret(path)
	if err != nil {
		return nil, err
	}
	headers, n := map[string]string{}, 0
	for line := range strings.Lines(text) {
		n++
		if strings.TrimSpace(line) == "" {
			continue
		}
		name, content, found := strings.Cut(line, ":")
		name, content = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(content)
		if !found || content == "" || !isToken(name) {
			return nil, kept{fmt.Sprintf("line %d of %s is no header", n, path), "write name: value, one a line"}
		}
		headers[name] = content
	}
	return headers, nil
}

// isToken reports whether s can be a header's name for HTTP and for gRPC, both of which allow these.
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	})
}

// validateTracing looks at everything that the keys of tracing say.
func validateTracing(c *config.Config) (problems config.Problems) {
	t := c.Tracing
	if t.Endpoint != "" && t.Endpoint != tracingOff {
		const key = "tracing.otlpEndpoint"
		u, err := url.Parse(t.Endpoint)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
			problems = append(problems, c.Problem(key, "isn't the URL of a collector", "write http://host:4318 or https://host:4318; for gRPC the port is mostly 4317"))
		case u.User != nil || u.RawQuery != "":
			problems = append(problems, c.Problem(key, "has a user or parameters, which aren't sent", "remove them; write a token into tracing.headersFile"))
		case u.Scheme == "http" && t.TLS.IsSet():
			problems = append(problems, c.Problem(key, "isn't encrypted, and tracing.tls is set", "use https://, or remove tracing.tls"))
		}
	}
	if _, err := readHeaders(t.HeadersFile); err != nil {
		problems = append(problems, problem(c, "tracing.headersFile", err))
	}
	return append(problems, validateTLS(c, "tracing.tls", t.TLS)...)
}

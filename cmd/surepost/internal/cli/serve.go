package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/relay/health"
	"github.com/surepost/surepost/telemetry/surepostprom"
)

// served is what `surepost relay` serves over HTTP.
type served struct {
	registry *prometheus.Registry
	logger   *slog.Logger
}

// newServed returns what is served about the store; hooks makes it know of the relay.
func newServed(db *opened, logger *slog.Logger) *served {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if store, ok := db.Store.(canStatus); ok {
		retention := db.config.Relay.Retention
		if db.config.Relay.KeepForever {
			retention = -1
		}
		surepostprom.Outbox(registry, store, surepostprom.OutboxConfig{Logger: logger, Retention: retention})
	}
	return &served{registry: registry, logger: logger}
}

func (v *served) hooks() relay.Hooks { return surepostprom.Relay(v.registry) }

func (v *served) handler(r *relay.Relay) http.Handler {
	probes := health.New(health.Config{}, r)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(v.registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(v.logger.Handler(), slog.LevelWarn)}))
	mux.Handle("GET /healthz", probes.LiveHandler())
	mux.Handle("GET /readyz", probes.ReadyHandler())
	return mux
}

// stopTimeout is how long requests may take to end when the program stops.
const stopTimeout = time.Second

// start listens and serves until the returned function is called.
func (v *served) start(ctx context.Context, address string, r *relay.Relay) (stop func(), err error) {
	if address == "off" {
		return func() {}, nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, &fault{what: fmt.Sprintf("can't serve metrics and health (%v)", err), cause: err, code: exitFailure,
			remedy: "set http.listen to a free address, or to off"}
	}
	server := &http.Server{Handler: v.handler(r), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(v.logger.Handler(), slog.LevelWarn)}
	v.logger.Info("serving /metrics, /healthz and /readyz", "address", listener.Addr().String())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			v.logger.Error("metrics and health are served no more", "err", err)
		}
	}()
	return func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if server.Shutdown(bounded) != nil {
			server.Close()
		}
		<-ended
	}, nil
}

package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/surepost/surepost/relay"
)

// served is what `surepost relay` serves over HTTP.
type served struct{ mux *http.ServeMux }

func newServed(*opened) *served { return &served{mux: http.NewServeMux()} }

func (v *served) hooks() relay.Hooks { return relay.Hooks{} }

// stopTimeout is how long requests may take to end when the program stops.
const stopTimeout = time.Second

// start listens and serves until the returned function is called.
func (v *served) start(ctx context.Context, address string, r *relay.Relay, logger *slog.Logger) (stop func(), err error) {
	if address == "off" {
		return func() {}, nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, &fault{what: fmt.Sprintf("can't listen on %s (%v)", address, err), cause: err, code: exitFailure,
			remedy: "set http.listen to a free address, or to off"}
	}
	v.handle(r)
	server := &http.Server{Handler: v.mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelWarn)}
	logger.Info("serving /metrics, /healthz and /readyz", "address", listener.Addr().String())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			logger.Error("metrics and health are served no more", "err", err)
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

func (v *served) handle(*relay.Relay) {}

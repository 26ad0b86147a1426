package connect

import (
	"log/slog"

	"github.com/surepost/surepost/cmd/surepost/internal/config"
	"github.com/surepost/surepost/relay"
)

// RelayConfig returns the relay's settings.
func RelayConfig(c *config.Config, logger *slog.Logger, hooks relay.Hooks) relay.Config {
	r := c.Relay
	made := relay.Config{
		Destination: r.Destination, Owner: r.Owner, Lanes: r.Lanes, LeaseTTL: r.LeaseTTL,
		BufferBytes: r.BufferBytes, WindowEvents: r.WindowEvents,
		PollBusy: r.PollBusy, PollIdle: r.PollIdle, CheckpointInterval: r.CheckpointInterval,
		UnroutableTries: r.UnroutableTries, BackoffMin: r.BackoffMin, BackoffMax: r.BackoffMax,
		ShutdownTimeout: r.ShutdownTimeout, Logger: logger, Hooks: hooks,
	}
	if r.KeepForever {
		made.Retention = -1
	}
	if c.IsSet("relay.retention") { // else the library's default, which is the same, and is for those stores that have one
		made.Retention = r.Retention
	}
	// Their defaults depend on other settings: the library chooses.
	if c.IsSet("relay.pageEvents") {
		made.PageEvents = r.PageEvents
	}
	if c.IsSet("relay.bufferEvents") {
		made.BufferEvents = r.BufferEvents
	}
	if r.Order == "pipelined" {
		made.Order = relay.Pipelined
	}
	switch r.Parking {
	case "key-goes-on":
		made.Parking = relay.ParkKeyGoesOn
	case "halt":
		made.Parking = relay.ParkHalts
	}
	if r.Unroutable == "accept" {
		made.Unroutable = relay.AcceptUnroutable
	}
	return made
}

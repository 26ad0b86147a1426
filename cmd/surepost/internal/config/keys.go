package config

import (
	"strings"
	"unicode"
)

// Key is one thing that can be configured.
type Key struct {
	Path    string // in the file: database.url is `url` under `database`
	Help    string
	Default string // as text; empty for none
	Kind    string // of the value, for the documentation

	Also  string // a second one, of another Config
	Field string // of the library's Config that it becomes, so that the library's problems can be told by the key's name

	Secret   Secrecy
	NoFlag   bool // a flag would show it in the list of processes
	FileOnly bool // a list of structures
	Common   bool // shown by --help of every command

	value value
}

// Secrecy says how a value is shown.
type Secrecy uint8

const (
	Public Secrecy = iota
	SecretURL
	SecretWhole
)

// Env returns the name of the key's variable: SUREPOST_DATABASE_URL for database.url, SUREPOST_RELAY_LEASE_TTL for
// relay.leaseTTL.
func (k *Key) Env() string {
	if k.FileOnly {
		return ""
	}
	return "SUREPOST_" + strings.ToUpper(strings.Join(k.words(), "_"))
}

// Flag returns the name of the key's flag without its dashes: database-url.
func (k *Key) Flag() string {
	if k.FileOnly || k.NoFlag {
		return ""
	}
	return strings.ToLower(strings.Join(k.words(), "-"))
}

// words splits a path at its dots and where a word of its camel case begins.
func (k *Key) words() []string {
	var words []string
	for part := range strings.SplitSeq(k.Path, ".") {
		begin := 0
		runes := []rune(part)
		for i := 1; i < len(runes); i++ {
			if unicode.IsUpper(runes[i]) && !unicode.IsUpper(runes[i-1]) {
				words = append(words, string(runes[begin:i]))
				begin = i
			}
		}
		words = append(words, string(runes[begin:]))
	}
	return words
}

// Keys returns all keys with their defaults, in the order of the documentation.
func Keys() []*Key { return new(Config).table() }

// table is what can be configured: the one place where a key is named.
func (c *Config) table() []*Key {
	d, b, i, r, t := &c.Database, &c.Broker, &c.Inbox, &c.Relay, &c.Tracing
	return []*Key{
		{Path: "database.url", value: text(&d.URL), Kind: "URL", Secret: SecretURL, Common: true,
			Help: "The database: postgres://, postgresql://, mysql://, mariadb://, sqlite:// or the path of an SQLite file."},
		{Path: "database.urlFile", value: text(&d.URLFile), Kind: "path",
			Help: "A file with the database's URL, instead of database.url."},
		{Path: "database.password", value: text(&d.Password), Kind: "text", Secret: SecretWhole, NoFlag: true,
			Help: "The password, if the URL has none."},
		{Path: "database.passwordFile", value: text(&d.PasswordFile), Kind: "path",
			Help: "A file with the password, read anew for each connection."},
		{Path: "database.schema", value: text(&d.Schema), Kind: "text", Field: "Config.Schema",
			Help: "The schema that holds the tables (PostgreSQL). Default: found by the search_path."},
		{Path: "database.prefix", value: text(&d.Prefix), Kind: "text", Default: "surepost_", Field: "Config.Prefix",
			Help: "What the tables' names begin with."},
		{Path: "database.maxConnections", value: integer(&d.MaxConnections), Kind: "number", Default: "4",
			Help: "The most connections of the pool, 3 or more; a relay on PostgreSQL makes two more for each of its lanes. SQLite always has one."},
		{Path: "database.connectTimeout", value: duration(&d.ConnectTimeout), Kind: "duration", Default: "10s",
			Help: "The longest that a connection to the database may take, unless the URL says otherwise."},
		{Path: "database.tls.caFile", value: text(&d.TLS.CAFile), Kind: "path",
			Help: "The certificates (PEM) that the server's is verified with. PostgreSQL: sslrootcert, with sslmode=verify-full."},
		{Path: "database.tls.certFile", value: text(&d.TLS.CertFile), Kind: "path", Help: "The client's certificate (PEM)."},
		{Path: "database.tls.keyFile", value: text(&d.TLS.KeyFile), Kind: "path", Help: "The client certificate's key (PEM)."},
		{Path: "database.tls.serverName", value: text(&d.TLS.ServerName), Kind: "text",
			Help: "The name that the server's certificate must have. Default: the URL's host."},

		{Path: "broker.urls", value: list(&b.URLs), Kind: "list of URLs", Secret: SecretURL, Common: true, Field: "Connection.URLs",
			Help: "RabbitMQ's nodes, amqp:// or amqps://, separated by commas."},
		{Path: "broker.urlsFile", value: text(&b.URLsFile), Kind: "path", Help: "A file with RabbitMQ's URLs, one a line, instead of broker.urls."},
		{Path: "broker.username", value: text(&b.Username), Kind: "text", Help: "The user, if the URLs name none."},
		{Path: "broker.password", value: text(&b.Password), Kind: "text", Secret: SecretWhole, NoFlag: true,
			Help: "The password, if the URLs have none."},
		{Path: "broker.passwordFile", value: text(&b.PasswordFile), Kind: "path", Help: "A file with the password, read anew at each connect."},
		{Path: "broker.tls.caFile", value: text(&b.TLS.CAFile), Kind: "path", Field: "Connection.TLS.RootCAs",
			Help: "The certificates (PEM) that the nodes' are verified with. Default: the system's."},
		{Path: "broker.tls.certFile", value: text(&b.TLS.CertFile), Kind: "path", Field: "Connection.TLS.Certificates", Help: "The client's certificate (PEM)."},
		{Path: "broker.tls.keyFile", value: text(&b.TLS.KeyFile), Kind: "path", Help: "The client certificate's key (PEM)."},
		{Path: "broker.tls.serverName", value: text(&b.TLS.ServerName), Kind: "text", Field: "Connection.TLS.ServerName",
			Help: "The name that the nodes' certificates must have. Default: each URL's host."},
		{Path: "broker.name", value: text(&b.Name), Kind: "text", Field: "Connection.Name",
			Help: "The connection's name in RabbitMQ's management pages. Default: the program's name and process id."},
		{Path: "broker.heartbeat", value: duration(&b.Heartbeat), Kind: "duration", Default: "10s", Field: "Connection.Heartbeat",
			Help: "The interval of heartbeats; a node is given up after two missed ones."},
		{Path: "broker.connectTimeout", value: duration(&b.ConnectTimeout), Kind: "duration", Default: "10s", Field: "Connection.ConnectTimeout",
			Help: "The longest that one attempt to connect may take."},
		{Path: "broker.writeTimeout", value: duration(&b.WriteTimeout), Kind: "duration", Default: "1m", Field: "Connection.WriteTimeout",
			Help: "The longest that a node may accept nothing without having said that it blocks."},
		{Path: "broker.rpcTimeout", value: duration(&b.RPCTimeout), Kind: "duration", Default: "15s", Field: "Connection.RPCTimeout",
			Help: "The longest that one declaration may take."},
		{Path: "broker.confirmTimeout", value: duration(&b.ConfirmTimeout), Kind: "duration", Default: "30s", Field: "PublisherConfig.ConfirmTimeout",
			Help: "How long the oldest unconfirmed event may wait before the connection is given up."},
		{Path: "broker.maxMessageBytes", value: size(&b.MaxMessageBytes), Kind: "size", Default: "16MiB", Field: "PublisherConfig.MaxMessageBytes",
			Help: "The largest message; a larger event is parked."},
		{Path: "broker.format", value: choice(&b.Format, "envelope", "cloudevents", "cloudevents-binary"), Kind: "envelope, cloudevents or cloudevents-binary",
			Default: "envelope", Help: "How messages carry events: Surepost's JSON envelope, or CloudEvents 1.0 in structured or binary mode."},
		{Path: "broker.mode", value: choice(&b.Mode, "declare", "verify", "none"), Kind: "declare, verify or none", Default: "declare",
			Help: "Whether exchanges are declared, verified or trusted to be there."},
		{Path: "broker.exchange", value: text(&b.Exchange), Kind: "text", Default: "events", Field: "Routing.Exchange", Common: true,
			Help: "The exchange that takes the events that no rule sends elsewhere."},
		{Path: "broker.routingKey", value: text(&b.Key), Kind: "template", Default: "{source}.{type}", Field: "Routing.Key",
			Help: "The routing key, with {source}, {type}, {category}, {key} and {version}."},
		{Path: "broker.rules", value: rules(&b.Rules), Kind: "list", FileOnly: true, Field: "Routing.Rules",
			Help: "Rules that send events elsewhere, the first that matches decides: each with type, source and category (patterns with * and ?), exchange and routingKey."},
		{Path: "broker.exchanges", value: exchanges(&b.Exchanges), Kind: "list", FileOnly: true, Field: "PublisherConfig.Exchanges",
			Help: "Exchanges that aren't plain topic exchanges: each with name, kind and args."},
		{Path: "broker.omitPartitionKey", value: boolean(&b.OmitPartitionKey), Kind: "true or false", Default: "false",
			Help: "Leave out the header that partitioned subscriptions need."},

		{Path: "inbox.prune", value: boolean(&i.Prune), Kind: "true or false", Default: "false",
			Help: "Whether `surepost relay` removes old records of the inbox in the same database, each hour. Consumers may do it themselves (inbox.Prune)."},
		{Path: "inbox.window", value: duration(&i.Window), Kind: "duration", Default: "30d", Field: "Retention.Window",
			Help: "How long the inbox remembers at least what was handled; not shorter than the four below allow."},
		{Path: "inbox.redelivery", value: duration(&i.Redelivery), Kind: "duration", Default: "1d", Field: "Retention.Redelivery",
			Help: "How long a consumer may try an event again: amqp.ConsumerConfig.RedeliveryHorizon."},
		{Path: "inbox.queued", value: duration(&i.Queued), Kind: "duration", Default: "3d", Field: "Retention.Queued",
			Help: "How long an event may wait in a queue while its consumer is down."},
		{Path: "inbox.redrive", value: duration(&i.Redrive), Kind: "duration", Default: "7d", Field: "Retention.Redrive",
			Help: "How long a dead letter may lie before it is redriven."},
		{Path: "inbox.replay", value: duration(&i.Replay), Kind: "duration", Default: "10d12h", Field: "Retention.Replay",
			Help: "How far back producers' logs go that may be replayed: one and a half of their relay.retention."},

		{Path: "relay.destination", value: text(&r.Destination), Kind: "text", Default: "default", Field: "Config.Destination", Common: true,
			Help: "The destination: relays of one destination share its work."},
		{Path: "relay.owner", value: text(&r.Owner), Kind: "text", Field: "Config.Owner",
			Help: "This relay's name, unlike any other's. Default: host name, process id and a random part."},
		{Path: "relay.lanes", value: integer(&r.Lanes), Kind: "number", Default: "1", Field: "Config.Lanes",
			Help: "How many lanes the destination gets if it is new; surepost destinations lanes changes those of one that is there."},
		{Path: "relay.leaseTTL", value: duration(&r.LeaseTTL), Kind: "duration", Default: "15s", Field: "Config.LeaseTTL",
			Help: "How long a relay that died keeps its lanes from the others."},
		{Path: "relay.pageEvents", value: integer(&r.PageEvents), Kind: "number", Default: "250", Field: "Config.PageEvents",
			Help: "How many events one read returns at most."},
		{Path: "relay.bufferEvents", value: integer(&r.BufferEvents), Kind: "number", Default: "4000", Field: "Config.BufferEvents",
			Help: "How many events are read and not yet settled at most."},
		{Path: "relay.bufferBytes", value: size(&r.BufferBytes), Kind: "size", Default: "64MiB", Field: "Config.BufferBytes",
			Help: "How much data is read and not yet settled at most, roughly."},
		{Path: "relay.windowEvents", value: integer(&r.WindowEvents), Kind: "number", Default: "1024", Field: "Config.WindowEvents", Also: "PublisherConfig.Window",
			Help: "How many events may be sent and not yet confirmed."},
		{Path: "relay.order", value: choice(&r.Order, "strict", "pipelined"), Kind: "strict or pipelined", Default: "strict",
			Help: "Whether a key's next event waits for the confirm of the one before."},
		{Path: "relay.pollBusy", value: duration(&r.PollBusy), Kind: "duration", Default: "10ms", Field: "Config.PollBusy",
			Help: "The shortest wait before an exhausted log is read again."},
		{Path: "relay.pollIdle", value: duration(&r.PollIdle), Kind: "duration", Default: "250ms", Field: "Config.PollIdle",
			Help: "The longest wait before an exhausted log is read again."},
		{Path: "relay.checkpointInterval", value: duration(&r.CheckpointInterval), Kind: "duration", Default: "100ms", Field: "Config.CheckpointInterval",
			Help: "How often progress is stored at most."},
		{Path: "relay.retention", value: duration(&r.Retention), Kind: "duration", Default: "7d", Field: "Config.Retention",
			Help: "How long published events stay in the log at least."},
		{Path: "relay.keepForever", value: boolean(&r.KeepForever), Kind: "true or false", Default: "false",
			Help: "Removes no published event from the log, whatever its age."},
		{Path: "relay.parking", value: choice(&r.Parking, "key-waits", "key-goes-on", "halt"), Kind: "key-waits, key-goes-on or halt", Default: "key-waits",
			Help: "What happens to a key's later events when one of its events can't be published."},
		{Path: "relay.unroutable", value: choice(&r.Unroutable, "park", "accept"), Kind: "park or accept", Default: "park",
			Help: "What happens to an event that no queue is bound for."},
		{Path: "relay.unroutableTries", value: integer(&r.UnroutableTries), Kind: "number", Default: "6", Field: "Config.UnroutableTries",
			Help: "How often such an event is sent before it is parked."},
		{Path: "relay.backoffMin", value: duration(&r.BackoffMin), Kind: "duration", Default: "100ms", Field: "Config.BackoffMin",
			Help: "The first wait after a failure; it doubles."},
		{Path: "relay.backoffMax", value: duration(&r.BackoffMax), Kind: "duration", Default: "10s", Field: "Config.BackoffMax",
			Help: "The longest wait after a failure."},
		{Path: "relay.shutdownTimeout", value: duration(&r.ShutdownTimeout), Kind: "duration", Default: "10s", Field: "Config.ShutdownTimeout",
			Help: "How long the relay may take to settle what it has read when it is asked to stop."},
		{Path: "relay.migrate", value: boolean(&r.Migrate), Kind: "true or false", Default: "false",
			Help: "Migrate the tables before the relay starts."},

		{Path: "http.listen", value: text(&c.HTTP.Listen), Kind: "address", Default: ":8080",
			Help: "Where `surepost relay` serves /metrics, /healthz and /readyz: host:port, or off."},
		{Path: "tracing.otlpEndpoint", value: text(&t.Endpoint), Kind: "URL", Secret: SecretURL,
			Help: "The OpenTelemetry collector that gets a span of each try to publish an event whose trace is sampled: http://host:4318, https://, or off. Default: the variable OTEL_EXPORTER_OTLP_ENDPOINT, or off."},
		{Path: "tracing.protocol", value: choice(&t.Protocol, "http/protobuf", "grpc"), Kind: "http/protobuf or grpc",
			Help: "How spans are sent. Default: the variable OTEL_EXPORTER_OTLP_PROTOCOL, or http/protobuf."},
		{Path: "tracing.headersFile", value: text(&t.HeadersFile), Kind: "path",
			Help: "A file with headers for the collector, such as its token: `name: value`, one a line. It is read at the start."},
		{Path: "tracing.serviceName", value: text(&t.ServiceName), Kind: "text",
			Help: "The spans' service.name. Default: the variable OTEL_SERVICE_NAME, or surepost."},
		{Path: "tracing.sampleRatio", value: ratio(&t.SampleRatio), Kind: "number from 0 to 1", Default: "1",
			Help: "The share of traces that get spans here, of those that their producer has sampled. By default OTEL_TRACES_SAMPLER decides, if it is set."},
		{Path: "tracing.tls.caFile", value: text(&t.TLS.CAFile), Kind: "path",
			Help: "The certificates (PEM) that the collector's is verified with. Default: the system's."},
		{Path: "tracing.tls.certFile", value: text(&t.TLS.CertFile), Kind: "path", Help: "The client's certificate (PEM)."},
		{Path: "tracing.tls.keyFile", value: text(&t.TLS.KeyFile), Kind: "path", Help: "The client certificate's key (PEM)."},

		{Path: "log.level", value: choice(&c.Log.Level, "debug", "info", "warn", "error"), Kind: "debug, info, warn or error", Default: "info",
			Help: "What is logged, on standard error."},
		{Path: "log.format", value: choice(&c.Log.Format, "text", "json"), Kind: "text or json", Default: "text", Help: "How it is logged."},
	}
}

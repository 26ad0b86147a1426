package config

import (
	"time"

	"github.com/surepost/surepost/amqp"
)

// Config is the effective configuration. What its fields mean is said in keys.go.
type Config struct {
	Database Database
	Broker   Broker
	Inbox    Inbox
	Relay    Relay
	HTTP     HTTP
	Tracing  Tracing
	Log      Log

	keys    []*Key
	origins map[string]Origin

	incomplete bool
}

// Incomplete reports whether the file couldn't be read, so that nobody can say what isn't set.
func (c *Config) Incomplete() bool { return c.incomplete }

// Database says where the events are.
type Database struct {
	URL            string
	URLFile        string
	Password       string
	PasswordFile   string
	Schema         string
	Prefix         string
	MaxConnections int
	ConnectTimeout time.Duration
	TLS            TLS
}

// Broker says where events are published to.
type Broker struct {
	URLs         []string
	URLsFile     string
	Username     string
	Password     string
	PasswordFile string
	TLS          TLS

	Name             string
	Heartbeat        time.Duration
	ConnectTimeout   time.Duration
	WriteTimeout     time.Duration
	RPCTimeout       time.Duration
	ConfirmTimeout   time.Duration
	MaxMessageBytes  int
	Format           string
	Mode             string
	Exchange         string
	Key              string
	Rules            []amqp.Rule
	Exchanges        []amqp.Exchange
	OmitPartitionKey bool
}

// TLS names the files of a connection's encryption.
type TLS struct {
	CAFile, CertFile, KeyFile, ServerName string
}

// IsSet reports whether any of it is configured.
func (t TLS) IsSet() bool { return t != TLS{} }

// Relay says how the relay works; see relay.Config.
type Relay struct {
	Destination        string
	Owner              string
	Lanes              int
	LeaseTTL           time.Duration
	PageEvents         int
	BufferEvents       int
	BufferBytes        int
	WindowEvents       int
	Order              string
	PollBusy, PollIdle time.Duration
	CheckpointInterval time.Duration
	Retention          time.Duration
	KeepForever        bool
	Parking            string
	Unroutable         string
	UnroutableTries    int
	BackoffMin         time.Duration
	BackoffMax         time.Duration
	ShutdownTimeout    time.Duration
	Migrate            bool
}

// Inbox says what the consumers' inbox remembers, and what that must outlast; see inbox.Retention.
type Inbox struct {
	Prune                                       bool
	Window, Redelivery, Queued, Redrive, Replay time.Duration
}

// HTTP says where metrics and health are served.
type HTTP struct {
	Listen string
}

// Tracing says where the relay's spans are sent to.
type Tracing struct {
	Endpoint    string
	Protocol    string
	HeadersFile string
	ServiceName string
	SampleRatio float64
	TLS         TLS
}

// Log says what is logged, and how.
type Log struct {
	Level  string
	Format string
}

// Origin is where a value came from.
type Origin struct {
	Kind  OriginKind `json:"kind"`
	Place string     `json:"place,omitempty"` // file:line, the variable or the flag
}

// OriginKind is one of the four sources, in the order of their precedence.
type OriginKind string

const (
	FromDefault     OriginKind = "default"
	FromFile        OriginKind = "file"
	FromEnvironment OriginKind = "environment"
	FromFlag        OriginKind = "flag"
)

func (o Origin) String() string {
	if o.Place == "" {
		return string(o.Kind)
	}
	return o.Place
}

// Origin returns where the key's value came from.
func (c *Config) Origin(path string) Origin {
	if o, ok := c.origins[path]; ok {
		return o
	}
	return Origin{Kind: FromDefault}
}

// IsSet reports whether the key was given a value by anything but its default.
func (c *Config) IsSet(path string) bool { return c.Origin(path).Kind != FromDefault }

package server

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Kind is what differs between the sorts of server.
type Kind struct {
	Name       string
	URLVar     string // the environment variable with the address of a server to use
	ImageVar   string // … with the name of the image to use
	Image      string // the image used by default
	Package    string // Debian's name
	ExampleURL string

	schemes   []string
	ready     func(context.Context, *Server) error
	programs  func(machine) (dir string, err error)
	binaries  func(context.Context, *Kind, Config, machine) (*Server, error)
	container func(context.Context, *Kind, Config, *engine, string) (*Server, error)
}

// NoImage in the place of an image's name asks for binaries.
const NoImage = "none"

// image returns the image to use, and who named it: the caller, the environment, or nobody, so that
// it is the default.
func (k *Kind) image(cfg Config) (name, namedBy string) {
	if cfg.Image != "" {
		return cfg.Image, "harness.Image"
	}
	if name := os.Getenv(k.ImageVar); name != "" {
		return name, k.ImageVar
	}
	return k.Image, ""
}

// imageOnly returns why binaries are out of the question, or nil: who names an image wants to test that version, and
// another one in its place would pass for it.
func (k *Kind) imageOnly(cfg Config) error {
	if name, namedBy := k.image(cfg); namedBy != "" && name != NoImage {
		return fmt.Errorf("not tried, because %s names an image", namedBy)
	}
	return nil
}

// fromURL reports whether the environment's address is where such a server comes from.
func (k *Kind) fromURL(cfg Config) bool {
	return os.Getenv(k.URLVar) != "" && !cfg.Private && cfg.Image == ""
}

// ManagementVar names the environment variable with the address of the management API, for a broker
// whose management port is not its AMQP port + 10000.
const ManagementVar = "SUREPOST_RABBITMQ_MANAGEMENT_URL"

// Config says what kind of use a server is for.
type Config struct {
	// Private asks for a server that nobody else uses. The environment's URL is then no source.
	Private bool

	// Image names the image to use, in place of the environment's. It, too, leaves the URL aside.
	Image string

	// Settings are added to the server's configuration. Only for a private server.
	Settings []Setting
}

// Setting is one line of a server's configuration.
type Setting struct{ Name, Value string }

// machine is where servers can be had without an address: a container engine and folders with
// binaries, as glob patterns in which the highest version wins. Tests put others in its place.
type machine struct {
	engine   func() (*engine, error)
	postgres []string
	rabbitmq []string
	erlang   []string
	mariadb  []string
	path     []string // searched after each of the above
}

// thisMachine is the engine that testcontainers-go finds, where Debian, Fedora and Homebrew put their
// binaries, and PATH. Debian's RabbitMQ commands in PATH are wrappers that change the user, so the
// folder behind them comes first.
var thisMachine = func() machine {
	return machine{
		engine:   connectEngine,
		postgres: []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin"},
		rabbitmq: []string{"/usr/lib/rabbitmq/bin", "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin"},
		erlang:   []string{"/usr/lib/erlang/bin"},
		mariadb:  []string{"/usr/sbin", "/usr/libexec", "/opt/homebrew/opt/mariadb*/bin"},
		path:     append(filepath.SplitList(os.Getenv("PATH")), "/usr/local/sbin", "/usr/sbin"),
	}
}

// PretendBare makes this process's machine one without a container engine and server programs. For
// tests.
func PretendBare() {
	thisMachine = func() machine {
		return machine{engine: func() (*engine, error) { return nil, errors.New("no engine answers: a test's machine has none") }}
	}
}

// HasPgBouncer reports whether pgbouncer, which stands between a PostgreSQL and its clients in some
// tests, is installed.
func HasPgBouncer() bool {
	_, err := thisMachine().find("pgbouncer", nil, "pgbouncer")
	return err == nil
}

func (m machine) postgresPrograms() (dir string, err error) {
	return m.find("PostgreSQL's server programs", m.postgres, "initdb", "postgres")
}

func (m machine) rabbitPrograms() (dir string, err error) {
	return m.find("RabbitMQ's server programs", m.rabbitmq, "rabbitmq-server", "rabbitmqctl")
}

func (m machine) mariaDBPrograms() (dir string, err error) {
	return m.find("MariaDB's server program", m.mariadb, "mariadbd")
}

// mariaDBInstaller is where Debian has it not: beside the server.
func (m machine) mariaDBInstaller() (path string, err error) {
	dir, err := m.find("MariaDB's installer", append(m.mariadb, "/usr/bin"), "mariadb-install-db")
	return filepath.Join(dir, "mariadb-install-db"), err
}

// find returns the first folder that has all these programs.
func (m machine) find(what string, patterns []string, programs ...string) (string, error) {
	var folders []string
	for _, pattern := range patterns {
		matches, _ := filepath.Glob(pattern)
		slices.SortFunc(matches, newestFirst)
		folders = append(folders, matches...)
	}
	for _, dir := range append(folders, m.path...) {
		if dir != "" && !slices.ContainsFunc(programs, func(name string) bool { return !executable(filepath.Join(dir, name)) }) {
			return dir, nil
		}
	}
	if len(patterns) == 0 {
		return "", fmt.Errorf("%s (%s): not in PATH", what, strings.Join(programs, ", "))
	}
	return "", fmt.Errorf("%s (%s): neither in %s nor in PATH",
		what, strings.Join(programs, ", "), strings.Join(patterns, ", "))
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// newestFirst orders paths by the first number in which they differ, so that 18 precedes 9.
func newestFirst(a, b string) int { return slices.Compare(numbers(b), numbers(a)) }

func numbers(path string) (found []int) {
	for _, digits := range strings.FieldsFunc(path, func(r rune) bool { return r < '0' || r > '9' }) {
		n, _ := strconv.Atoi(digits)
		found = append(found, n)
	}
	return found
}

// Open returns a server that serves: the environment's, else a container, else binaries of this
// machine. When there is none, the error says what was tried, why each failed and what to do.
func Open(ctx context.Context, kind *Kind, cfg Config) (*Server, error) {
	if kind.fromURL(cfg) {
		return openURL(ctx, kind, os.Getenv(kind.URLVar))
	}
	return Start(ctx, kind, cfg)
}

// Start is Open without the environment's URL: the server is of our own starting.
func Start(ctx context.Context, kind *Kind, cfg Config) (*Server, error) {
	return thisMachine().start(ctx, kind, cfg)
}

func (m machine) start(ctx context.Context, kind *Kind, cfg Config) (s *Server, err error) {
	missing := &NoServerError{Kind: kind, Config: cfg}
	engine, err := m.engineFor(ctx, kind, cfg)
	if err == nil {
		image, _ := kind.image(cfg)
		if s, err = kind.container(ctx, kind, cfg, engine, image); err == nil {
			return s, nil
		}
	}
	missing.Docker = err
	if missing.Binaries = kind.imageOnly(cfg); missing.Binaries != nil {
		return nil, missing
	}
	if s, missing.Binaries = kind.binaries(ctx, kind, cfg, m); missing.Binaries == nil {
		return s, nil
	}
	return nil, missing
}

func openURL(ctx context.Context, kind *Kind, raw string) (*Server, error) {
	u, err := parseURL(kind, raw)
	if err != nil {
		return nil, fmt.Errorf("%s %w: write it like %s, or unset it to let the harness find a server", kind.URLVar, err, kind.ExampleURL)
	}
	s := &Server{Kind: kind, URL: raw, Origin: kind.URLVar}
	if kind == RabbitMQ {
		s.ManagementURL = managementURL(u)
	}
	// One attempt: a server that is given is expected to run.
	if err := kind.ready(ctx, s); err != nil {
		return nil, fmt.Errorf("no %s answers at %s from %s: start it, or unset %[3]s to let the harness find one: %w",
			kind.Name, u.Redacted(), kind.URLVar, err)
	}
	return s, nil
}

// parseURL says what is wrong with an address, without repeating it: it has a password in it.
func parseURL(kind *Kind, raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme == "" || u.Opaque != "":
		return nil, errors.New("is not a URL")
	case !slices.Contains(kind.schemes, u.Scheme):
		return nil, fmt.Errorf("has the scheme %s://, and %s is reached by %s://", u.Scheme, kind.Name, strings.Join(kind.schemes, ":// or "))
	case u.Hostname() == "":
		return nil, errors.New("names no host")
	}
	return u, nil
}

// managementURL returns the management API of the broker behind an AMQP URL: the environment's, else
// the same host and user with the conventional port.
func managementURL(broker *url.URL) string {
	if raw := os.Getenv(ManagementVar); raw != "" {
		if u, err := url.Parse(raw); err == nil && u.User == nil {
			u.User = broker.User
			raw = u.String()
		}
		return strings.TrimSuffix(raw, "/")
	}
	scheme, port := "http", 5672
	if broker.Scheme == "amqps" {
		scheme, port = "https", 5671
	}
	if p, err := strconv.Atoi(broker.Port()); err == nil {
		port = p
	}
	api := url.URL{Scheme: scheme, User: broker.User, Host: broker.Hostname() + ":" + strconv.Itoa(port+ManagementOffset)}
	if broker.User == nil {
		api.User = url.UserPassword("guest", "guest")
	}
	return api.String()
}

// Check reports, without starting anything, whether a container or binaries of the kind could be
// started here: nil, or what is missing.
func Check(ctx context.Context, kind *Kind) error {
	m := thisMachine()
	missing := &NoServerError{Kind: kind}
	if _, missing.Docker = m.engineFor(ctx, kind, Config{}); missing.Docker == nil {
		return nil
	}
	if missing.Binaries = kind.imageOnly(Config{}); missing.Binaries != nil {
		return missing
	}
	if _, missing.Binaries = kind.programs(m); missing.Binaries == nil {
		return nil
	}
	return missing
}

// engineFor returns the machine's engine if it has the kind's image or can have it.
func (m machine) engineFor(ctx context.Context, kind *Kind, cfg Config) (*engine, error) {
	image, namedBy := kind.image(cfg)
	if image == NoImage {
		return nil, fmt.Errorf("not tried, because %s is %s", namedBy, NoImage)
	}
	e, err := m.engine()
	if err != nil {
		return nil, err
	}
	return e, e.provide(ctx, image)
}

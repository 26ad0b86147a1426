package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
)

func TestWithoutAnySourceTheErrorSaysWhatToDo(t *testing.T) {
	bare := machine{
		engine:   func() (*engine, error) { return nil, errors.New("no engine answers: connection refused") },
		postgres: []string{t.TempDir() + "/*/bin"},
		path:     []string{t.TempDir()},
	}
	for _, kind := range []*Kind{PostgreSQL, RabbitMQ, MariaDB} {
		t.Setenv(kind.ImageVar, "")
		_, err := bare.start(context.Background(), kind, Config{})
		if err == nil {
			t.Fatalf("a machine without anything has a %s", kind.Name)
		}
		for _, part := range []string{
			"no " + kind.Name + " can be had. Tried, in this order:",
			kind.URLVar + ": not set",
			"Docker with the image " + kind.Image + ": no engine answers: connection refused",
			kind.Name + "'s server program", "in PATH",
			"apt-get install " + kind.Package,
			"docker pull " + kind.Image, kind.ImageVar,
			"export " + kind.URLVar + "=" + kind.ExampleURL,
		} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q is missing in:\n%v", part, err)
			}
		}
	}
}

// Who names RabbitMQ 4 must not test RabbitMQ 3 without noticing, nor the other way round.
func TestANamedImageIsTestedOrNothing(t *testing.T) {
	m := thisMachine() // which has binaries, or the other tests of this package fail
	m.engine = func() (*engine, error) { return nil, errors.New("no engine answers") }
	for _, kind := range []*Kind{PostgreSQL, RabbitMQ, MariaDB} {
		t.Setenv(kind.ImageVar, "of-my-own:4")
		s, err := m.start(t.Context(), kind, Config{})
		if err == nil {
			_ = s.Close(context.Background())
			t.Fatalf("%s comes from %s", kind.Name, s.Origin)
		}
		for _, part := range []string{"of-my-own:4: no engine answers", "not tried, because " + kind.ImageVar} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q is missing in:\n%v", part, err)
			}
		}
	}
}

func TestNoImageAsksForBinaries(t *testing.T) {
	t.Setenv(PostgreSQL.ImageVar, NoImage)
	m := thisMachine()
	m.engine = func() (*engine, error) { t.Error("the engine is asked"); return nil, errors.New("no engine answers") }
	s, err := m.start(t.Context(), PostgreSQL, Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(context.Background())
	if !strings.HasPrefix(s.Origin, "binaries in ") {
		t.Errorf("the server comes from %s", s.Origin)
	}
}

func TestBinariesAreUsedWhereThereIsNoEngine(t *testing.T) {
	t.Setenv(PostgreSQL.ImageVar, "")
	m := thisMachine()
	m.engine = func() (*engine, error) { return nil, errors.New("no engine answers") }
	s, err := m.start(t.Context(), PostgreSQL, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(s.Origin, "binaries in ") {
		t.Errorf("the server comes from %s", s.Origin)
	}
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestNewestVersionIsFoundFirst(t *testing.T) {
	root := t.TempDir()
	for _, version := range []string{"9", "18", "15", "20"} {
		dir := filepath.Join(root, version, "bin")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, program := range []string{"initdb", "postgres"} {
			if version == "20" && program == "initdb" {
				continue // only client programs: not a server
			}
			if err := os.WriteFile(filepath.Join(dir, program), nil, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	m := machine{postgres: []string{root + "/*/bin"}}
	dir, err := m.postgresPrograms()
	if want := filepath.Join(root, "18", "bin"); err != nil || dir != want {
		t.Errorf("found %s, %v; want %s", dir, err, want)
	}
}

func TestManagementAPIIsFoundFromTheAMQPURL(t *testing.T) {
	for _, c := range []struct{ amqp, variable, want string }{
		{"amqp://u:p@broker/", "", "http://u:p@broker:15672"},
		{"amqp://u:p@broker:5673/vhost", "", "http://u:p@broker:15673"},
		{"amqps://u:p@broker/", "", "https://u:p@broker:15671"},
		{"amqp://broker/", "", "http://guest:guest@broker:15672"},
		{"amqp://u:p@broker/", "https://elsewhere/", "https://u:p@elsewhere"},
		{"amqp://u:p@broker/", "http://a:b@elsewhere:1", "http://a:b@elsewhere:1"},
	} {
		t.Setenv(ManagementVar, c.variable)
		u, err := url.Parse(c.amqp)
		if err != nil {
			t.Fatal(err)
		}
		if got := managementURL(u); got != c.want {
			t.Errorf("%s with %q: %s, want %s", c.amqp, c.variable, got, c.want)
		}
	}
}

// An engine answers, and its registry does not have the image.
func TestAnImageThatCannotBePulledIsAnErrorThatSaysSo(t *testing.T) {
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/images/create"):
			fmt.Fprintln(w, `{"errorDetail":{"message":"manifest for postgres:99 not found"},"error":"manifest for postgres:99 not found"}`)
		default:
			http.Error(w, `{"message":"No such image"}`, http.StatusNotFound)
		}
	}))
	defer registry.Close()
	docker, err := client.New(client.WithHost("tcp://"+registry.Listener.Addr().String()), client.WithAPIVersion("1.44"))
	if err != nil {
		t.Fatal(err)
	}
	e := &engine{client: &testcontainers.DockerClient{Client: docker}, provided: map[string]error{}}
	m := thisMachine()
	m.engine = func() (*engine, error) { return e, nil }
	for named, cfg := range map[string]Config{"harness.Image": {Image: "postgres:99"}, PostgreSQL.ImageVar: {}} {
		t.Setenv(PostgreSQL.ImageVar, "postgres:99")
		s, err := m.start(t.Context(), PostgreSQL, cfg)
		if err == nil {
			_ = s.Close(context.Background())
			t.Fatalf("PostgreSQL comes from %s", s.Origin)
		}
		for _, part := range []string{
			"Docker with the image postgres:99: the engine does not have the image and cannot pull it: manifest for postgres:99 not found",
			"binaries of this machine: not tried, because " + named + " names an image",
			"docker pull postgres:99; or name another in " + PostgreSQL.ImageVar,
		} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q is missing in:\n%v", part, err)
			}
		}
	}
}

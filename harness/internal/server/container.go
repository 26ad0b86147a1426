package server

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	tcexec "github.com/testcontainers/testcontainers-go/exec"
	tclog "github.com/testcontainers/testcontainers-go/log"
)

// engine is a container engine that answers.
type engine struct {
	client *testcontainers.DockerClient
	host   string     // where its published ports are reached
	bind   netip.Addr // where they are published

	mu       sync.Mutex
	provided map[string]error // by image: the result of the only attempt
}

// connectEngine finds the engine as testcontainers-go does (DOCKER_HOST, contexts, the usual
// sockets), once: on a machine without one, every further server would search again.
var connectEngine = sync.OnceValues(findEngine)

func findEngine() (e *engine, err error) {
	// Where it finds no engine, testcontainers-go panics in some versions and environments.
	defer func() {
		if problem := recover(); problem != nil {
			err = fmt.Errorf("no engine answers: %v", problem)
		}
	}()
	// It also greets the terminal with the engine's particulars.
	chatty := tclog.Default()
	tclog.SetDefault(tclog.NewNoopLogger())
	defer tclog.SetDefault(chatty)

	// Where our guard has the docker command, testcontainers-go's own cleaner, Ryuk, has nothing to add
	// but one more image to pull. The variable is read at the first contact.
	const ryuk = "TESTCONTAINERS_RYUK_DISABLED"
	if _, missing := exec.LookPath("docker"); missing == nil && os.Getenv(ryuk) == "" {
		_ = os.Setenv(ryuk, "true")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := testcontainers.NewDockerClientWithOpts(ctx)
	if err == nil {
		_, err = c.Ping(ctx, client.PingOptions{})
	}
	if err != nil {
		return nil, fmt.Errorf("no engine answers: %w", err)
	}
	defer c.Close() // idle connections only: the client stays usable
	e = &engine{client: c, provided: map[string]error{}, host: "127.0.0.1", bind: netip.MustParseAddr("127.0.0.1")}
	if u, err := url.Parse(c.DaemonHost()); err == nil && u.Scheme == "tcp" && u.Hostname() != "localhost" && u.Hostname() != "127.0.0.1" {
		e.host, e.bind = u.Hostname(), netip.IPv4Unspecified() // a CI's engine is often another host
	}
	return e, nil
}

// provide makes sure that the engine has the image. A machine may have an engine but no registry, so
// a pull that shows no sign of life is given up early, in favour of the binaries, and not tried again.
func (e *engine) provide(ctx context.Context, image string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	err, known := e.provided[image]
	if !known {
		err = e.pull(ctx, image)
		e.provided[image] = err
	}
	return err
}

func (e *engine) pull(ctx context.Context, image string) error {
	defer e.client.Close()
	if _, err := e.client.ImageInspect(ctx, image); err == nil {
		return nil
	}
	const firstSign, whole = 10 * time.Second, 5 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, whole)
	defer cancel()
	watch := time.AfterFunc(firstSign, cancel)
	defer watch.Stop()
	pull, err := e.client.ImagePull(ctx, image, client.ImagePullOptions{})
	if err == nil {
		defer pull.Close()
		for message, failed := range pull.JSONMessages(ctx) {
			watch.Stop()
			if failed != nil {
				err = failed
			} else if message.Error != nil {
				err = message.Error
			}
			if err != nil {
				break
			}
		}
	}
	if err != nil {
		return fmt.Errorf("the engine does not have the image and cannot pull it: %w", err)
	}
	return nil
}

// containerServer is a server in a container whose ports are chosen by us: the engine would give
// others after every start.
type containerServer struct {
	engine  *engine
	folder  *folder // has no data, but a guard that removes the container after a crash of ours
	request testcontainers.ContainerRequest
	box     testcontainers.Container
	paused  bool
}

// containerFile tells the guard the container's name.
const containerFile = "server.container"

// newContainer describes a container that publishes inner ports at outer ones.
func newContainer(e *engine, kind, image string, ports map[string]int) (*containerServer, error) {
	f, err := newFolder(kind, nil)
	if err != nil {
		return nil, err
	}
	// The guard knows the name before the container exists: no moment is left unwatched.
	name := "surepost-" + kind + "-" + strings.ToLower(rand.Text()[:12])
	if err := os.WriteFile(filepath.Join(f.path, containerFile), []byte(name), 0o644); err != nil {
		return nil, errors.Join(err, f.close())
	}
	bindings := network.PortMap{}
	var exposed []string
	for inner, outer := range ports {
		exposed = append(exposed, inner)
		bindings[network.MustParsePort(inner)] = []network.PortBinding{{HostIP: e.bind, HostPort: strconv.Itoa(outer)}}
	}
	return &containerServer{engine: e, folder: f, request: testcontainers.ContainerRequest{
		Image: image, Name: name, ExposedPorts: exposed,
		HostConfigModifier: func(c *container.HostConfig) { c.PortBindings = bindings },
	}}, nil
}

func containerPostgresServer(ctx context.Context, kind *Kind, cfg Config, e *engine, image string) (*Server, error) {
	return launch(ctx, kind, "Docker image "+image, func() (*Server, error) {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		run, err := newContainer(e, "postgres", image, map[string]int{"5432/tcp": port})
		if err != nil {
			return nil, err
		}
		password := rand.Text()
		run.request.Env = map[string]string{
			"POSTGRES_PASSWORD":    password,
			"POSTGRES_INITDB_ARGS": strings.Join(initdbArgs, " "),
		}
		// Whatever the image says: SIGTERM would wait for the clients to leave.
		run.request.ConfigModifier = func(c *container.Config) { c.StopSignal = "SIGINT" }
		run.request.Cmd = append([]string{"postgres"}, postgresFlags(postgresSettings(cfg))...)
		return &Server{URL: postgresURL(password, e.address(port)), run: run}, nil
	})
}

func containerRabbitServer(ctx context.Context, kind *Kind, cfg Config, e *engine, image string) (*Server, error) {
	return launch(ctx, kind, "Docker image "+image, func() (*Server, error) {
		port, err := FreePort(ManagementOffset)
		if err != nil {
			return nil, err
		}
		run, err := newContainer(e, "rabbitmq", image, map[string]int{"5672/tcp": port, "15672/tcp": port + ManagementOffset})
		if err != nil {
			return nil, err
		}
		run.request.Env = map[string]string{erlangVar: erlangFlags}
		// Our connections come from outside the container, which guest may not by default.
		config := rabbitConfig(cfg, "loopback_users = none")
		run.request.Files = []testcontainers.ContainerFile{
			{Reader: strings.NewReader(rabbitPlugins), ContainerFilePath: "/etc/rabbitmq/enabled_plugins", FileMode: 0o644},
			{Reader: strings.NewReader(config), ContainerFilePath: "/etc/rabbitmq/conf.d/90-surepost.conf", FileMode: 0o644},
		}
		return &Server{
			URL:           "amqp://guest:guest@" + e.address(port) + "/",
			ManagementURL: "http://guest:guest@" + e.address(port+ManagementOffset),
			run:           run,
		}, nil
	})
}

func containerMariaDBServer(ctx context.Context, kind *Kind, cfg Config, e *engine, image string) (*Server, error) {
	return launch(ctx, kind, "Docker image "+image, func() (*Server, error) {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		run, err := newContainer(e, "mariadb", image, map[string]int{"3306/tcp": port})
		if err != nil {
			return nil, err
		}
		password := rand.Text()
		run.request.Env = map[string]string{"MARIADB_ROOT_PASSWORD": password, "MYSQL_ROOT_PASSWORD": password}
		// Both images put the name of their server before a command that is flags only.
		run.request.Cmd = mariaDBFlags(cfg)
		return &Server{URL: mariaDBURL(password, e.address(port)), run: run}, nil
	})
}

func (e *engine) address(port int) string { return e.host + ":" + strconv.Itoa(port) }

func (c *containerServer) start(ctx context.Context) (err error) {
	if c.box != nil {
		return c.box.Start(ctx)
	}
	c.box, err = testcontainers.GenericContainer(ctx, testcontainers.GenericContainerRequest{
		ContainerRequest: c.request, Started: true, Logger: tclog.NewNoopLogger(),
	})
	return err
}

// stop sends the stop signal: SIGINT to PostgreSQL, a fast shutdown; the image's, SIGTERM, to RabbitMQ.
func (c *containerServer) stop(ctx context.Context) error {
	limit := 30 * time.Second
	return c.box.Stop(ctx, &limit)
}

func (c *containerServer) pause(ctx context.Context) error {
	defer c.engine.client.Close()
	_, err := c.engine.client.ContainerPause(ctx, c.request.Name, client.ContainerPauseOptions{})
	c.paused = err == nil
	return err
}

func (c *containerServer) resume(ctx context.Context) error {
	if !c.paused {
		return nil
	}
	defer c.engine.client.Close()
	_, err := c.engine.client.ContainerUnpause(ctx, c.request.Name, client.ContainerUnpauseOptions{})
	c.paused = err != nil
	return err
}

func (c *containerServer) kill(ctx context.Context) error {
	if c.died() != nil {
		return nil
	}
	defer c.engine.client.Close()
	if _, err := c.engine.client.ContainerKill(ctx, c.request.Name, client.ContainerKillOptions{Signal: "KILL"}); err != nil {
		return err
	}
	for c.died() == nil {
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	c.paused = false // the engine lets a paused container go on in order to kill it
	return nil
}

// close removes the container. One that could not be made or removed is left to the guard.
func (c *containerServer) close(ctx context.Context) error {
	var err error
	if c.box != nil {
		if err = c.engine.remove(ctx, c.request.Name); err == nil {
			_ = os.Remove(filepath.Join(c.folder.path, containerFile))
		}
	}
	return errors.Join(err, c.folder.close())
}

func (e *engine) remove(ctx context.Context, name string) error {
	defer e.client.Close()
	_, err := e.client.ContainerRemove(ctx, name, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	return err
}

func (c *containerServer) died() error {
	if c.box == nil {
		return errors.New("it was not started")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	state, err := c.box.State(ctx)
	if err != nil {
		return err
	}
	if !state.Running {
		return fmt.Errorf("the container is %s, exit code %d %s", state.Status, state.ExitCode, state.Error)
	}
	return nil
}

func (c *containerServer) log(ctx context.Context, since Mark) string {
	if c.box == nil {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	defer c.engine.client.Close()
	options := client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true, Tail: strconv.Itoa(LogLines)}
	if !since.at.IsZero() {
		options.Since = since.at.Format(time.RFC3339Nano)
	}
	logs, err := c.engine.client.ContainerLogs(ctx, c.request.Name, options)
	if err != nil {
		return err.Error()
	}
	defer logs.Close()
	var text bytes.Buffer
	_, _ = stdcopy.StdCopy(&text, &text, logs)
	return text.String()
}

func (c *containerServer) control(ctx context.Context, args ...string) error {
	status, out, err := c.box.Exec(ctx, append([]string{"rabbitmqctl"}, args...), tcexec.Multiplexed())
	if err != nil {
		return err
	}
	var text bytes.Buffer
	_, _ = io.Copy(&text, out)
	if status != 0 {
		return fmt.Errorf("rabbitmqctl %s: exit status %d\n%s", strings.Join(args, " "), status, indent(text.String()))
	}
	return nil
}

func (c *containerServer) record() *Kept { return &Kept{Container: c.request.Name} }

func (c *containerServer) detach() error {
	if err := c.folder.release(); err != nil {
		return err
	}
	return os.RemoveAll(c.folder.path)
}

func containerRunning(ctx context.Context, name string) bool {
	e, err := connectEngine()
	if err != nil {
		return false
	}
	defer e.client.Close()
	found, err := e.client.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	return err == nil && found.Container.State != nil && found.Container.State.Running
}

func removeContainer(ctx context.Context, name string) error {
	e, err := connectEngine()
	if err != nil {
		return fmt.Errorf("remove the container %s: %w", name, err)
	}
	return e.remove(ctx, name)
}

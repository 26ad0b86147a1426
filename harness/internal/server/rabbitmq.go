package server

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// RabbitMQ is the kind of server that events are published to.
var RabbitMQ = &Kind{
	Name:       "RabbitMQ",
	URLVar:     "SUREPOST_AMQP_URL",
	ImageVar:   "SUREPOST_RABBITMQ_IMAGE",
	Image:      "rabbitmq:4-management",
	Package:    "rabbitmq-server",
	ExampleURL: "amqp://user:password@host:5672/",
	schemes:    []string{"amqp", "amqps"},
	ready:      rabbitReady,
	programs:   machine.rabbitPrograms,
	binaries:   localRabbitServer,
	container:  containerRabbitServer,
}

// The management API makes the virtual hosts. The others are topologies that tests publish to: the
// exchange types x-consistent-hash and x-modulus-hash. All come with every RabbitMQ from 3.6 on.
const rabbitPlugins = "[rabbitmq_management,rabbitmq_consistent_hash_exchange,rabbitmq_sharding].\n"

// rabbitReady wants both doors open: AMQP and, for a server of ours, the management API of this very
// node. The name tells it apart from another server that was quicker to take the port.
func rabbitReady(ctx context.Context, s *Server) error {
	conn, err := amqp.DialConfig(s.URL, amqp.Config{Dial: amqp.DefaultDial(3 * time.Second)})
	if err != nil {
		return err
	}
	_ = conn.Close()
	local, ok := s.run.(*localRabbit)
	if s.run == nil {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.ManagementURL+"/api/overview", nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var overview struct{ Node string }
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the management API answers %s", resp.Status)
	}
	if err := json.NewDecoder(resp.Body).Decode(&overview); err != nil {
		return err
	}
	if ok && overview.Node != local.node {
		return fmt.Errorf("another broker, %s, answers: address already in use", overview.Node)
	}
	return nil
}

// A test's broker has two schedulers, whatever the machine has, and they don't spin while they wait for work: several
// run side by side (Erlang docs, erl(1), +S and +sbwt).
const (
	erlangVar   = "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"
	erlangFlags = "+S 2:2 +sbwt none"
)

func rabbitConfig(cfg Config, lines ...string) string {
	lines = append(lines,
		"vm_memory_high_watermark.relative = "+rabbitWatermark,
		"disk_free_limit.absolute = 50MB", // the default asks for as much disk as RAM, which a CI machine may not have
		"log.console = true",
		"log.console.level = warning",
	)
	for _, s := range cfg.Settings {
		lines = append(lines, s.Name+" = "+s.Value)
	}
	return strings.Join(lines, "\n") + "\n"
}

const rabbitWatermark = "0.4"

// BlockPublishers raises or clears the memory alarm: while it is raised, RabbitMQ reads nothing more
// from connections that publish (RabbitMQ docs, "Memory and Disk Alarms").
func (s *Server) BlockPublishers(ctx context.Context, block bool) error {
	if block {
		return s.Control(ctx, "set_vm_memory_high_watermark", "absolute", "1")
	}
	return s.Control(ctx, "set_vm_memory_high_watermark", rabbitWatermark)
}

// localRabbit runs the binaries of this machine: the Erlang node and, for its name, a private epmd
// (Erlang's port mapper), which would otherwise be shared with the machine and outlive us.
type localRabbit struct {
	folder *folder
	bin    string
	epmd   string
	node   string
	env    []string
	mapper *process
	proc   *process

	borrows bool // the mapper, which is another node's of its cluster
}

func localRabbitServer(ctx context.Context, kind *Kind, cfg Config, m machine) (*Server, error) {
	bin, err := m.rabbitPrograms()
	if err != nil {
		return nil, err
	}
	epmd, err := m.find("Erlang's port mapper", m.erlang, "epmd")
	if err != nil {
		return nil, err
	}
	return launch(ctx, kind, "binaries in "+bin, func() (*Server, error) {
		return newLocalRabbit(cfg, rabbitNode{bin: bin, epmd: filepath.Join(epmd, "epmd"), name: newNodeName()})
	})
}

// rabbitNode is what a node of a cluster has in common with the others, or has to itself by agreement.
type rabbitNode struct {
	bin, epmd string // the programs
	name      string

	mapperPort int      // of the cluster's epmd; 0 for one of the node's own
	lines      []string // for rabbitmq.conf
	cookie     string   // the cluster's secret; "" for one of the node's own
}

func newNodeName() string { return "surepost-" + strings.ToLower(rand.Text()[:8]) + "@localhost" }

// newLocalRabbit returns a node that is ready to be started.
func newLocalRabbit(cfg Config, n rabbitNode) (*Server, error) {
	const distribution, mapper = 1, 2
	port, err := FreePort(distribution, mapper, ManagementOffset)
	if err != nil {
		return nil, err
	}
	mapperPort := port + mapper
	if n.mapperPort != 0 {
		mapperPort = n.mapperPort
	}
	folder, err := newFolder("rabbitmq", nil)
	if err != nil {
		return nil, err
	}
	run := &localRabbit{folder: folder, bin: n.bin, epmd: n.epmd, node: n.name}
	in := func(name string) string { return filepath.Join(folder.path, name) }
	run.env = plainEnv(
		"HOME="+folder.path, // the cookie's place
		"ERL_EPMD_ADDRESS=127.0.0.1",
		"ERL_EPMD_PORT="+strconv.Itoa(mapperPort),
		"ERL_CRASH_DUMP_SECONDS=0",
		"RABBITMQ_CONF_ENV_FILE=/dev/null", // the machine's own would win over what follows
		"RABBITMQ_NODENAME="+run.node,
		"RABBITMQ_DIST_PORT="+strconv.Itoa(port+distribution),
		"RABBITMQ_MNESIA_BASE="+in("data"),
		"RABBITMQ_LOG_BASE="+in("log"),
		"RABBITMQ_LOGS=-",
		"RABBITMQ_PID_FILE="+in("data/rabbitmq.pid"),
		"RABBITMQ_CONFIG_FILE="+in("rabbitmq.conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+in("enabled_plugins"),
		// With input allowed the start script replaces itself with the Erlang node, which is then
		// our own child: its death is seen, and a signal reaches it. The input is /dev/null.
		"RABBITMQ_ALLOW_INPUT=1",
		"RABBITMQ_SERVER_START_ARGS=-noinput",
		erlangVar+"="+erlangFlags+" -start_epmd false"+
			" -kernel inet_dist_use_interface {127,0,0,1}",
	)
	err = errors.Join(
		os.WriteFile(in("enabled_plugins"), []byte(rabbitPlugins), 0o644),
		os.WriteFile(in("rabbitmq.conf"), []byte(rabbitConfig(cfg, append(n.lines,
			"listeners.tcp.local = "+loopback(port),
			"management.tcp.ip = 127.0.0.1",
			"management.tcp.port = "+strconv.Itoa(port+ManagementOffset),
		)...)), 0o644),
	)
	if n.cookie != "" {
		err = errors.Join(err, os.WriteFile(in(".erlang.cookie"), []byte(n.cookie), 0o400))
	}
	if err != nil {
		return nil, errors.Join(err, folder.close())
	}
	return &Server{
		URL:           "amqp://guest:guest@" + loopback(port) + "/",
		ManagementURL: "http://guest:guest@" + loopback(port+ManagementOffset),
		run:           run,
	}, nil
}

func (r *localRabbit) start(context.Context) error {
	if r.died() == nil {
		return errors.New("it runs already")
	}
	if !r.borrows && (r.mapper == nil || r.mapper.died() != nil) {
		if err := r.startMapper(); err != nil {
			return err
		}
	}
	proc, err := r.folder.start(program{
		name: "rabbitmq", args: []string{filepath.Join(r.bin, "rabbitmq-server")}, env: r.env,
		stopBy: syscall.SIGTERM, endBy: "KILL",
	})
	r.proc = proc
	return err
}

func (r *localRabbit) startMapper() (err error) {
	r.mapper, err = r.folder.start(program{
		name: "epmd", args: []string{r.epmd}, env: r.env, stopBy: syscall.SIGTERM, endBy: "KILL",
	})
	return err
}

func (r *localRabbit) stop(ctx context.Context) error {
	if r.proc == nil {
		return nil
	}
	return r.proc.stop(ctx)
}

func (r *localRabbit) kill(context.Context) error {
	if r.proc != nil {
		r.proc.kill()
	}
	return r.folder.resume() // of a node that was paused, its port programs end when they go on
}

// close kills: the data is removed anyway, and an orderly end takes seconds.
func (r *localRabbit) close(ctx context.Context) error {
	_ = r.kill(ctx)
	if r.mapper != nil {
		r.mapper.kill()
	}
	return r.folder.close()
}

func (r *localRabbit) died() error {
	if r.proc == nil {
		return errors.New("it was not started")
	}
	return r.proc.died()
}

func (r *localRabbit) pause(ctx context.Context) error { return r.folder.pause(ctx, r.proc.pid) }
func (r *localRabbit) resume(context.Context) error    { return r.folder.resume() }

func (r *localRabbit) log(_ context.Context, since Mark) string { return r.folder.log(since) }
func (r *localRabbit) logFile() string                          { return r.folder.logFile() }

func (r *localRabbit) control(ctx context.Context, args ...string) error {
	args = append([]string{"--node", r.node}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(r.bin, "rabbitmqctl"), args...)
	cmd.Dir, cmd.Env = r.folder.path, r.env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("rabbitmqctl %s: %w\n%s", strings.Join(args, " "), err, indent(string(out)))
	}
	return nil
}

func (r *localRabbit) record() *Kept { return recordFolder(r.folder, r.proc, r.mapper) }

func (r *localRabbit) detach() error { return r.folder.release() }

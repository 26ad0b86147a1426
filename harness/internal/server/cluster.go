package server

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// pollEvery is how often a server's state is looked at while it is awaited.
const pollEvery = 20 * time.Millisecond

// StartCluster starts a RabbitMQ cluster of this machine's binaries, and returns when each node sees all others.
// Nodes find each other by their configuration (RabbitMQ docs, "Cluster Formation", "Config File Peer Discovery"), so
// that one that comes back finds its cluster by itself.
func StartCluster(ctx context.Context, size int, cfg Config) ([]*Server, error) {
	m := thisMachine()
	bin, err := m.rabbitPrograms()
	if err != nil {
		return nil, &NoServerError{Kind: RabbitMQ, Config: cfg, Docker: errors.New("not tried: a cluster consists of processes of this machine"), Binaries: err}
	}
	epmd, err := m.find("Erlang's port mapper", m.erlang, "epmd")
	if err != nil {
		return nil, err
	}
	const attempts = 5
	for attempt := 1; ; attempt++ {
		nodes, err := startNodes(ctx, size, cfg, bin, filepath.Join(epmd, "epmd"))
		if err == nil || attempt == attempts || !portTaken(err) {
			return nodes, err
		}
	}
}

func startNodes(ctx context.Context, size int, cfg Config, bin, epmd string) (nodes []*Server, err error) {
	defer func() {
		if err != nil {
			for _, n := range nodes {
				err = errors.Join(err, n.Close(context.WithoutCancel(ctx)))
			}
			nodes = nil
		}
	}()
	mapperPort, err := FreePort()
	if err != nil {
		return nil, err
	}
	lines := []string{"cluster_formation.peer_discovery_backend = classic_config"}
	names := make([]string, size)
	for i := range names {
		names[i] = newNodeName()
		lines = append(lines, "cluster_formation.classic_config.nodes."+strconv.Itoa(i+1)+" = "+names[i])
	}
	cookie := rand.Text()
	for _, name := range names {
		node, err := newLocalRabbit(cfg, rabbitNode{bin: bin, epmd: epmd, name: name, mapperPort: mapperPort, lines: lines, cookie: cookie})
		if err != nil {
			return nodes, err
		}
		node.Kind, node.Origin = RabbitMQ, "binaries in "+bin
		nodes = append(nodes, node)
	}
	// The first node's mapper is everybody's, and there before anybody asks it.
	if err := nodes[0].run.(*localRabbit).startMapper(); err != nil {
		return nodes, err
	}
	for _, n := range nodes[1:] {
		n.run.(*localRabbit).borrows = true
	}
	errs := make([]error, size)
	var group sync.WaitGroup
	for i, n := range nodes {
		group.Go(func() { errs[i] = n.Start(ctx) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return nodes, err
	}
	for _, n := range nodes {
		if err := n.AwaitPeers(ctx, size); err != nil {
			return nodes, n.withLog(fmt.Errorf("the cluster's %d nodes don't find each other: %w", size, err))
		}
	}
	return nodes, nil
}

// AwaitPeers waits until the node sees so many running nodes, itself included.
func (s *Server) AwaitPeers(ctx context.Context, running int) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	for {
		seen, err := s.runningNodes(ctx)
		if err == nil && seen == running {
			return nil
		}
		if pause(ctx, pollEvery) != nil {
			return errors.Join(fmt.Errorf("%d of %d run", seen, running), err)
		}
	}
}

func (s *Server) runningNodes(ctx context.Context) (running int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.ManagementURL+"/api/nodes?columns=name,running", nil)
	if err != nil {
		return 0, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var nodes []struct{ Running bool }
	if err := json.NewDecoder(resp.Body).Decode(&nodes); err != nil {
		return 0, err
	}
	for _, n := range nodes {
		if n.Running {
			running++
		}
	}
	return running, nil
}

package harness

import (
	"context"
	"crypto/rand"
	"errors"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/surepost/surepost/harness/internal/server"
)

// RabbitMQCluster is a RabbitMQ cluster that belongs to one test, with a virtual host. Each node can be stopped, killed,
// started, paused and blocked by itself.
type RabbitMQCluster struct {
	Nodes []*RabbitMQServer
}

// StartRabbitMQCluster starts so many nodes, which are processes of this machine, and returns when each sees all others.
// They end with the test. It takes some ten seconds and 150 MB a node.
func StartRabbitMQCluster(tb testing.TB, nodes int, settings ...Option) *RabbitMQCluster {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	cfg := newService(server.RabbitMQ, append(settings, Private(), Image(server.NoImage))).cfg
	servers, err := server.StartCluster(ctx, nodes, cfg)
	if err != nil {
		tb.Fatalf("harness: start a cluster of %d nodes: %v", nodes, err)
	}
	c := &RabbitMQCluster{}
	for _, s := range servers {
		c.Nodes = append(c.Nodes, &RabbitMQServer{
			powerSwitch: powerSwitch{kind: server.RabbitMQ, asked: true, cfg: cfg, tb: tb, server: s},
			api:         management{s.ManagementURL},
		})
	}
	tb.Cleanup(func() { c.end(tb) })
	vhost, password, err := c.createVHost(ctx, tb.Name())
	if err != nil {
		tb.Fatalf("harness: create a virtual host on the cluster: %v", err)
	}
	for _, n := range c.Nodes {
		u, err := url.Parse(n.server.URL)
		if err != nil {
			tb.Fatal(err)
		}
		u.User, u.Path = url.UserPassword(vhost, password), "/"+vhost
		n.vhost, n.url = vhost, u.String()
	}
	return c
}

// createVHost tries again under another name: RabbitMQ 3.10 was seen to wait in vain for a virtual host to start on a
// node that had only just joined.
func (c *RabbitMQCluster) createVHost(ctx context.Context, like string) (name, password string, err error) {
	password = rand.Text()
	for range 3 {
		name = uniqueName(like)
		try, cancel := context.WithTimeout(ctx, 15*time.Second)
		err = c.Nodes[0].api.createVHost(try, name, password)
		cancel()
		if err == nil {
			break
		}
	}
	return name, password, err
}

// URLs returns the address of the test's virtual host on each node, in the order of Nodes.
func (c *RabbitMQCluster) URLs() (urls []string) {
	for _, n := range c.Nodes {
		urls = append(urls, n.URL())
	}
	return urls
}

// AwaitNodes waits until every node that is running sees so many running nodes, itself included: a node that was
// killed is noticed when its connections break, and one that came back when it has joined.
func (c *RabbitMQCluster) AwaitNodes(tb testing.TB, running int) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	for _, n := range c.Nodes {
		if n.server.Running() {
			if err := n.server.AwaitPeers(ctx, running); err != nil {
				tb.Fatalf("harness: await %d nodes: %v", running, err)
			}
		}
	}
}

func (c *RabbitMQCluster) end(tb testing.TB) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	errs := make([]error, len(c.Nodes))
	var group sync.WaitGroup
	for i, n := range c.Nodes {
		if tb.Failed() {
			tb.Logf("node %d: %s", i, n.log())
		}
		group.Go(func() { errs[i] = n.server.Close(ctx) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		tb.Errorf("harness: clean up the cluster: %v", err)
	}
}

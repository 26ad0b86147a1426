package integration

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/surepost/surepost/harness"
)

// A cluster of three loses the node that leads the queue and, where that is another one, the node that the relay is
// connected to, one after the other and under load: nothing is lost, effects happen once and in order.
func TestAClusterThatLosesANodeLosesNothing(t *testing.T) {
	t.Parallel()
	cluster := harness.StartRabbitMQCluster(t, 3)
	env := harness.Start(t, harness.Postgres())
	f := &flow{brokers: cluster.URLs()}
	f.open(t, env.Postgres.URL(), env.Postgres.NewDatabase(t))
	f.startConsumer(t)
	r, _ := f.startRelay(t)
	stop := f.keepProducing(t, 4)
	published := func(more int) {
		t.Helper()
		want := int(r.Report().Published) + more
		awaitFor(t, "the relay publishes on", func() bool { return int(r.Report().Published) >= want })
	}
	published(200)
	sessions := r.Report().Sessions
	for _, victim := range []func() *harness.RabbitMQServer{
		func() *harness.RabbitMQServer { return leaderOf(t, cluster, "effects") },
		func() *harness.RabbitMQServer { return connectedTo(t, cluster) },
	} {
		node := victim()
		node.Kill(t)
		published(200)
		node.Start(t)
		cluster.AwaitNodes(t, 3)
		published(50)
	}
	stop()
	n := f.settled(t, 30*time.Second)
	if rp := r.Report(); f.unroutable.Load() != 0 || rp.Parked != 0 || rp.Sessions == sessions {
		t.Errorf("%d tries were spent, in %d sessions: %+v", f.unroutable.Load(), rp.Sessions, rp)
	}
	t.Logf("%d events, %+v", n, r.Report())
}

// leaderOf returns the node that leads a quorum queue.
func leaderOf(t *testing.T, c *harness.RabbitMQCluster, queue string) *harness.RabbitMQServer {
	t.Helper()
	var q struct {
		Leader  string
		Members []string
	}
	awaitFor(t, queue+" has a leader", func() bool {
		return ask(t, c.Nodes[0], "/api/queues/"+url.PathEscape(c.Nodes[0].VHost())+"/"+queue, &q) && q.Leader != ""
	})
	if len(q.Members) != len(c.Nodes) {
		t.Fatalf("the queue is on %v: a quorum queue was wanted", q.Members)
	}
	return nodeNamed(t, c, q.Leader)
}

// connectedTo returns the node that a publisher is connected to: the only channel that wants confirms and has published.
func connectedTo(t *testing.T, c *harness.RabbitMQCluster) *harness.RabbitMQServer {
	t.Helper()
	var node string
	awaitFor(t, "the relay's channel is in the statistics", func() bool {
		var channels []struct {
			Node         string
			Confirm      bool
			MessageStats struct{ Publish int } `json:"message_stats"`
		}
		if !ask(t, c.Nodes[0], "/api/channels", &channels) {
			return false
		}
		for _, ch := range channels {
			if ch.Confirm && ch.MessageStats.Publish > 0 {
				node = ch.Node
			}
		}
		return node != ""
	})
	return nodeNamed(t, c, node)
}

func nodeNamed(t *testing.T, c *harness.RabbitMQCluster, name string) *harness.RabbitMQServer {
	t.Helper()
	i := slices.IndexFunc(c.Nodes, func(n *harness.RabbitMQServer) bool {
		var overview struct{ Node string }
		return ask(t, n, "/api/overview", &overview) && overview.Node == name
	})
	if i < 0 {
		t.Fatalf("no node is named %s", name)
	}
	return c.Nodes[i]
}

// ask asks a node's management API.
func ask(t *testing.T, n *harness.RabbitMQServer, path string, answer any) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.ManagementURL()+path, strings.NewReader(""))
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(answer) == nil
}

// RabbitMQ (seen with 3.10) rejects everything that a channel publishes to a quorum queue, for as long as the channel
// lives, if the first of it came while the queue had no leader.
func TestAChannelThatRejectsForEverIsReplaced(t *testing.T) {
	t.Parallel()
	cluster := harness.StartRabbitMQCluster(t, 3)
	env := harness.Start(t, harness.Postgres())
	f := &flow{brokers: cluster.URLs()}
	f.open(t, env.Postgres.URL(), env.Postgres.NewDatabase(t))
	f.startConsumer(t)
	leader := leaderOf(t, cluster, "effects")
	f.brokers = slices.DeleteFunc(cluster.URLs(), func(u string) bool { return u == leader.URL() })
	r, _ := f.startRelay(t)
	awaitFor(t, "the relay is connected", func() bool { return r.Report().Sessions == 1 && r.Report().CaughtUp })
	// RabbitMQ saves a new quorum queue's name every half second: see the harness's package documentation.
	time.Sleep(time.Second)
	leader.Kill(t)
	for n := range 20 {
		if err := f.produce(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		r.Wake()
	}
	f.settled(t, 40*time.Second)
	t.Logf("%+v", r.Report())
}

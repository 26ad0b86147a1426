package harness

import (
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	amqp "github.com/rabbitmq/amqp091-go"
)

func TestAStandbyIsPromotedAndTakesWrites(t *testing.T) {
	t.Parallel()
	primary := postgres(t, Private(), Image("none"))
	conn := connect(t, primary.URL())
	exec(t, conn, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)")
	standby := primary.NewStandby(t)
	exec(t, conn, "INSERT INTO kept VALUES (2)")
	replica := connect(t, standby.URL())
	within(t, 20*time.Second, "the standby has the second row", func() bool {
		return scalar[int](t, replica, "SELECT count(*) FROM kept") == 2
	})
	standby.Disconnect(t)
	exec(t, conn, "INSERT INTO kept VALUES (3)") // the tail
	primary.Kill(t)
	if conn, err := pgx.Connect(t.Context(), primary.FailoverURL(standby)); err == nil {
		_ = conn.Close(t.Context())
		t.Error("a standby was taken for a primary")
	}
	standby.Promote(t)
	conn = connect(t, primary.FailoverURL(standby))
	exec(t, conn, "INSERT INTO kept VALUES (4)")
	if got := scalar[string](t, conn, "SELECT string_agg(n::text, ' ' ORDER BY n) FROM kept"); got != "1 2 4" {
		t.Errorf("the new primary has %s, want 1 2 4", got)
	}
}

func TestAStandbyNeedsBinaries(t *testing.T) {
	t.Parallel()
	said := new(fakeTB).run(func(tb testing.TB) { postgres(tb).NewStandby(tb) })
	wantContains(t, said, "cannot copy PostgreSQL", "harness.Private()")
}

func TestAClustersNodesComeAndGo(t *testing.T) {
	t.Parallel()
	c := StartRabbitMQCluster(t, 3)
	_, ch := dial(t, c.Nodes[0].URL())
	quorum := amqp.Table{"x-queue-type": "quorum"}
	must[amqp.Queue](t, "declare")(ch.QueueDeclare("q", true, false, false, false, quorum))
	c.Nodes[0].Kill(t)
	c.AwaitNodes(t, 2)
	if _, err := amqp.Dial(c.Nodes[0].URL()); err == nil {
		t.Error("a killed node answers")
	}
	var conn *amqp.Connection
	conn, ch = dial(t, c.Nodes[1].URL())
	must[amqp.Queue](t, "declare")(ch.QueueDeclare("q", true, false, false, false, quorum))
	within(t, 30*time.Second, "the two nodes that are left take a message", func() bool {
		// Rejected for as long as no leader is elected; RabbitMQ 3.10 may reject everything for ever on a channel that
		// once asked a dead leader.
		ch := must[*amqp.Channel](t, "a channel")(conn.Channel())
		defer ch.Close()
		if err := ch.Confirm(false); err != nil {
			t.Fatal(err)
		}
		confirm := must[*amqp.DeferredConfirmation](t, "publish")(
			ch.PublishWithDeferredConfirmWithContext(t.Context(), "", "q", false, false, amqp.Publishing{Body: []byte("kept")}))
		taken, err := confirm.WaitContext(t.Context())
		return taken && err == nil
	})
	c.Nodes[0].Start(t)
	c.AwaitNodes(t, 3)
	_, ch = dial(t, c.Nodes[0].URL())
	within(t, 20*time.Second, "the message is seen from the node that came back", func() bool {
		m, ok, err := ch.Get("q", true)
		return err == nil && ok && string(m.Body) == "kept"
	})
	if len(c.URLs()) != 3 || strings.Contains(c.URLs()[1], "guest") {
		t.Errorf("URLs %v", c.URLs())
	}
}

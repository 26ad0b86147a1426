package amqp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/diagnosis"
	"github.com/surepost/surepost/inbox"
)

// DiagnoseConfig says what [Diagnose] shall look at. Connection is required.
type DiagnoseConfig struct {
	// Connection says how to reach RabbitMQ. Every node that it names is tried.
	Connection Connection

	// Publisher is how the relay publishes: its exchanges are looked for. Its Connection isn't used.
	Publisher PublisherConfig

	// Consumers are subscriptions whose queues are looked at, the retry and dead-letter queues included. Default none.
	// Their Connection, Types and BindingKeys aren't used, and Handler may be nil.
	Consumers []ConsumerConfig
}

// Diagnose looks at everything about the broker that makes events wait, or would lose them, and returns what it found: what
// is good as well as what isn't, each with its cause and its remedy. It is what `surepost doctor` shows.
//
// It changes nothing: it declares nothing that isn't there, and the one message that it publishes, to see whether the
// broker takes any, goes to the default exchange for a queue that doesn't exist, and comes back. It ends when ctx does, and
// each of its questions within Connection.ConnectTimeout or RPCTimeout; one that can't be answered is a finding. The error
// is of the configuration.
//
// AMQP 0-9-1 doesn't tell everything. Without RabbitMQ's management API nobody can see bindings, policies, other users'
// permissions, unacknowledged messages, a quorum queue's members or the broker's clock. Arguments are compared by declaring
// what is there once more, which takes the configure permission.
func Diagnose(ctx context.Context, config DiagnoseConfig) ([]diagnosis.Finding, error) {
	config, err := config.checked()
	if err != nil {
		return nil, err
	}
	d := &visit{config: config}
	defer d.hangUp(ctx)
	if d.nodes(ctx); d.link != nil {
		d.broker()
		d.alarm(ctx)
		d.exchanges(ctx)
		for _, c := range config.Consumers {
			d.subscription(ctx, c)
		}
	}
	return d.findings, nil
}

// checked fills in the defaults, and reports all that is wrong.
func (c DiagnoseConfig) checked() (DiagnoseConfig, error) {
	c.Connection = c.Connection.withDefaults()
	c.Publisher.Connection = c.Connection
	c.Publisher = c.Publisher.withDefaults()
	errs := c.Publisher.validate()
	_, routing := c.Publisher.Routing.compile()
	errs = append(errs, routing...)
	c.Consumers = slices.Clone(c.Consumers)
	for i := range c.Consumers {
		consumer := &c.Consumers[i]
		consumer.Connection = c.Connection
		if consumer.Handler == nil {
			consumer.Handler = nobody{}
		}
		if len(consumer.Types)+len(consumer.BindingKeys) == 0 {
			consumer.Types = []string{allTypes} // bindings aren't looked at
		}
		*consumer = consumer.withDefaults()
		errs = append(errs, consumer.validate())
	}
	return c, errors.Join(errs...)
}

// nobody stands for a handler that isn't there: nothing is consumed.
type nobody struct{}

func (nobody) Handle(context.Context, surepost.Event) (inbox.Result, error) {
	return inbox.Skipped, nil
}

func (nobody) HandleBatch(context.Context, []surepost.Event) ([]inbox.Result, error) {
	return nil, errors.ErrUnsupported
}

// visit is one visit of the doctor.
type visit struct {
	config   DiagnoseConfig
	link     *link // nil when it is lost, and opened again when it is needed
	findings []diagnosis.Finding
}

func (d *visit) add(code string, severity diagnosis.Severity, subject, cause, remedy string) {
	d.findings = append(d.findings, diagnosis.Finding{Code: code, Severity: severity, Subject: subject, Cause: cause, Remedy: remedy})
}

func (d *visit) good(code, subject, cause string) { d.add(code, diagnosis.Good, subject, cause, "") }

func (d *visit) hangUp(ctx context.Context) {
	if d.link != nil {
		hangUp(ctx, d.link)
		d.link = nil
	}
}

func hangUp(ctx context.Context, l *link) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	_ = l.close(ctx) // nothing is outstanding
}

// connected returns a connection, a new one if the broker has closed the last: it does, over some questions.
func (d *visit) connected(ctx context.Context) (*link, error) {
	if d.link != nil && !d.link.IsClosed() {
		return d.link, nil
	}
	d.hangUp(ctx)
	l, err := dial(ctx, d.config.Connection)
	d.link = l
	return l, err
}

// nodes tries every node, all at once, and keeps one connection.
func (d *visit) nodes(ctx context.Context) {
	urls := d.config.Connection.URLs
	links, errs := make([]*link, len(urls)), make([]error, len(urls))
	var group sync.WaitGroup
	for i := range urls {
		one := d.config.Connection
		one.URLs = urls[i : i+1]
		group.Go(func() { links[i], errs[i] = dial(ctx, one) })
	}
	group.Wait()
	severity := diagnosis.Critical
	for _, l := range links {
		if l == nil {
			continue
		}
		severity = diagnosis.Warning // the others can be reached
		if d.link == nil {
			d.link = l
		} else {
			hangUp(ctx, l)
		}
	}
	for i, err := range errs {
		var failed *ConnectError
		switch {
		case err == nil:
			d.good("broker", nodeName(urls[i]), "it can be connected to")
		case errors.As(err, &failed):
			d.add("broker-unreachable", severity, failed.URL, fmt.Sprintf("%s (%v)", failed.Problem, failed.Err), failed.Remedy)
		default:
			d.add("broker-unreachable", severity, nodeName(urls[i]), err.Error(), "see the cause, and RabbitMQ's log")
		}
	}
}

func nodeName(raw string) string {
	n, err := parseNode(raw)
	if err != nil {
		return "" // not reached: the connection was validated
	}
	return n.redacted
}

// broker looks at what the broker says of itself when a connection is opened.
func (d *visit) broker() {
	d.findings = append(d.findings, judgeBroker(d.link.Properties, d.link.Config.FrameSize)...)
}

// judgeBroker judges a broker by its properties, and by the largest frame that was agreed on (0: without a limit).
func judgeBroker(properties amqp091.Table, frame int) (found []diagnosis.Finding) {
	product, _ := properties["product"].(string)
	version, _ := properties["version"].(string)
	add := func(code string, severity diagnosis.Severity, cause, remedy string) {
		found = append(found, diagnosis.Finding{Code: code, Severity: severity, Subject: product + " " + version, Cause: cause, Remedy: remedy})
	}
	switch v := versionOf(properties); {
	case product != "RabbitMQ":
		add("broker-product", diagnosis.Notice, "it isn't RabbitMQ: what Surepost knows of queue types, limits and dead-lettering is RabbitMQ's",
			"try a failure of each kind before you rely on it")
	case !v.atLeast(3, 10):
		add("broker-version", diagnosis.Warning, "it is older than 3.10: quorum queues can't dead-letter at least once there, so that a retry queue may lose messages",
			"upgrade to RabbitMQ 3.13 or newer, one minor version after the other")
	default:
		add("broker-version", diagnosis.Good, "its behaviour is known", "")
	}
	if frame != 0 && frame < frameBytes {
		add("frame-max", diagnosis.Notice, fmt.Sprintf("its frame_max is %d bytes, and not %d: all headers and properties of a message must fit in one frame, "+
			"or the event is parked", frame, frameBytes), "leave frame_max at its default in rabbitmq.conf, unless headers are small")
	}
	return found
}

// unknown says that a question couldn't be answered.
func (d *visit) unknown(code, subject string, err error) {
	f := diagnosis.Finding{Code: code + "-unknown", Severity: diagnosis.Warning, Subject: subject, Cause: "it couldn't be looked at: " + err.Error(), Remedy: "see the cause, and ask again"}
	var refused *TopologyError
	if errors.As(err, &refused) {
		f.Cause, f.Remedy = "it couldn't be looked at: "+refused.Problem, refused.Remedy
		if refused.Code == amqp091.AccessRefused {
			f.Remedy = "grant the user a permission on it: rabbitmqctl set_permissions -p " + refused.Vhost + " USER CONFIGURE WRITE READ"
		}
	}
	d.findings = append(d.findings, f)
}

package amqp

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost/amqp/amqptest"
	"github.com/surepost/surepost/diagnosis"
)

// subscribed is a consumer's topology on a broker, with somebody who consumes.
func subscribed(t *testing.T, b *amqptest.Broker, c ConsumerConfig) {
	t.Helper()
	l, err := dial(t.Context(), Connection{URLs: []string{b.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hangUp(context.Background(), l) })
	if err := c.withDefaults().ensureTopology(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	ch, err := l.channel(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.Consume(c.Queue, "", true, false, false, false, nil); err != nil {
		t.Fatal(err)
	}
}

func diagnoseBroker(t *testing.T, config DiagnoseConfig) []diagnosis.Finding {
	t.Helper()
	findings, err := Diagnose(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		if f.Code == "" || f.Cause == "" || (f.Remedy == "") != (f.Severity == diagnosis.Good) {
			t.Errorf("a finding lacks something: %+v", f)
		}
	}
	return findings
}

func requireFinding(t *testing.T, findings []diagnosis.Finding, code string, severity diagnosis.Severity, subject string, words ...string) {
	t.Helper()
	i := slices.IndexFunc(findings, func(f diagnosis.Finding) bool { return f.Code == code && strings.Contains(f.Subject, subject) })
	if i < 0 {
		t.Errorf("no finding %s of %q:\n%s", code, subject, listed(findings))
		return
	}
	if findings[i].Severity != severity {
		t.Errorf("%v, want %v: %s", findings[i].Severity, severity, findings[i])
	}
	for _, word := range words {
		if !strings.Contains(findings[i].String(), word) {
			t.Errorf("it doesn't say %q: %s", word, findings[i])
		}
	}
}

func listed(findings []diagnosis.Finding) string {
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}

var billing = ConsumerConfig{Queue: "billing.orders", Types: []string{"OrderCreated"}, RetryDelays: []time.Duration{5 * time.Second}}

func TestAHealthyBrokerHasNoFindingAboveGood(t *testing.T) {
	t.Parallel()
	b := startBroker(t, amqptest.Config{})
	subscribed(t, b, billing)
	findings := diagnoseBroker(t, DiagnoseConfig{Connection: Connection{URLs: []string{b.URL()}}, Consumers: []ConsumerConfig{{Queue: billing.Queue, RetryDelays: billing.RetryDelays}}})
	for _, f := range findings {
		if f.Severity > diagnosis.Good && f.Code != "broker-product" { // this one says that it isn't RabbitMQ
			t.Errorf("a healthy broker: %s", f)
		}
	}
	for _, code := range []string{"broker", "alarm", "exchange", "queue", "dead-letters", "retry-queue"} {
		requireFinding(t, findings, code, diagnosis.Good, "")
	}
	for _, name := range []string{"billing.orders", "billing.orders.dlq", "billing.orders.retry.5s"} {
		if got := b.Messages(name); len(got) > 0 {
			t.Errorf("the doctor has left %d messages in %s", len(got), name)
		}
	}
}

func TestTheDoctorCreatesNothing(t *testing.T) {
	t.Parallel()
	b, err := amqptest.Start(amqptest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	findings := diagnoseBroker(t, DiagnoseConfig{Connection: Connection{URLs: []string{b.URL()}}, Consumers: []ConsumerConfig{billing}})
	requireFinding(t, findings, "exchange-missing", diagnosis.Critical, "exchange events")
	for _, name := range []string{"billing.orders", "billing.orders.dlq", "billing.orders.retry.5s"} {
		requireFinding(t, findings, "queue-missing", diagnosis.Critical, "queue "+name)
		if _, there := b.Queue(name); there {
			t.Errorf("the doctor has created queue %s", name)
		}
	}
	if again := diagnoseBroker(t, DiagnoseConfig{Connection: Connection{URLs: []string{b.URL()}}}); len(again) > 0 {
		requireFinding(t, again, "exchange-missing", diagnosis.Critical, "exchange events")
	}
}

func TestTheDoctorSeesWhatWaitsAndWhatDiffers(t *testing.T) {
	t.Parallel()
	b := startBroker(t, amqptest.Config{})
	administer(t, b, func(ch *amqp091.Channel) error {
		if err := ch.ExchangeDeclare("audit", "fanout", true, false, false, false, nil); err != nil {
			return err
		}
		if _, err := ch.QueueDeclare("billing.orders", true, false, false, false, amqp091.Table{"x-queue-type": "classic", "x-max-length": int64(1000)}); err != nil {
			return err
		}
		_, err := ch.QueueDeclare("billing.orders.dlq", true, false, false, false, deadLetterArgs(QuorumQueue))
		return err
	})
	for _, queue := range []string{"billing.orders", "billing.orders", "billing.orders.dlq"} {
		if _, err := b.Publish(amqptest.Message{RoutingKey: queue, Body: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	config := DiagnoseConfig{Connection: Connection{URLs: []string{b.URL()}},
		Publisher: PublisherConfig{Routing: Routing{Rules: []Rule{{Type: "*", Exchange: "audit"}}}}, Consumers: []ConsumerConfig{{Queue: "billing.orders", Types: []string{"#"}}}}
	findings := diagnoseBroker(t, config)
	requireFinding(t, findings, "exchange", diagnosis.Good, "exchange events")
	requireFinding(t, findings, "exchange-mismatch", diagnosis.Critical, "exchange audit", "asked for topic, there is fanout")
	requireFinding(t, findings, "queue-unconsumed", diagnosis.Critical, "queue billing.orders", "2 messages wait")
	requireFinding(t, findings, "dead-letters", diagnosis.Warning, "queue billing.orders.dlq", "1 messages", "Redrive")
	for _, argument := range []string{"x-queue-type", "x-single-active-consumer", "x-dead-letter-exchange", "x-dead-letter-routing-key", "x-delivery-limit"} {
		if !slices.ContainsFunc(findings, func(f diagnosis.Finding) bool {
			return f.Code == "queue-mismatch" && f.Severity == diagnosis.Critical && strings.Contains(f.Cause, argument)
		}) {
			t.Errorf("%s isn't named:\n%s", argument, listed(findings))
		}
	}
	config.Consumers[0].Mode, config.Publisher.Mode = Verify, Verify
	findings = diagnoseBroker(t, config)
	requireFinding(t, findings, "exchange-mismatch", diagnosis.Warning, "exchange audit")
	for _, f := range findings {
		if loses := strings.Contains(f.Cause, "x-dead-letter"); f.Code == "queue-mismatch" && (f.Severity == diagnosis.Critical) != loses {
			t.Errorf("in mode verify: %s", f)
		}
	}
}

func TestTheDoctorSaysWhyTheBrokerCanNotBeReached(t *testing.T) {
	t.Parallel()
	b := startBroker(t, amqptest.Config{})
	findings := diagnoseBroker(t, DiagnoseConfig{Connection: Connection{URLs: []string{"amqp://guest:guest@127.0.0.1:1/"}}})
	requireFinding(t, findings, "broker-unreachable", diagnosis.Critical, "amqp://guest:xxxxx@127.0.0.1:1/", "nothing listens there", "start RabbitMQ")
	if len(findings) != 1 {
		t.Errorf("more is said of a broker that can't be reached:\n%s", listed(findings))
	}
	findings = diagnoseBroker(t, DiagnoseConfig{Connection: Connection{URLs: []string{"amqp://guest:guest@127.0.0.1:1/", b.URL()}}})
	requireFinding(t, findings, "broker-unreachable", diagnosis.Warning, "127.0.0.1:1")
	requireFinding(t, findings, "exchange", diagnosis.Good, "exchange events")
	wrong := strings.Replace(b.URL(), "guest:guest", "guest:wrong", 1)
	requireFinding(t, diagnoseBroker(t, DiagnoseConfig{Connection: Connection{URLs: []string{wrong}}}), "broker-unreachable", diagnosis.Critical, "", "refused the login")
	if _, err := Diagnose(t.Context(), DiagnoseConfig{Consumers: []ConsumerConfig{{}}}); err == nil || !strings.Contains(err.Error(), "Queue is empty") || !strings.Contains(err.Error(), "no URL") {
		t.Errorf("got %v", err)
	}
}

func TestTheDoctorSeesThatTheBrokerTakesNoMessages(t *testing.T) {
	t.Parallel()
	b := startBroker(t, amqptest.Config{})
	b.Block("low on memory")
	config := DiagnoseConfig{Connection: Connection{URLs: []string{b.URL()}}}
	from := time.Now()
	findings := diagnoseBroker(t, config)
	requireFinding(t, findings, "broker-blocked", diagnosis.Critical, "", "low on memory", "rabbitmq-diagnostics alarms")
	requireFinding(t, findings, "exchange", diagnosis.Good, "exchange events") // the rest was looked at
	if took := time.Since(from); took > alarmPatience {
		t.Errorf("it took %v", took)
	}
	b.Unblock()
	requireFinding(t, diagnoseBroker(t, config), "alarm", diagnosis.Good, "")
}

func TestTheDoctorKnowsBrokersThatDiffer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		product, version string
		frame            int
		code             string
		severity         diagnosis.Severity
	}{
		{"RabbitMQ", "3.9.29", frameBytes, "broker-version", diagnosis.Warning},
		{"RabbitMQ", "3.10.8", 0, "broker-version", diagnosis.Good},
		{"RabbitMQ", "4.3.6", frameBytes, "broker-version", diagnosis.Good},
		{"LavinMQ", "2.0.0", frameBytes, "broker-product", diagnosis.Notice},
		{"RabbitMQ", "4.3.6", 8192, "frame-max", diagnosis.Notice},
	} {
		requireFinding(t, judgeBroker(amqp091.Table{"product": c.product, "version": c.version}, c.frame), c.code, c.severity, c.product+" "+c.version)
	}
	b := startBroker(t, amqptest.Config{FrameMaxBytes: 8192})
	requireFinding(t, diagnoseBroker(t, DiagnoseConfig{Connection: Connection{URLs: []string{b.URL()}}}), "frame-max", diagnosis.Notice, "", "8192 bytes")
}

func TestAnArgumentIsAdoptedAsTheBrokerNamesIt(t *testing.T) {
	for current, want := range map[string]any{
		"none": nil, "quorum": "quorum",
		"the value 'classic' of type 'longstr'": "classic", "the value '5' of type 'long'": int64(5), "the value '7' of type 'signedint'": int64(7),
		"the value 'true' of type 'bool'": true,
	} {
		args := amqp091.Table{"x-a": "before"}
		if !adopt(args, "x-a", current) || args["x-a"] != want {
			t.Errorf("%s: got %v, want %v", current, args["x-a"], want)
		}
	}
	for argument, current := range map[string]string{"durable": "false", "x-a": "the value '[]' of type 'array'"} {
		if adopt(amqp091.Table{}, argument, current) {
			t.Errorf("%s, %s was taken", argument, current)
		}
	}
}

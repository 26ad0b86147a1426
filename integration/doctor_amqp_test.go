package integration

import (
	"context"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/diagnosis"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/inbox"
)

func diagnoseBroker(t *testing.T, config amqp.DiagnoseConfig) []diagnosis.Finding {
	t.Helper()
	findings, err := amqp.Diagnose(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	return findings
}

type accepts struct{}

func (accepts) Handle(context.Context, surepost.Event) (inbox.Result, error) {
	return inbox.Handled, nil
}

// What amqptest was taught of a broker's words is what RabbitMQ says.
func TestTheDoctorKnowsRabbitMQ(t *testing.T) {
	t.Parallel()
	broker := harness.Start(t, harness.RabbitMQ(harness.Private())).RabbitMQ
	connection := amqp.Connection{URLs: []string{broker.URL()}}
	subscription := amqp.ConsumerConfig{Connection: connection, Handler: accepts{}, Queue: "billing.orders", Types: []string{"OrderCreated"}, RetryDelays: []time.Duration{5 * time.Second}}
	config := amqp.DiagnoseConfig{Connection: connection, Consumers: []amqp.ConsumerConfig{subscription}}

	findings := diagnoseBroker(t, config)
	requireFinding(t, findings, "exchange-missing", diagnosis.Critical, "exchange events")
	requireFinding(t, findings, "queue-missing", diagnosis.Critical, "queue billing.orders")
	requireFinding(t, findings, "queue-missing", diagnosis.Critical, "queue billing.orders.dlq")

	consuming := make(chan struct{})
	subscription.Hooks.OnConnect = func() { close(consuming) }
	consumer, err := amqp.NewConsumer(subscription)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- consumer.Run(ctx) }()
	<-consuming
	findings = diagnoseBroker(t, config)
	if diagnosis.Worst(findings) > diagnosis.Good {
		t.Errorf("a healthy broker:\n%s", list(findings))
	}
	t.Log(list(findings))

	broker.Block(t)
	findings = diagnoseBroker(t, config)
	blocked := found(findings, "broker-blocked")
	if len(blocked) != 1 || blocked[0].Severity != diagnosis.Critical || !strings.Contains(blocked[0].Cause, "low on memory") {
		t.Errorf("during an alarm:\n%s", list(findings))
	}
	requireFinding(t, findings, "queue", diagnosis.Good, "queue billing.orders")
	broker.Unblock(t)
	requireNone(t, diagnoseBroker(t, config), "broker-blocked")
	cancel()
	<-ended

	conn, err := amqp091.Dial(broker.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.QueueDeclare("classic", true, false, false, false, amqp091.Table{"x-queue-type": "classic"}); err != nil {
		t.Fatal(err)
	}
	if err := ch.Confirm(false); err != nil {
		t.Fatal(err)
	}
	for _, queue := range []string{"classic", "billing.orders.dlq"} {
		confirm, err := ch.PublishWithDeferredConfirm("", queue, true, false, amqp091.Publishing{})
		if err != nil {
			t.Fatal(err)
		}
		confirm.Wait()
	}
	config.Consumers = append(config.Consumers, amqp.ConsumerConfig{Queue: "classic", DeadLetterQueue: "billing.orders.dlq"})
	findings = diagnoseBroker(t, config)
	requireFinding(t, findings, "queue-unconsumed", diagnosis.Notice, "queue billing.orders")
	requireFinding(t, findings, "queue-unconsumed", diagnosis.Critical, "queue classic", "1 messages wait")
	requireFinding(t, findings, "dead-letters", diagnosis.Warning, "queue billing.orders.dlq")
	for _, argument := range []string{"x-queue-type", "x-single-active-consumer", "x-dead-letter-exchange", "x-dead-letter-routing-key"} { // a classic queue has no limit to compare
		if !slices.ContainsFunc(found(findings, "queue-mismatch"), func(f diagnosis.Finding) bool {
			return f.Subject == "queue classic" && strings.Contains(f.Cause, argument)
		}) {
			t.Errorf("%s isn't named:\n%s", argument, list(findings))
		}
	}

	u, err := url.Parse(broker.URL())
	if err != nil {
		t.Fatal(err)
	}
	user := u.User.Username()
	u.User = url.UserPassword(user, "wrong")
	refused := found(diagnoseBroker(t, amqp.DiagnoseConfig{Connection: amqp.Connection{URLs: []string{u.String()}}}), "broker-unreachable")
	if len(refused) != 1 || refused[0].Severity != diagnosis.Critical || !strings.Contains(refused[0].Cause, "refused the login") {
		t.Errorf("with a wrong password:\n%s", list(refused))
	}
}

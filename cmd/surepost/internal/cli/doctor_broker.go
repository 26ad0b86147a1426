package cli

import (
	"log/slog"

	"github.com/surepost/surepost/amqp"
	"github.com/surepost/surepost/cmd/surepost/internal/connect"
	"github.com/surepost/surepost/diagnosis"
)

// examineBroker looks at the broker, if one is configured.
func (s *session) examineBroker(db *opened, queues []string) ([]diagnosis.Finding, error) {
	c := db.config
	if !c.IsSet("broker.urls") && !c.IsSet("broker.urlsFile") {
		return []diagnosis.Finding{{Code: "broker-not-configured", Severity: diagnosis.Notice, Subject: "broker",
			Cause: "broker.urls isn't set, so that only the database was looked at", Remedy: "set broker.urls to have RabbitMQ examined too"}}, nil
	}
	publisher, err := connect.PublisherConfig(c, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	asked := amqp.DiagnoseConfig{Connection: publisher.Connection, Publisher: publisher}
	for _, q := range queues {
		asked.Consumers = append(asked.Consumers, amqp.ConsumerConfig{Queue: q})
	}
	return amqp.Diagnose(s.ctx, asked)
}

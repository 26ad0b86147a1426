package cli

import (
	"context"

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
	ctx, cancel := context.WithTimeout(s.ctx, checkTimeout)
	defer cancel()
	finding := diagnosis.Finding{Code: "broker-reachable", Subject: "broker", Cause: "it can be published to"}
	session, err := connect.NewPublisher(c, s.logger(c), connect.Target{}).Open(ctx)
	if err != nil {
		finding.Severity, finding.Cause, finding.Remedy = diagnosis.Critical, err.Error(), "see the cause, which says what to do"
		return []diagnosis.Finding{finding}, nil
	}
	_ = session.Close(ctx) // nothing is outstanding
	return []diagnosis.Finding{finding}, nil
}

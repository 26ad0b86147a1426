package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/surepost/surepost/cmd/surepost/internal/config"
	"github.com/surepost/surepost/cmd/surepost/internal/connect"
	"github.com/surepost/surepost/diagnosis"
)

type canDiagnose interface {
	Diagnose(ctx context.Context, limits diagnosis.Limits) ([]diagnosis.Finding, error)
}

type doctorCommand struct {
	All               bool          `help:"Show what is good, too. JSON always has it."`
	Queue             []string      `help:"Look at this subscription's queue, and its retry and dead-letter queues; may be repeated." placeholder:"NAME"`
	TransactionAge    time.Duration `help:"How long a transaction may be open before it is named." default:"1m"`
	Behind            time.Duration `help:"How old the oldest unpublished event may be." default:"30s"`
	ClockSkew         time.Duration `help:"How far this machine's clock and the database's may be apart." default:"2s"`
	As                string        `help:"The role whose privileges the user must have: reader, relay, operator, producer or consumer. Default: what it looks like." placeholder:"ROLE"`
	DedupeWindow      time.Duration `help:"For how long the consumers' inbox remembers what was handled." placeholder:"DURATION"`
	RedeliveryHorizon time.Duration `help:"The longest time after which a message can come again." placeholder:"DURATION"`
}

func (cmd doctorCommand) Run(s *session) error {
	limits := diagnosis.Limits{
		TransactionAge: cmd.TransactionAge, Behind: cmd.Behind, ClockSkew: cmd.ClockSkew,
		DedupeWindow: cmd.DedupeWindow, RedeliveryHorizon: cmd.RedeliveryHorizon, Role: diagnosis.Role(cmd.As),
	}
	if err := limits.Validate(); err != nil {
		return &fault{what: err.Error(), code: exitUsage}
	}
	db, err := s.open(connect.Needs{Database: true}, false)
	if err != nil {
		return err
	}
	defer db.Close()
	complete(&limits, db.config)
	var findings []diagnosis.Finding
	if store, ok := db.Store.(canDiagnose); ok {
		if findings, err = store.Diagnose(s.ctx, limits); err != nil {
			return err
		}
	} else {
		findings = checked(s.ctx, db)
	}
	broker, err := s.examineBroker(db, cmd.Queue)
	if err != nil {
		return err
	}
	findings = append(findings, broker...)
	diagnosis.Sort(findings)
	for i := range findings {
		findings[i].Cause, findings[i].Remedy = s.inKeys(findings[i].Cause), s.inKeys(findings[i].Remedy)
	}
	if err := s.printFindings(findings, cmd.All); err != nil {
		return err
	}
	switch diagnosis.Worst(findings) {
	case diagnosis.Warning:
		return quiet(exitWarning)
	case diagnosis.Critical:
		return quiet(exitCritical)
	}
	return nil
}

// complete takes from the configuration what no flag has said.
func complete(l *diagnosis.Limits, c *config.Config) {
	if !c.Relay.KeepForever {
		l.Retention = c.Relay.Retention
	}
	told := false // of the inbox; by default nobody knows what consumers keep
	for _, key := range []string{"inbox.window", "inbox.redelivery", "inbox.queued", "inbox.redrive", "inbox.replay", "inbox.prune"} {
		told = told || c.IsSet(key)
	}
	if told && l.DedupeWindow == 0 && l.RedeliveryHorizon == 0 {
		l.DedupeWindow, l.RedeliveryHorizon = c.Inbox.Window, connect.InboxRetention(c, nil).Horizon()
	}
}

// checked is what is found out about a store that has no Diagnose.
func checked(ctx context.Context, db *opened) []diagnosis.Finding {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	finding := diagnosis.Finding{Code: "store-check", Subject: string(db.Kind), Cause: "it has what a relay needs"}
	if err := db.Store.Check(ctx); err != nil {
		finding.Severity, finding.Cause, finding.Remedy = diagnosis.Critical, err.Error(), "see the cause, which says what to do"
	}
	return []diagnosis.Finding{finding}
}

func (s *session) printFindings(findings []diagnosis.Finding, all bool) error {
	if s.grammar.JSON {
		for _, f := range findings {
			if err := printJSON(s.Out, FindingView{f.Code, f.Severity.String(), f.Subject, f.Cause, f.Remedy}); err != nil {
				return err
			}
		}
		return nil
	}
	good := 0
	for _, f := range findings {
		if f.Severity == diagnosis.Good && !all {
			good++
			continue
		}
		s.showFinding(s.Out, f)
	}
	if good > 0 {
		fmt.Fprintf(s.Out, "%s good; --all shows them.\n", plural(good, "check"))
	}
	return nil
}

func (s *session) showFinding(w io.Writer, f diagnosis.Finding) {
	label := strings.ToUpper(f.Severity.String())
	if s.colour() {
		paint := map[diagnosis.Severity]string{diagnosis.Good: green, diagnosis.Notice: bold, diagnosis.Warning: amber, diagnosis.Critical: red}
		label = paint[f.Severity] + label + plain
	}
	fmt.Fprintf(w, "%s %s %s\n  %s\n", label, f.Code, printable(f.Subject), printable(f.Cause))
	if f.Remedy != "" {
		fmt.Fprintf(w, "  → %s\n", printable(f.Remedy))
	}
}

package postgres

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/surepost/surepost/diagnosis"
)

// Diagnose looks at the database as an operator would who knows all of this package, and returns what it found: what is good
// as well as what isn't, with the cause and the remedy, in the order of the checks.
//
// It is safe while everything is on fire: it only reads, on one connection (and a second one for a moment, where the driver's
// way of preparing statements has to be tried through a pooler), waits for no lock longer than lockPatience and for no
// statement longer than statementPatience, and returns at most a few findings a check. A check that can't run is a finding
// and keeps no other from running. The error is of the limits, or ErrNoPool.
func (e *Engine) Diagnose(ctx context.Context, limits diagnosis.Limits) ([]diagnosis.Finding, error) {
	if err := limits.Validate(); err != nil {
		return nil, err
	}
	if e.dialer == nil {
		return nil, ErrNoPool
	}
	p := &practice{engine: e, limits: limits.WithDefaults(), named: map[int64]bool{}}
	defer p.hangUp(ctx)
	p.diagnose(ctx)
	return p.findings, nil
}

const (
	lockPatience      = 500 * time.Millisecond
	statementPatience = 5 * time.Second
	checkPatience     = 15 * time.Second // for all of a check's statements, and its connection
	// mostFindings is how many findings of one kind are shown; the rest is counted.
	mostFindings = 5
	queryShown   = 120 // characters
)

// practice is one visit of the doctor.
type practice struct {
	engine   *Engine
	limits   diagnosis.Limits
	conn     Conn
	findings []diagnosis.Finding
	gone     bool           // the database can't be reached: nothing else can be looked at
	bare     bool           // the tables aren't there: what needs them isn't looked at
	hidden   bool           // ages and queries of other users' backends can't be seen
	named    map[int64]bool // backends that a finding is about
}

// check is one thing to look at.
type check struct {
	code string
	good string // what is said if it finds nothing
	run  func(ctx context.Context, q Querier) ([]diagnosis.Finding, error)
	// tables: it needs Surepost's tables.
	tables bool
	// outside: it is no transaction, because it looks at the connection itself.
	outside bool
}

func (p *practice) diagnose(ctx context.Context) {
	for _, c := range []check{
		{code: "database", good: "the primary answers, and lets this user write", run: p.checkPrimary},
		{code: "pooler", good: "statements reach the server that they were prepared on", run: p.checkConnection, outside: true},
		{code: "clock", good: "this machine's clock agrees with the database's", run: p.checkClock, outside: true},
		{code: "durability", good: "a commit that was confirmed is on disk", run: p.checkDurability},
		{code: "activity", good: "ages and statements of all backends can be seen", run: p.checkActivityShown},
		{code: "migrations", good: "the tables are of this version", run: p.checkMigrations},
		{code: "locks", good: "nobody locks the tables", run: p.checkLocks},
		{code: "transactions", good: "no transaction holds back events or the log's retention", run: p.checkTransactions},
		{code: "prepared-transactions", good: "no prepared transaction was left open", run: p.checkPrepared},
		{code: "xmin", good: "nothing holds back the removal of dead rows", run: p.checkXmin},
		{code: "tables", good: "the log is durable, whole and indexed", run: p.checkTablesSound, tables: true},
		{code: "sequence", good: "numbers are drawn one by one, above all that are in use", run: p.checkSequence, tables: true},
		{code: "privileges", good: "this user may do what a relay does", run: p.checkPrivileges, tables: true},
		{code: "lanes", good: "every lane has a relay and is up to date", run: p.checkLanes, tables: true},
		{code: "parked", good: "no event is parked", run: p.checkParked, tables: true},
		{code: "inbox", good: "its consumers are active, and it forgets in time", run: p.checkInbox, tables: true},
		{code: "dedupe-window", good: "the inbox remembers for longer than messages can come again", run: p.checkWindow},
	} {
		if p.gone || p.bare && c.tables || ctx.Err() != nil {
			continue
		}
		p.look(ctx, c)
	}
	if err := ctx.Err(); err != nil {
		p.findings = append(p.findings, diagnosis.Finding{
			Code: "interrupted", Severity: diagnosis.Warning, Cause: "the time was up before everything was looked at: " + context.Cause(ctx).Error(),
			Remedy: "give it a minute",
		})
	}
}

// look runs one check, and makes its failure a finding.
func (p *practice) look(ctx context.Context, c check) {
	ctx, cancel := context.WithTimeoutCause(ctx, checkPatience, fmt.Errorf("no answer within %v", checkPatience))
	defer cancel()
	found, err := p.ask(ctx, c)
	if err != nil {
		p.hangUp(ctx) // it may be in any state
		found = append(found, p.failed(ctx, c, err))
	}
	if len(found) == 0 && c.good != "" {
		found = []diagnosis.Finding{{Code: c.code, Cause: c.good}}
	}
	p.findings = append(p.findings, found...)
}

func (p *practice) ask(ctx context.Context, c check) (found []diagnosis.Finding, err error) {
	if p.conn == nil {
		if p.conn, err = p.engine.Dial(ctx); err != nil {
			p.gone = true
			return nil, err
		}
	}
	if c.outside {
		return c.run(ctx, p.conn)
	}
	err = p.conn.Transact(ctx, func(q Querier) error {
		if err := patient(ctx, q); err != nil {
			return err
		}
		found, err = c.run(ctx, q)
		return err
	})
	return found, err
}

// patient makes the transaction read-only and its statements give up early. The settings end with the transaction, so a
// pooler in transaction mode doesn't matter.
func patient(ctx context.Context, q Querier) error {
	_, err := queryRow(ctx, q, `SELECT set_config('transaction_read_only', 'on', true), set_config('jit', 'off', true), set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true)`,
		[]any{fmt.Sprint(lockPatience.Milliseconds()), fmt.Sprint(statementPatience.Milliseconds())}, new(string), new(string), new(string), new(string))
	return err
}

func (p *practice) hangUp(ctx context.Context) {
	if p.conn != nil {
		_ = p.conn.Close(context.WithoutCancel(ctx))
		p.conn = nil
	}
}

var permissionDenied = regexp.MustCompile(`permission denied for (?:table|relation|sequence|schema|view|function) (\S+)`)

// failed says why a check couldn't run, and what to do about it.
func (p *practice) failed(ctx context.Context, c check, err error) diagnosis.Finding {
	f := diagnosis.Finding{Code: c.code + "-unknown", Severity: diagnosis.Warning, Cause: "it couldn't be looked at: " + err.Error()}
	if p.gone {
		f.Code, f.Severity, f.Cause = "database-unreachable", diagnosis.Critical, err.Error()
	}
	state := sqlState(err)
	switch {
	case state == "42501": // insufficient_privilege
		f.Remedy = "grant what is missing to the user that asks: README, Privileges"
		if m := permissionDenied.FindStringSubmatch(err.Error()); m != nil {
			f.Remedy = "as the tables' owner: GRANT SELECT ON " + m[1] + " TO the user that asks"
		}
	case state == "55P03", state == "57014": // lock_not_available, query_canceled
		f.Remedy = "somebody locks what it reads, or the server is very busy: see the findings about locks, and ask again"
	case p.engine.tlsHint(err) != "":
		f.Remedy = p.engine.tlsHint(err)
	case p.engine.hint(state) != "":
		f.Remedy = p.engine.hint(state)
	case p.gone:
		f.Remedy = "start the database, or correct the URL"
	case ctx.Err() != nil:
		f.Remedy = "the server is very busy, or the connection hangs: ask again"
	default:
		f.Remedy = "see the error, and the server's log"
	}
	return f
}

// fewer returns the first findings, and one that counts the rest.
func fewer(findings []diagnosis.Finding) []diagnosis.Finding {
	if len(findings) <= mostFindings {
		return findings
	}
	rest := len(findings) - mostFindings
	more := findings[mostFindings]
	more.Subject, more.Cause = "", fmt.Sprintf("and %d more of the kind", rest)
	more.Remedy = "mend those above, and ask again"
	return append(findings[:mostFindings:mostFindings], more)
}

// shortQuery shows a statement on one line, and not all of it.
func shortQuery(query string) string {
	query = strings.Join(strings.Fields(query), " ")
	if r := []rune(query); len(r) > queryShown {
		return string(r[:queryShown]) + "…"
	}
	return query
}

// duration makes one of what the server tells as a number of seconds.
func duration(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// short rounds a duration to what an operator reads.
func short(d time.Duration) time.Duration {
	if d.Abs() < time.Minute {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Second)
}

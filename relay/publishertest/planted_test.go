package publishertest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/surepost/surepost/internal/testspy"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/relay/relaytest"
)

// planted are bugs of publishers, and the test that must find each.
var planted = map[string]string{
	"":                                  ".*", // the control: it passes
	"outcomes out of order":             "outcomes come in the order of sending, one for each event",
	"an outcome told twice":             "outcomes come in the order of sending, one for each event",
	"another event is sent":             "what is confirmed has arrived",
	"an outcome of its own making":      "what is confirmed has arrived",
	"Err set from the beginning":        "outcomes come in the order of sending, one for each event",
	"Send waits for the receiver":       "Send waits for nobody who receives outcomes",
	"a small window":                    "Send takes a window of events without an outcome",
	"rejected passes for confirmed":     "a rejected event leaves the session as it is",
	"a rejection ends the session":      "a rejected event leaves the session as it is",
	"unroutable passes for confirmed":   "an unroutable event isn't confirmed",
	"refused passes for rejected":       "a refused event leaves the session as it is",
	"no reason":                         "a refused event leaves the session as it is",
	"confirms before what came earlier": "outcomes of every kind keep their order",
	"outcomes lost at Close":            "Close waits for outcomes, which can be received after it",
	"Err nil after the end":             "Close waits for outcomes, which can be received after it",
	"Outcomes stay open":                "Close waits for outcomes, which can be received after it",
	"Send succeeds after the end":       "Close waits for outcomes, which can be received after it",
	"Close doesn't wait":                "Close waits for outcomes that come late",
	"Close hangs":                       "Close gives up when its context ends",
	"Close gives up in silence":         "Close gives up when its context ends",
	"Close hangs with the broker":       "Close returns soon whatever the broker does",
	"Close once":                        "Close may be called again, and after the end",
	"every end is a refusal":            "a lost connection ends the session",
	"a lost connection goes unnoticed":  "a lost connection ends the session",
	"unknown is confirmed":              "a lost connection leaves outcomes unknown",
	"a refusal is like any end":         "a session that was killed over an event says so",
	"every refusal blames the event":    "a session that was killed over an event says so",
	"no refusal blames the event":       "a session that was killed over a bad event blames it",
	"the culprit has an outcome":        "a session that was killed over a bad event blames it",
	"blocked from the beginning":        "Blocked tells when the broker wants nothing",
	"blocked without a word":            "Blocked tells when the broker wants nothing",
	"blocked for ever":                  "Blocked tells when the broker wants nothing",
	"changed is always closed":          "Blocked tells when the broker wants nothing",
	"one session for all":               "Open may be called by several goroutines",
	"a session takes others along":      "the end of a session leaves others alone",
	"Open hides that it failed":         "Open fails while the broker is away",
	"Open succeeds when cancelled":      "Open gives up when its context has ended",
	"Open ignores its context":          "Open gives up when its context ends",
}

// Each bug is planted in a process of its own, since a test that is to fail can't be run in this one.
func TestEveryPlantedBugIsFound(t *testing.T) {
	const variable = "SUREPOST_PLANTED_BUG"
	if bug, child := os.LookupEnv(variable); child {
		limit, soon = 2*time.Second, time.Second // nothing has to travel
		Run(t, func(*testing.T) *Broker {
			return memory(relaytest.NewPublisher(), func(p relay.Publisher) relay.Publisher { return &buggy{Publisher: p, bug: bug} })
		})
		return
	}
	found := map[string]bool{}
	for bug, by := range planted {
		found[by] = true
		t.Run(bug, func(t *testing.T) {
			t.Parallel()
			name := strings.ReplaceAll(by, " ", "_")
			cmd := exec.Command(os.Args[0], "-test.run=^TestEveryPlantedBugIsFound$/^"+name+"$", "-test.v")
			cmd.Env = append(os.Environ(), variable+"="+bug)
			output, err := cmd.CombinedOutput()
			switch {
			case bug == "":
				if err != nil {
					t.Errorf("the suite finds a bug where none is: %v\n%s", err, output)
				}
			case err == nil:
				t.Errorf("%q doesn't find it", by)
			case !regexp.MustCompile(`(?m)^\s+--- FAIL: TestEveryPlantedBugIsFound/` + regexp.QuoteMeta(name) + ` `).Match(output):
				t.Errorf("the process failed in another way: %v\n%s", err, output)
			}
		})
	}
	if bug, child := os.LookupEnv(variable); !child && bug == "" {
		for _, c := range demands {
			if !found[c.demands] {
				t.Errorf("no bug is planted for %q to find", c.demands)
			}
		}
	}
}

func TestWhatABrokerCannotDoIsSaid(t *testing.T) {
	p := relaytest.NewPublisher()
	b := memory(p, nil)
	b.Refuse, b.Start, b.Cannot = nil, nil, []Ability{Refuse}
	r := testspy.Run(t, func(t testing.TB) { b.check(t) })
	if !r.Failed || !strings.Contains(r.Text, "Broker.Stop is nil: set it, or list publishertest.Stop in Broker.Cannot") || strings.Contains(r.Text, "Refuse") {
		t.Errorf("%+v", r)
	}
	if r := testspy.Run(t, func(t testing.TB) { (&Broker{}).check(t) }); !strings.Contains(r.Text, "needs Publisher, Published and Drop") {
		t.Errorf("%+v", r)
	}
}

// buggy is a publisher with a bug.
type buggy struct {
	relay.Publisher
	bug string

	mu  sync.Mutex
	one relay.Session
	all []relay.Session
}

func (p *buggy) Open(ctx context.Context) (relay.Session, error) {
	switch p.bug {
	case "Open ignores its context":
		ctx = context.WithoutCancel(ctx)
	case "Open succeeds when cancelled":
		return &buggySession{Session: nil}, nil
	}
	inner, err := p.Publisher.Open(ctx)
	if p.bug == "Open hides that it failed" && err != nil {
		return &buggySession{}, nil
	}
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, inner)
	if p.bug == "one session for all" {
		if p.one == nil {
			p.one = inner
		}
		inner = p.one
	}
	s := &buggySession{Session: inner, publisher: p, bug: p.bug, out: make(chan []relay.Outcome), stop: make(chan struct{}), received: make(chan struct{}, 1)}
	go s.pump()
	return s, nil
}

// buggySession passes on another session's outcomes.
type buggySession struct {
	relay.Session
	publisher *buggy
	bug       string
	out       chan []relay.Outcome
	received  chan struct{} // somebody received an outcome

	mu     sync.Mutex
	tags   []uint64 // without an outcome
	sent   int
	closed int
	stop   chan struct{}
	ended  bool
}

func (s *buggySession) Outcomes() <-chan []relay.Outcome { return s.out }

// pump passes outcomes on, one at a time, and never keeps the session waiting.
func (s *buggySession) pump() {
	var queue []relay.Outcome
	inner := s.Session.Outcomes()
	for inner != nil || len(queue) > 0 {
		var out chan []relay.Outcome
		var first []relay.Outcome
		hold := s.bug == "outcomes out of order" && len(queue) == 1 && inner != nil
		if len(queue) > 0 && !hold {
			out, first = s.out, queue[:1:1]
		}
		select {
		case batch, ok := <-inner:
			if !ok {
				inner = nil
				queue = append(queue, s.atTheEnd()...)
				continue
			}
			for _, o := range batch {
				queue = s.enqueue(queue, o)
			}
		case out <- first:
			queue = queue[1:]
			select {
			case s.received <- struct{}{}:
			default:
			}
		case <-s.stop:
			queue, s.stop = nil, nil
		}
	}
	if s.bug != "Outcomes stay open" && s.bug != "a lost connection goes unnoticed" {
		s.mu.Lock()
		s.ended = true
		s.mu.Unlock()
		close(s.out)
	}
}

// enqueue adds an outcome, or what the bug makes of it.
func (s *buggySession) enqueue(queue []relay.Outcome, o relay.Outcome) []relay.Outcome {
	s.mu.Lock()
	if len(s.tags) > 0 && s.tags[0] == o.Tag {
		s.tags = s.tags[1:]
	}
	s.mu.Unlock()
	confirmed := func(bug string, status relay.Status) {
		if s.bug == bug && o.Status == status {
			o.Status, o.Reason = relay.Confirmed, ""
		}
	}
	confirmed("rejected passes for confirmed", relay.Rejected)
	confirmed("unroutable passes for confirmed", relay.Unroutable)
	switch {
	case s.bug == "refused passes for rejected" && o.Status == relay.Refused:
		o.Status = relay.Rejected
	case s.bug == "no reason":
		o.Reason = ""
	case s.bug == "an outcome told twice":
		return append(queue, o, o)
	case s.bug == "outcomes out of order" && len(queue) == 1:
		return []relay.Outcome{o, queue[0]}
	case s.bug == "confirms before what came earlier" && o.Status == relay.Confirmed && len(queue) > 0:
		return append([]relay.Outcome{o}, queue...)
	case s.bug == "a rejection ends the session" && o.Status == relay.Rejected:
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Session.Close(ctx)
	}
	return append(queue, o)
}

// atTheEnd returns outcomes that the bug makes up.
func (s *buggySession) atTheEnd() (made []relay.Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	culprit := s.bug == "the culprit has an outcome" && errors.Is(s.Session.Err(), relay.ErrRefused)
	if s.bug == "unknown is confirmed" || culprit {
		for _, tag := range s.tags {
			made = append(made, relay.Outcome{Tag: tag, Status: relay.Confirmed})
		}
	}
	return made
}

func (s *buggySession) Send(ctx context.Context, tag uint64, entry *relay.Entry) error {
	s.mu.Lock()
	s.sent++
	s.tags = append(s.tags, tag)
	sent, open, ended := s.sent, len(s.tags), s.ended
	s.mu.Unlock()
	switch {
	case s.bug == "another event is sent":
		other := *entry
		other.Event.ID += " or so"
		entry = &other
	case s.bug == "an outcome of its own making" && sent%5 == 0:
		go func() { s.out <- []relay.Outcome{{Tag: tag, Status: relay.Confirmed}} }()
		return nil
	case s.bug == "Send waits for the receiver" && sent > 1:
		select {
		case <-s.received:
		case <-ctx.Done():
			return ctx.Err()
		}
	case s.bug == "a small window" && open > 16:
		<-ctx.Done()
		return ctx.Err()
	case s.bug == "Send succeeds after the end" && ended:
		return nil
	}
	return s.Session.Send(ctx, tag, entry)
}

func (s *buggySession) Blocked() (bool, string, <-chan struct{}) {
	is, reason, changed := s.Session.Blocked()
	switch s.bug {
	case "blocked from the beginning":
		return true, "so it is", changed
	case "blocked without a word":
		return is, reason, nil
	case "blocked for ever":
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.closed = max(s.closed, map[bool]int{true: 1}[is]); s.closed > 0 {
			return true, "memory", changed
		}
	case "changed is always closed":
		always := make(chan struct{})
		close(always)
		return is, reason, always
	}
	return is, reason, changed
}

func (s *buggySession) Err() error {
	err := s.Session.Err()
	switch {
	case s.bug == "Err set from the beginning" && err == nil:
		return errors.New("so far all went well")
	case err == nil || s.bug == "Err nil after the end":
		return nil
	case s.bug == "every end is a refusal":
		return errors.Join(err, relay.ErrRefused)
	case s.bug == "a refusal is like any end":
		return errors.New(err.Error())
	case s.bug == "every refusal blames the event" && errors.Is(err, relay.ErrRefused):
		return errors.Join(err, relay.ErrUnpublishable)
	case s.bug == "no refusal blames the event" && errors.Is(err, relay.ErrRefused):
		return relay.ErrRefused
	}
	return err
}

func (s *buggySession) Close(ctx context.Context) error {
	if s.Session == nil { // Open's bugs
		return nil
	}
	s.mu.Lock()
	s.closed++
	again := s.closed > 1
	s.mu.Unlock()
	switch s.bug {
	case "outcomes lost at Close":
		err := s.Session.Close(ctx)
		close(s.stop)
		return err
	case "Close doesn't wait":
		ended, cancel := context.WithCancel(ctx)
		cancel()
		_ = s.Session.Close(ended)
		return nil
	case "Close hangs", "Close hangs with the broker":
		return s.Session.Close(context.WithoutCancel(ctx))
	case "Close gives up in silence":
		_ = s.Session.Close(ctx)
		return nil
	case "Close once":
		if again {
			return errors.New("closed already")
		}
	case "a session takes others along":
		err := s.Session.Close(ctx)
		s.publisher.mu.Lock()
		defer s.publisher.mu.Unlock()
		for _, other := range s.publisher.all {
			_ = other.Close(ctx)
		}
		return err
	}
	return s.Session.Close(ctx)
}

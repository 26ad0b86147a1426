package amqp

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/surepost/surepost"
)

// Routing says to which exchange, and under which routing key, an event is published. The zero value publishes
// everything to the exchange "events" under "{source}.{type}": "order-service.OrderCreated".
type Routing struct {
	// Exchange takes the events that no rule sends elsewhere. Default "events".
	Exchange string
	// Key is the template of the routing key: text with the placeholders {source}, {type}, {category}, {key} and
	// {version}, which stand for the event's fields. An empty field leaves nothing. Default "{source}.{type}". A key
	// that comes out longer than 255 bytes, the most that AMQP carries, makes the event refused: it is parked.
	Key string
	// Rules are tried in order; the first that matches decides.
	Rules []Rule

	// Queue, if set, takes every event, past all exchanges: for a replay to one consumer, beside whom nobody else is to
	// see its events again. The queue must be there, or the events are unroutable. It goes with none of the other
	// fields. Default: none.
	Queue string
}

// Rule sends the events that match all of its patterns to an exchange of their own, or under a key of their own.
//
// In a pattern * stands for any text, dots and slashes included, and ? for any one character; the rest stands for
// itself, in the same case. The whole field must match. An empty pattern matches everything.
type Rule struct {
	Type     string // "Order*"
	Source   string // "*-service"
	Category string // "integration"

	Exchange string // default: Routing.Exchange
	Key      string // default: Routing.Key
}

const (
	defaultExchange = "events"
	defaultKey      = "{source}.{type}"
)

// router is a Routing made ready for use. It is safe for concurrent use.
type router struct {
	rules  []route
	others route
}

type route struct {
	typ, source, category string // patterns
	exchange              string
	key                   template
}

// compile checks a routing and returns every problem at once.
func (r Routing) compile() (*router, []error) {
	if r.Queue != "" {
		return r.toQueue()
	}
	var errs []error
	if r.Exchange == "" {
		r.Exchange = defaultExchange
	}
	if r.Key == "" {
		r.Key = defaultKey
	}
	compile := func(where, exchange, key string) route {
		if len(exchange) > maxShortString {
			errs = append(errs, fmt.Errorf("amqp: %sExchange is %d bytes long, the limit is %d: shorten it",
				where, len(exchange), maxShortString))
		}
		t, err := parseTemplate(key)
		if err != nil {
			errs = append(errs, fmt.Errorf("amqp: %sKey %q: %w", where, key, err))
		}
		return route{exchange: exchange, key: t}
	}
	compiled := &router{others: compile("Routing.", r.Exchange, r.Key)}
	for i, rule := range r.Rules {
		where := fmt.Sprintf("Routing.Rules[%d].", i)
		if rule.Exchange == "" && rule.Key == "" {
			errs = append(errs, fmt.Errorf("amqp: %sExchange and Key are both empty, so that the rule changes nothing: "+
				"set one, or remove the rule", where))
			continue
		}
		to := compiled.others
		if rule.Exchange != "" {
			to.exchange = compile(where, rule.Exchange, defaultKey).exchange
		}
		if rule.Key != "" {
			to.key = compile(where, to.exchange, rule.Key).key
		}
		to.typ, to.source, to.category = rule.Type, rule.Source, rule.Category
		compiled.rules = append(compiled.rules, to)
	}
	return compiled, errs
}

// toQueue returns a router to a queue: through the default exchange, to which every queue is bound by its name (AMQP 0-9-1
// §3.1.3.1).
func (r Routing) toQueue() (*router, []error) {
	var errs []error
	if r.Exchange != "" || r.Key != "" || len(r.Rules) > 0 {
		errs = append(errs, fmt.Errorf("amqp: Routing.Queue is %q, and Exchange, Key or Rules are set too: "+
			"leave them out, or leave out Queue", r.Queue))
	}
	if len(r.Queue) > maxShortString {
		errs = append(errs, fmt.Errorf("amqp: Routing.Queue is %d bytes long, the limit is %d: no queue has such a name",
			len(r.Queue), maxShortString))
	}
	return &router{others: route{key: template{{text: r.Queue}}}}, errs
}

// exchanges returns the names of all exchanges that events may be published to, each once, in the order of the
// routing. The default exchange is always there and can't be declared.
func (r *router) exchanges() []string {
	if r.others.exchange == "" {
		return nil
	}
	names := []string{r.others.exchange}
	for _, rule := range r.rules {
		if !slices.Contains(names, rule.exchange) {
			names = append(names, rule.exchange)
		}
	}
	return names
}

// route returns where an event goes. The key may be longer than AMQP carries.
func (r *router) route(e *surepost.Event) (exchange, key string) {
	to := &r.others
	for i := range r.rules {
		if r.rules[i].matches(e) {
			to = &r.rules[i]
			break
		}
	}
	return to.exchange, to.key.expand(e)
}

func (r *route) matches(e *surepost.Event) bool {
	return (r.typ == "" || glob(r.typ, e.Type)) &&
		(r.source == "" || glob(r.source, e.Source)) &&
		(r.category == "" || glob(r.category, string(e.Category)))
}

// template is a routing key in parts.
type template []part

// part is a text, or a field of the event.
type part struct {
	text  string
	field func(*surepost.Event) string
}

// placeholders are the known ones, in the order in which an error names them.
var placeholders = []struct {
	name  string
	field func(*surepost.Event) string
}{
	{"{source}", func(e *surepost.Event) string { return e.Source }},
	{"{type}", func(e *surepost.Event) string { return e.Type }},
	{"{category}", func(e *surepost.Event) string { return string(e.Category) }},
	{"{key}", func(e *surepost.Event) string { return e.Key }},
	{"{version}", func(e *surepost.Event) string { return e.Version }},
}

// parseTemplate reads a key template. All of its errors are reported together.
func parseTemplate(s string) (template, error) {
	var (
		t    template
		errs []error
		text int
	)
	for s != "" {
		before, rest, found := strings.Cut(s, "{")
		text += len(before)
		if strings.Contains(before, "}") {
			errs = append(errs, errors.New(`has a "}" without its "{": remove it, or write the placeholder in full`))
		}
		if before != "" {
			t = append(t, part{text: before})
		}
		if !found {
			break
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			errs = append(errs, errors.New(`has a "{" without its "}": remove it, or write the placeholder in full`))
			break
		}
		s = after
		name = "{" + name + "}"
		var known []string
		field := -1
		for i, p := range placeholders {
			known = append(known, p.name)
			if p.name == name {
				field = i
			}
		}
		if field < 0 {
			errs = append(errs, fmt.Errorf("has the unknown placeholder %s: use %s", cutText(name, 100), strings.Join(known, ", ")))
			continue
		}
		t = append(t, part{field: placeholders[field].field})
	}
	if text > maxShortString {
		errs = append(errs, fmt.Errorf("has %d bytes of text, AMQP carries %d: shorten it", text, maxShortString))
	}
	return t, errors.Join(errs...)
}

// expand writes the key for an event. It allocates once.
func (t template) expand(e *surepost.Event) string {
	n := 0
	for i := range t {
		n += len(t[i].of(e))
	}
	var b strings.Builder
	b.Grow(n)
	for i := range t {
		b.WriteString(t[i].of(e))
	}
	return b.String()
}

func (p *part) of(e *surepost.Event) string {
	if p.field == nil {
		return p.text
	}
	return p.field(e)
}

// glob reports whether the whole of s matches pattern, where * is any text and ? any one character. It goes back to
// the last * only, which is enough, and so takes at most len(pattern) × len(s) steps.
func glob(pattern, s string) bool {
	star, retry := -1, 0 // behind the last *, and where in s it is tried next
	p, i := 0, 0
	for i < len(s) {
		_, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case p < len(pattern) && pattern[p] == '*':
			p++
			star, retry = p, i
		case p < len(pattern) && pattern[p] == '?':
			p++
			i += size
		case p < len(pattern) && pattern[p] == s[i]:
			p++
			i++
		case star >= 0:
			_, size := utf8.DecodeRuneInString(s[retry:])
			retry += size
			p, i = star, retry
		default:
			return false
		}
	}
	return strings.TrimLeft(pattern[p:], "*") == ""
}

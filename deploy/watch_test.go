package deploy

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"

	"github.com/surepost/surepost/telemetry/surepostprom"
)

// series are the labels of every series that can be asked for.
func series() map[string][]string {
	all := map[string][]string{}
	for _, m := range surepostprom.Metrics() {
		// Prometheus adds these to whatever it scrapes.
		known := append(slices.Clone(m.Labels), "job", "instance")
		if m.Kind != surepostprom.Histogram {
			all[m.Name] = known
			continue
		}
		all[m.Name+"_bucket"] = append(slices.Clone(known), "le")
		all[m.Name+"_sum"], all[m.Name+"_count"] = known, known
	}
	return all
}

// values are those of labels that have only these.
var values = map[string][]string{
	"result": {"handled", "duplicate", "skipped"}, "outcome": {"rejected", "unroutable", "ok", "error"},
	"cause": {"refused", "behind"}, "kind": {"in-place", "delayed", "outage"},
	"reason": {"attempts-spent", "permanent-failure", "not-an-event", "no-handler", "kills-the-process"},
}

// variable stands for a dashboard's variables.
var variable = regexp.MustCompile(`\$\{?[a-zA-Z_]+\}?`)

// check reads a PromQL expression and complains about what it asks for and doesn't exist. It returns the metrics of ours
// that it uses.
func check(t *testing.T, where, expr string) (used []string) {
	t.Helper()
	plain := strings.ReplaceAll(expr, "$__rate_interval", "5m")
	plain = variable.ReplaceAllString(plain, "x")
	tree, err := parser.NewParser(parser.Options{}).ParseExpr(plain)
	if err != nil {
		t.Errorf("%s: %v in %s", where, err, expr)
		return nil
	}
	known := series()
	parser.Inspect(tree, func(node parser.Node, path []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			labelsOf, ok := known[n.Name]
			if !ok {
				t.Errorf("%s: there is no metric %q", where, n.Name)
				return nil
			}
			used = append(used, n.Name)
			for _, m := range n.LabelMatchers {
				if m.Name == model.MetricNameLabel {
					continue
				}
				if !slices.Contains(labelsOf, m.Name) {
					t.Errorf("%s: %s has no label %q", where, n.Name, m.Name)
				}
				if of := values[m.Name]; of != nil && m.Type == labels.MatchEqual && !slices.Contains(of, m.Value) {
					t.Errorf("%s: the label %s is never %q", where, m.Name, m.Value)
				}
			}
		case *parser.AggregateExpr:
			for _, inner := range inside(n.Expr) {
				for _, label := range n.Grouping {
					if of, ok := known[inner]; ok && !slices.Contains(of, label) {
						t.Errorf("%s: grouped by %q, which %s hasn't", where, label, inner)
					}
				}
			}
		case *parser.Call:
			for _, inner := range inside(n) {
				counts := strings.HasSuffix(inner, "_total") || strings.HasSuffix(inner, "_bucket") ||
					strings.HasSuffix(inner, "_sum") || strings.HasSuffix(inner, "_count")
				if (n.Func.Name == "rate" || n.Func.Name == "increase") && !counts {
					t.Errorf("%s: %s of %s, which isn't a counter", where, n.Func.Name, inner)
				}
			}
		}
		return nil
	})
	for _, name := range used {
		if strings.HasSuffix(name, "_total") && !strings.Contains(expr, "rate(") && !strings.Contains(expr, "increase(") {
			t.Errorf("%s: the counter %s says nothing without a rate", where, name)
		}
	}
	if len(used) == 0 {
		t.Errorf("%s: asks for no metric: %s", where, expr)
	}
	return used
}

// inside returns the metrics that an expression asks for.
func inside(of parser.Node) (names []string) {
	parser.Inspect(of, func(node parser.Node, _ []parser.Node) error {
		if s, ok := node.(*parser.VectorSelector); ok {
			names = append(names, s.Name)
		}
		return nil
	})
	return names
}

// alert is a rule of Prometheus' alerting.
type alert struct {
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

func alerts(t *testing.T) []alert {
	t.Helper()
	raw, err := os.ReadFile("prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []alert
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(raw)))
	decoder.KnownFields(true) // Prometheus refuses others too
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	var all []alert
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) == 0 {
		t.Fatal("no alerts")
	}
	return all
}

// placeholder is a template's use of a label.
var placeholder = regexp.MustCompile(`\$labels\.([a-z_]+)`)

func TestAlertsAskForMetricsThatExist(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range alerts(t) {
		if which := a.Alert + " " + a.Labels["severity"]; seen[which] {
			t.Errorf("%s is there twice", which)
		} else {
			seen[which] = true
		}
		check(t, a.Alert, a.Expr)
		if _, err := model.ParseDuration(a.For); err != nil {
			t.Errorf("%s: for: %v", a.Alert, err)
		}
		if s := a.Labels["severity"]; s != "warning" && s != "critical" {
			t.Errorf("%s has the severity %q", a.Alert, s)
		}
		for _, name := range []string{"summary", "description"} {
			text := a.Annotations[name]
			if text == "" {
				t.Errorf("%s has no %s", a.Alert, name)
			}
			for _, m := range placeholder.FindAllStringSubmatch(text, -1) {
				if !regexp.MustCompile(`by \([^)]*\b` + m[1] + `\b`).MatchString(a.Expr) {
					t.Errorf("%s: its %s names the label %s, which its expression doesn't keep", a.Alert, name, m[1])
				}
			}
		}
	}
}

// anchor returns a name like SurepostEventsWaiting as surepost-events-waiting.
func anchor(name string) string {
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// A heading becomes an anchor by lower case, hyphens for spaces, and without punctuation.
var notInAnchors = regexp.MustCompile(`[^a-z0-9 _-]`)

func anchors(markdown string) map[string]bool {
	all := map[string]bool{}
	for line := range strings.Lines(markdown) {
		text := strings.TrimLeft(line, "#")
		if text == line || !strings.HasPrefix(text, " ") {
			continue
		}
		all[strings.ReplaceAll(notInAnchors.ReplaceAllString(strings.ToLower(strings.TrimSpace(text)), ""), " ", "-")] = true
	}
	for _, m := range regexp.MustCompile(`<a (?:id|name)="([^"]+)"`).FindAllStringSubmatch(markdown, -1) {
		all[m[1]] = true
	}
	return all
}

func TestEveryAlertHasItsRunbook(t *testing.T) {
	raw, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatalf("the alerts' runbooks aren't there: %v", err)
	}
	there := anchors(string(raw))
	for _, a := range alerts(t) {
		want := "https://github.com/surepost/surepost/blob/main/docs/operations.md#" + anchor(a.Alert)
		if a.Annotations["runbook_url"] != want {
			t.Errorf("%s: the runbook is %q, want %q", a.Alert, a.Annotations["runbook_url"], want)
		}
		if !there[anchor(a.Alert)] {
			t.Errorf("docs/operations.md has no section for %s: a heading or an anchor %q", a.Alert, anchor(a.Alert))
		}
	}
}

// panel is one of a dashboard, as far as the tests look at it.
type panel struct {
	ID          int
	Type, Title string
	Description string
	Datasource  struct{ Type, UID string }
	GridPos     struct{ H, W, X, Y int }
	Targets     []struct {
		RefID, Expr string
		Datasource  struct{ Type, UID string }
	}
}

type dashboard struct {
	UID, Title    string
	SchemaVersion int
	ID            *int
	Panels        []panel
	Templating    struct {
		List []struct {
			Name, Type string
			Definition string
		}
	}
}

func read(t *testing.T) (d dashboard) {
	t.Helper()
	raw, err := os.ReadFile("grafana/surepost.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestTheDashboardAsksForMetricsThatExist(t *testing.T) {
	d := read(t)
	used := map[string]bool{}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			for _, name := range check(t, p.Title, target.Expr) {
				used[name] = true
			}
		}
	}
	// And it shows all there is.
	for _, m := range surepostprom.Metrics() {
		shown := used[m.Name] || used[m.Name+"_bucket"] || used[m.Name+"_sum"]
		if !shown {
			t.Errorf("no panel shows %s", m.Name)
		}
	}
	known := series()
	for _, v := range d.Templating.List {
		for _, name := range regexp.MustCompile(`surepost_[a-z_]+`).FindAllString(v.Definition, -1) {
			label := strings.TrimSuffix(v.Definition[strings.LastIndex(v.Definition, " ")+1:], ")")
			if !slices.Contains(known[name], label) {
				t.Errorf("the variable %s asks for the label %q of %s", v.Name, label, name)
			}
		}
	}
}

func TestTheDashboardCanBeImported(t *testing.T) {
	d := read(t)
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 36 || d.ID != nil {
		t.Errorf("uid %q, title %q, schema %d, id %v: Grafana wants the first three, and gives out the last itself", d.UID, d.Title, d.SchemaVersion, d.ID)
	}
	variables := map[string]string{}
	for _, v := range d.Templating.List {
		variables[v.Name] = v.Type
	}
	if variables["datasource"] != "datasource" {
		t.Errorf("no variable chooses the data source: %v", slices.Collect(maps.Keys(variables)))
	}
	ids, rows := map[int]bool{}, []string{}
	type place struct{ x, y int }
	taken := map[place]string{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 {
			t.Errorf("%s has the id %d, which is another's", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[place{x, y}]; other != "" {
					t.Fatalf("%s lies over %s", p.Title, other)
				}
				taken[place{x, y}] = p.Title
			}
		}
		if p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%s is wider than the grid", p.Title)
		}
		if p.Type == "row" {
			rows = append(rows, p.Title)
			continue
		}
		if p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("%s has no description, or asks for nothing", p.Title)
		}
		refs := map[string]bool{}
		for _, target := range p.Targets {
			if target.Datasource.UID != "${datasource}" || p.Datasource.UID != "${datasource}" {
				t.Errorf("%s doesn't ask the data source that was chosen", p.Title)
			}
			if refs[target.RefID] {
				t.Errorf("%s has two queries %s", p.Title, target.RefID)
			}
			refs[target.RefID] = true
		}
		for _, target := range p.Targets {
			for _, v := range variable.FindAllString(target.Expr, -1) {
				name := strings.Trim(v, "${}")
				if name != "__rate_interval" && variables[name] == "" {
					t.Errorf("%s uses $%s, which isn't a variable", p.Title, name)
				}
			}
		}
	}
	if want := []string{"Are events flowing?", "What waits?", "What blocks?", "Consumers"}; !slices.Equal(rows, want) {
		t.Errorf("the rows are %q, want %q", rows, want)
	}
}

// A rule that waits longer than its look back would miss what it looks for; and an operator wants to know within the hour.
func TestAlertsComeInTime(t *testing.T) {
	for _, a := range alerts(t) {
		d, err := model.ParseDuration(a.For)
		if err != nil || time.Duration(d) > time.Hour {
			t.Errorf("%s comes after %s", a.Alert, a.For)
		}
	}
}

// The ring is emptied a leaf at a time: an event leaves when it is between one and one and a half times as old as the retention, whatever
// that is.
func TestTheLogIsTooOldByTheRetentionThatIsConfigured(t *testing.T) {
	for _, a := range alerts(t) {
		if a.Alert != "SurepostLogTooOld" {
			continue
		}
		tree, err := parser.NewParser(parser.Options{}).ParseExpr(a.Expr)
		if err != nil {
			t.Fatal(err)
		}
		rule, ok := tree.(*parser.BinaryExpr)
		if !ok || rule.Op != parser.GTR {
			t.Fatalf("it isn't a comparison: %s", a.Expr)
		}
		if got := inside(rule.RHS); !slices.Equal(got, []string{"surepost_outbox_retention_seconds"}) || !strings.HasPrefix(rule.RHS.String(), "1.5 * ") {
			t.Errorf("it compares with %s", rule.RHS)
		}
		return
	}
	t.Error("there is no such alert")
}

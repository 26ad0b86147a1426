package config

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"
)

// value reads a key's value from text, which is how variables and flags have it, and from the file. Its errors say what is
// wrong and then the remedy. Those of texts and lists, which secrets are, never quote the value.
type value interface {
	set(texts []string) error
	node(n *yaml.Node) error
	String() string
}

// wrong is an error with its remedy apart.
type wrong struct{ what, remedy string }

func (w wrong) Error() string { return w.what + ": " + w.remedy }

// scalar is a value that one text says.
type scalar struct {
	parse func(s string) error
	show  func() string
	want  string // what the file should have, with an example
	tags  []string
}

func (v scalar) set(texts []string) error {
	if len(texts) != 1 {
		return wrong{"is given more than once", "give it once"}
	}
	return v.parse(texts[0])
}

func (v scalar) node(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return wrong{"is " + kindOf(n), "write " + v.want}
	}
	if n.ShortTag() == "!!null" {
		return wrong{"has no value", "give it one, or remove the line for the default"}
	}
	if !slices.Contains(v.tags, n.ShortTag()) {
		return wrong{"is " + kindOf(n), "write " + v.want}
	}
	return v.parse(n.Value)
}

func (v scalar) String() string { return v.show() }

// kindOf names what the file has, without its value.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a group of keys"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "true or false"
	case "!!null":
		return "empty"
	case "!!str":
		return "a text"
	}
	return "a " + strings.TrimPrefix(n.ShortTag(), "!!")
}

func text(p *string) value {
	return scalar{
		parse: func(s string) error {
			if strings.ContainsRune(s, 0) {
				return wrong{"has a NUL byte", "remove it"}
			}
			*p = s
			return nil
		},
		show: func() string { return *p },
		want: `a text, in quotes where it looks like something else: "1"`,
		tags: []string{"!!str"},
	}
}

func choice(p *string, choices ...string) value {
	return scalar{
		parse: func(s string) error {
			if !slices.Contains(choices, s) {
				what := fmt.Sprintf("is %.100q", s)
				if near, ok := nearest(s, choices); ok {
					return wrong{what, fmt.Sprintf("did you mean %s? It can be %s", near, oneOf(choices))}
				}
				return wrong{what, "use " + oneOf(choices)}
			}
			*p = s
			return nil
		},
		show: func() string { return *p },
		want: oneOf(choices),
		tags: []string{"!!str"},
	}
}

func oneOf(choices []string) string {
	last := len(choices) - 1
	return strings.Join(choices[:last], ", ") + " or " + choices[last]
}

func integer(p *int) value {
	return scalar{
		parse: func(s string) error {
			n, err := strconv.Atoi(s)
			if err != nil {
				return wrong{fmt.Sprintf("is %.100q", s), "write a whole number, such as 250"}
			}
			*p = n
			return nil
		},
		show: func() string { return strconv.Itoa(*p) },
		want: "a whole number, such as 250",
		tags: []string{"!!int"},
	}
}

func ratio(p *float64) value {
	const want = "a number from 0 to 1, such as 0.1"
	return scalar{
		parse: func(s string) error {
			f, err := strconv.ParseFloat(s, 64)
			if err != nil || !(f >= 0 && f <= 1) {
				return wrong{fmt.Sprintf("is %.100q", s), "write " + want}
			}
			*p = f
			return nil
		},
		show: func() string { return strconv.FormatFloat(*p, 'g', -1, 64) },
		want: want,
		tags: []string{"!!int", "!!float"},
	}
}

func boolean(p *bool) value {
	return scalar{
		parse: func(s string) error {
			switch strings.ToLower(s) {
			case "true":
				*p = true
			case "false":
				*p = false
			default:
				return wrong{fmt.Sprintf("is %.100q", s), "write true or false"}
			}
			return nil
		},
		show: func() string { return strconv.FormatBool(*p) },
		want: "true or false",
		tags: []string{"!!bool"},
	}
}

func duration(p *time.Duration) value {
	return scalar{
		parse: func(s string) error {
			d, err := ParseDuration(s)
			if err != nil {
				return err
			}
			*p = d
			return nil
		},
		show: func() string { return FormatDuration(*p) },
		want: "a duration with its unit, such as 15s",
		tags: []string{"!!str", "!!int", "!!float"}, // a number gets the error of a missing unit
	}
}

// ParseDuration reads a duration with its units: 250ms, 1m30s, 7d.
func ParseDuration(s string) (time.Duration, error) {
	const remedy = "write a number with a unit of ms, s, m, h or d, such as 250ms, 90s or 7d"
	if _, err := strconv.ParseFloat(s, 64); err == nil && s != "0" {
		return 0, wrong{fmt.Sprintf("is %.100q, without a unit", s), remedy}
	}
	whole, days := s, time.Duration(0)
	if before, after, found := strings.Cut(s, "d"); found {
		n, err := strconv.Atoi(before)
		if err != nil || n < 0 || n > 36500 {
			return 0, wrong{fmt.Sprintf("is %.100q", s), remedy}
		}
		days, whole = time.Duration(n)*24*time.Hour, after
		if whole == "" {
			return days, nil
		}
	}
	d, err := time.ParseDuration(whole)
	if err != nil {
		return 0, wrong{fmt.Sprintf("is %.100q", s), remedy}
	}
	if d > 0 && days > math.MaxInt64-d {
		return 0, wrong{fmt.Sprintf("is %.100q, longer than 292 years", s), remedy}
	}
	return days + d, nil
}

// FormatDuration writes a duration as one would: 1m instead of 1m0s.
func FormatDuration(d time.Duration) string {
	if d >= 24*time.Hour && d%(24*time.Hour) == 0 {
		return strconv.Itoa(int(d/(24*time.Hour))) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// units of sizes, the largest of each kind first.
var units = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1}}

func size(p *int) value {
	const remedy = "write a whole number with a unit of B, KiB, MiB, GiB, kB, MB or GB, such as 64MiB"
	return scalar{
		parse: func(s string) error {
			for _, u := range units {
				number, found := strings.CutSuffix(s, u.name)
				if !found {
					continue
				}
				n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
				if err != nil || n < 0 || n > math.MaxInt/u.bytes {
					return wrong{fmt.Sprintf("is %.100q", s), remedy}
				}
				*p = int(n * u.bytes)
				return nil
			}
			if _, err := strconv.ParseFloat(s, 64); err == nil {
				return wrong{fmt.Sprintf("is %.100q, without a unit", s), remedy}
			}
			return wrong{fmt.Sprintf("is %.100q", s), remedy}
		},
		show: func() string { return FormatSize(int64(*p)) },
		want: "a size with its unit, such as 64MiB",
		tags: []string{"!!str", "!!int", "!!float"},
	}
}

// FormatSize writes a size in the largest binary unit that leaves a whole number.
func FormatSize(n int64) string {
	for _, u := range units[:3] {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

// texts is a list of texts.
type texts struct{ p *[]string }

func list(p *[]string) value { return texts{p} }

func (v texts) set(given []string) error {
	var all []string
	for _, g := range given {
		for s := range strings.SplitSeq(g, ",") {
			if s = strings.TrimSpace(s); s != "" {
				all = append(all, s)
			}
		}
	}
	if len(all) == 0 {
		return wrong{"is empty", "give it a value, or leave it out"}
	}
	*v.p = all
	return nil
}

func (v texts) node(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" {
		return v.set([]string{n.Value})
	}
	if n.Kind != yaml.SequenceNode {
		return wrong{"is " + kindOf(n), "write a list, or one text"}
	}
	var all []string
	for _, item := range n.Content {
		if item.Kind != yaml.ScalarNode || item.ShortTag() != "!!str" {
			return wrong{"has " + kindOf(item) + " in its list", "write texts only"}
		}
		all = append(all, item.Value)
	}
	if len(all) == 0 {
		return wrong{"is an empty list", "give it a value, or leave it out"}
	}
	*v.p = all
	return nil
}

func (v texts) String() string { return strings.Join(*v.p, ", ") }

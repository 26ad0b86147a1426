package config

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/surepost/surepost/amqp"
)

// structures is a list of groups of keys, which only the file can have.
type structures[T any] struct {
	p      *[]T
	fields func(*T) map[string]field
	show   func(T) string
}

// field reads one key of a group.
type field func(n *yaml.Node) error

func (v structures[T]) set([]string) error {
	return wrong{"can't be a variable or a flag", "write it into the file"}
}

func (v structures[T]) node(n *yaml.Node) error {
	if n.Kind != yaml.SequenceNode {
		return wrong{"is " + kindOf(n), "write a list of groups of keys, each beginning with a dash"}
	}
	var problems []error
	for i, item := range n.Content {
		item = resolved(item)
		if item.Kind != yaml.MappingNode {
			problems = append(problems, at{item.Line, "", wrong{fmt.Sprintf("[%d] is %s", i, kindOf(item)), "write a group of keys"}})
			continue
		}
		var t T
		fields := v.fields(&t)
		var names []string
		for name := range fields {
			names = append(names, name)
		}
		seen := map[string]bool{}
		for key, content := range pairs(item) {
			read, known := fields[key.Value]
			switch {
			case !known:
				problems = append(problems, at{key.Line, "", unknown(fmt.Sprintf("[%d]", i), key.Value, names)})
			case seen[key.Value]:
				problems = append(problems, at{key.Line, "", wrong{fmt.Sprintf("[%d].%s is there twice", i, key.Value), "remove one"}})
			default:
				seen[key.Value] = true
				if err := read(resolved(content)); err != nil {
					problems = append(problems, at{content.Line, fmt.Sprintf("[%d].%s", i, key.Value), err})
				}
			}
		}
		*v.p = append(*v.p, t)
	}
	if len(problems) > 0 {
		return several(problems)
	}
	return nil
}

func (v structures[T]) String() string {
	shown := make([]string, len(*v.p))
	for i, t := range *v.p {
		shown[i] = v.show(t)
	}
	return strings.Join(shown, "; ")
}

// at is a problem in a line of its own.
type at struct {
	line  int
	where string // behind the key's name
	err   error
}

func (a at) Error() string { return a.err.Error() }

// several are the problems of one value.
type several []error

func (s several) Error() string { return fmt.Sprintf("%d problems", len(s)) }

func rules(p *[]amqp.Rule) value {
	return structures[amqp.Rule]{p,
		func(r *amqp.Rule) map[string]field {
			return map[string]field{
				"type": text(&r.Type).node, "source": text(&r.Source).node, "category": text(&r.Category).node,
				"exchange": text(&r.Exchange).node, "routingKey": text(&r.Key).node,
			}
		},
		func(r amqp.Rule) string {
			var b strings.Builder
			for _, f := range []struct{ name, value string }{{"type", r.Type}, {"source", r.Source}, {"category", r.Category},
				{"exchange", r.Exchange}, {"routingKey", r.Key}} {
				if f.value != "" {
					fmt.Fprintf(&b, "%s=%s ", f.name, f.value)
				}
			}
			return strings.TrimSpace(b.String())
		},
	}
}

func exchanges(p *[]amqp.Exchange) value {
	return structures[amqp.Exchange]{p,
		func(e *amqp.Exchange) map[string]field {
			return map[string]field{
				"name": text(&e.Name).node, "kind": text(&e.Kind).node,
				"args": func(n *yaml.Node) error {
					if n.Kind != yaml.MappingNode {
						return wrong{"is " + kindOf(n), "write a group of keys"}
					}
					if err := n.Decode(&e.Args); err != nil {
						return wrong{"can't be read", "write texts, numbers and true or false"}
					}
					for name, arg := range e.Args {
						if number, ok := arg.(int); ok {
							e.Args[name] = int64(number) // AMQP has no type for int
						}
					}
					return nil
				},
			}
		},
		func(e amqp.Exchange) string { return strings.TrimSpace(e.Name + " " + e.Kind) },
	}
}

package config

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// maxFileBytes is the largest file that is read: a configuration has some kilobytes, and a path that names something else
// should not fill the memory.
const maxFileBytes = 1 << 20

// ReadFile reads a file of the configuration or of a secret. Its error is a remedy's: what is wrong and what to do.
func ReadFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.IsDir() {
		return nil, wrong{path + " is a directory", "name a file"}
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, unreadable(path, err)
	}
	if len(data) > maxFileBytes {
		return nil, wrong{path + " is larger than 1 MiB", "name the right file"}
	}
	return data, nil
}

func unreadable(path string, err error) error {
	remedy := "name a file that can be read"
	switch {
	case errors.Is(err, os.ErrNotExist):
		return wrong{path + " is not there", "create it, or name another one"}
	case errors.Is(err, os.ErrPermission):
		return wrong{path + " can't be read by this user", "let the user read it"}
	}
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err
	}
	return wrong{fmt.Sprintf("%s can't be read (%v)", path, err), remedy}
}

// ReadSecret returns what a file holds, without the line's end.
func ReadSecret(path string) (string, error) {
	data, err := ReadFile(path)
	if err != nil {
		return "", err
	}
	secret := strings.TrimRight(string(data), "\r\n")
	if secret == "" {
		return "", wrong{path + " is empty", "write the secret into it"}
	}
	return secret, nil
}

// readFile sets the keys of a YAML file.
func (l *loader) readFile(path string, named Origin) {
	data, err := ReadFile(path)
	if err != nil {
		l.problem("", named, err)
		l.incomplete = true
		return
	}
	var documents []*yaml.Node
	for decoder := yaml.NewDecoder(strings.NewReader(string(data))); ; {
		var document yaml.Node
		err := decoder.Decode(&document)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			place, what := yamlError(path, err)
			l.incomplete = true
			l.problem("", Origin{FromFile, place}, wrong{"the file isn't YAML (" + what + ")", "mend that line; YAML is indented by spaces"})
			return
		}
		documents = append(documents, &document)
	}
	if len(documents) > 1 {
		l.problem("", Origin{FromFile, fmt.Sprintf("%s:%d", path, documents[1].Line)}, wrong{"a second document begins here", "keep one, and remove the line ---"})
	}
	if len(documents) == 0 || len(documents[0].Content) == 0 {
		return // an empty file says nothing
	}
	root := resolved(documents[0].Content[0])
	if root.Kind == yaml.ScalarNode && root.ShortTag() == "!!null" {
		return // comments only
	}
	if root.Kind != yaml.MappingNode {
		l.problem("", Origin{FromFile, fmt.Sprintf("%s:%d", path, root.Line)},
			wrong{"the file is " + kindOf(root), "write keys, such as database:, and what belongs to them below, indented"})
		return
	}
	l.readGroup(path, "", root)
}

var lineOf = regexp.MustCompile(`line (\d+)`)

// yamlError returns the place and the gist of the parser's error. The error may quote the file, which may hold a password:
// only its words before a quote are told.
func yamlError(path string, err error) (place, what string) {
	what = strings.TrimPrefix(err.Error(), "yaml: ")
	place = path
	if m := lineOf.FindStringSubmatch(what); m != nil {
		place += ":" + m[1]
	}
	what, _, _ = strings.Cut(what, "\n")
	if i := strings.IndexAny(what, "\"'`"); i >= 0 {
		what = strings.TrimSpace(what[:i])
	}
	return place, what
}

// readGroup sets the keys of one group, and of those in it.
func (l *loader) readGroup(path, prefix string, group *yaml.Node) {
	first := map[string]int{}
	for name, content := range pairs(group) {
		origin := Origin{FromFile, fmt.Sprintf("%s:%d", path, name.Line)}
		full := name.Value
		if prefix != "" {
			full = prefix + "." + name.Value
		}
		if before, twice := first[full]; twice {
			l.problem(full, origin, wrong{"is there twice, in line " + strconv.Itoa(before) + " too", "remove one"})
			continue
		}
		first[full] = name.Line
		content = resolved(content)
		key := l.byPath[full]
		switch {
		case key != nil:
			err := key.value.node(content)
			var all several
			if errors.As(err, &all) {
				l.config.origins[full] = origin
				for _, e := range all {
					var located at
					if errors.As(e, &located) {
						l.problem(full+located.where, Origin{FromFile, fmt.Sprintf("%s:%d", path, located.line)}, located.err)
					}
				}
				continue
			}
			l.took(key, origin, err)
		case l.isGroup(full) && content.Kind == yaml.MappingNode:
			l.readGroup(path, full, content)
		case l.isGroup(full) && content.Kind == yaml.ScalarNode && content.ShortTag() == "!!null":
			// a group without keys, all of them commented out perhaps
		case l.isGroup(full):
			l.problem(full, origin, wrong{"is " + kindOf(content), "write its keys below it, indented"})
		default:
			l.problem("", origin, l.unknownKey(prefix, full))
		}
	}
}

// unknownKey names the nearest known key, of the same group first.
func (l *loader) unknownKey(prefix, full string) error {
	var here, everywhere []string
	for _, k := range l.config.keys {
		everywhere = append(everywhere, k.Path)
		if prefix != "" && strings.HasPrefix(k.Path, prefix+".") {
			here = append(here, k.Path)
		}
	}
	if len(here) > 0 {
		if near, ok := nearestLast(full, here); ok {
			return wrong{fmt.Sprintf("unknown key %.100s", full), "did you mean " + near + "?"}
		}
	}
	groups := l.groups()
	if near, ok := nearest(full, append(slices.Clone(groups), everywhere...)); ok {
		return wrong{fmt.Sprintf("unknown key %.100s", full), "did you mean " + near + "?"}
	}
	if near, ok := nearestLast(full, everywhere); ok {
		return wrong{fmt.Sprintf("unknown key %.100s", full), "did you mean " + near + "?"}
	}
	return wrong{fmt.Sprintf("unknown key %.100s", full), "remove it; `surepost config keys` lists those that there are"}
}

// nearestLast compares the last parts of the paths only: a key in the wrong group is found too.
func nearestLast(full string, paths []string) (string, bool) {
	var names []string
	for _, p := range paths {
		names = append(names, p[strings.LastIndexByte(p, '.')+1:])
	}
	near, ok := nearest(full[strings.LastIndexByte(full, '.')+1:], names)
	if !ok {
		return "", false
	}
	return paths[slices.Index(names, near)], true
}

func unknown(where, name string, known []string) error {
	slices.Sort(known)
	if near, ok := nearest(name, known); ok {
		return wrong{fmt.Sprintf("%s has the unknown key %.100s", where, name), "did you mean " + near + "?"}
	}
	return wrong{fmt.Sprintf("%s has the unknown key %.100s", where, name), "use " + oneOf(known)}
}

// groups returns what keys are below of: database, database.tls and so on.
func (l *loader) groups() []string {
	var groups []string
	for _, k := range l.config.keys {
		parts := strings.Split(k.Path, ".")
		for i := 1; i < len(parts); i++ {
			if g := strings.Join(parts[:i], "."); !slices.Contains(groups, g) {
				groups = append(groups, g)
			}
		}
	}
	return groups
}

func (l *loader) isGroup(path string) bool { return slices.Contains(l.groups(), path) }

// pairs iterates over a mapping.
func pairs(n *yaml.Node) iter.Seq2[*yaml.Node, *yaml.Node] {
	return func(yield func(*yaml.Node, *yaml.Node) bool) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if !yield(n.Content[i], n.Content[i+1]) {
				return
			}
		}
	}
}

// resolved follows an alias.
func resolved(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

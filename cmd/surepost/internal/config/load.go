package config

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Sources is where a configuration is read from.
type Sources struct {
	// File is the path given by --config. Without one it is SUREPOST_CONFIG; without that there is no file: one that happens
	// to be in the working directory should not decide which database is worked on.
	File        string
	Environment []string            // as os.Environ has it
	Flags       map[string][]string // by the key's path, what was given on the command line
}

// FileVariable names the file, unless a flag does.
const FileVariable = "SUREPOST_CONFIG"

// loader collects what the sources say and what is wrong with it.
type loader struct {
	config   *Config
	byPath   map[string]*Key
	problems Problems

	refused    map[string]bool // keys whose values couldn't be read
	incomplete bool            // the file couldn't be read
}

// Load reads the sources, those with the least precedence first. The config is valid to be shown even beside problems.
func Load(s Sources) (*Config, Problems) {
	c := &Config{origins: map[string]Origin{}}
	c.keys = c.table()
	l := &loader{config: c, byPath: map[string]*Key{}, refused: map[string]bool{}}
	for _, k := range c.keys {
		l.byPath[k.Path] = k
		if k.Default != "" {
			if err := k.value.set([]string{k.Default}); err != nil {
				panic("config: the default of " + k.Path + " " + err.Error())
			}
		}
	}
	variables := map[string]string{}
	for _, v := range s.Environment {
		if name, content, ok := strings.Cut(v, "="); ok && strings.HasPrefix(name, "SUREPOST_") {
			variables[name] = content
		}
	}
	switch {
	case s.File != "":
		l.readFile(s.File, Origin{FromFlag, "--config"})
	case variables[FileVariable] != "":
		l.readFile(variables[FileVariable], Origin{FromEnvironment, FileVariable})
	}
	l.readEnvironment(variables)
	for _, k := range c.keys {
		if given, ok := s.Flags[k.Path]; ok {
			l.took(k, Origin{FromFlag, "--" + k.Flag()}, k.value.set(given))
		}
	}
	l.contradictions()
	c.incomplete = l.incomplete
	return c, l.problems
}

// took notes that the key has its value from there, or what is wrong with it.
func (l *loader) took(k *Key, origin Origin, err error) {
	l.config.origins[k.Path] = origin
	if err == nil {
		return
	}
	l.refused[k.Path] = true
	l.problem(k.Path, origin, err)
}

func (l *loader) problem(key string, origin Origin, err error) {
	p := Problem{Key: key, Origin: origin, Message: err.Error(), Remedy: "correct it"}
	var w wrong
	if errors.As(err, &w) {
		p.Message, p.Remedy = w.what, w.remedy
	}
	l.problems = append(l.problems, p)
}

func (l *loader) readEnvironment(variables map[string]string) {
	names := []string{FileVariable}
	for _, k := range l.config.keys {
		name := k.Env()
		if name == "" {
			continue
		}
		names = append(names, name)
		content, there := variables[name]
		if !there || content == "" {
			continue // orchestrators set what they have nothing for to nothing
		}
		l.took(k, Origin{FromEnvironment, name}, k.value.set([]string{content}))
	}
	var strange []string
	for name := range variables {
		if !slices.Contains(names, name) && !injected.MatchString(name) {
			strange = append(strange, name)
		}
	}
	slices.Sort(strange)
	for _, name := range strange {
		// A name that is far from all is somebody else's: the prefix isn't ours alone.
		if near, ok := nearestVariable(name, names); ok {
			l.problem("", Origin{FromEnvironment, name}, wrong{"unknown variable", "did you mean " + near + "?"})
		}
	}
}

// injected are the variables that Kubernetes sets for a Service whose name begins with surepost.
var injected = regexp.MustCompile(`_SERVICE_HOST$|_SERVICE_PORT(_.*)?$|_PORT(_\d+_(TCP|UDP)(_.*)?)?$`)

// nearestVariable is nearest, but at most two letters away: all variables are long and begin alike.
func nearestVariable(name string, known []string) (string, bool) {
	near, ok := nearest(name, known)
	return near, ok && changes(name, near) <= 2
}

// contradictions finds keys that can't both be meant. Each is told with where both came from.
func (l *loader) contradictions() {
	c := l.config
	either := func(a, b, why string) {
		if c.IsSet(a) && c.IsSet(b) {
			l.problem(a, c.Origin(a), wrong{fmt.Sprintf("and %s (%s) are both set%s", b, c.Origin(b), why), "remove one"})
		}
	}
	together := func(a, b, why string) {
		if c.IsSet(a) && !c.IsSet(b) {
			l.problem(a, c.Origin(a), wrong{"is set without " + b + why, "set both or neither"})
		}
	}
	either("database.url", "database.urlFile", "")
	either("database.password", "database.passwordFile", "")
	either("broker.urls", "broker.urlsFile", "")
	if c.Relay.KeepForever {
		either("relay.retention", "relay.keepForever", "")
	}
	either("broker.password", "broker.passwordFile", "")
	for _, server := range []string{"database", "broker", "tracing"} {
		together(server+".tls.certFile", server+".tls.keyFile", "")
		together(server+".tls.keyFile", server+".tls.certFile", "")
	}
	if c.IsSet("broker.username") && !c.IsSet("broker.password") && !c.IsSet("broker.passwordFile") {
		l.problem("broker.username", c.Origin("broker.username"),
			wrong{"is set without a password", "set broker.passwordFile or broker.password too"})
	}
	for _, k := range c.keys {
		if k.Kind != "duration" && k.Kind != "number" && k.Kind != "size" || !c.IsSet(k.Path) || l.refused[k.Path] {
			continue
		}
		// The library takes 0 for its default, which isn't what somebody means who writes it.
		if v := k.value.String(); strings.HasPrefix(v, "-") || v == "0" || v == "0s" || v == "0B" {
			l.problem(k.Path, c.Origin(k.Path), wrong{"is " + v, "use a positive " + k.Kind + ", or leave it out for the default"})
		}
	}
}

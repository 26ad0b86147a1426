package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/user"
	"reflect"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/surepost/surepost/cmd/surepost/internal/config"
)

// Process is what a command has of the process that it runs in.
type Process struct {
	In          io.Reader
	Out, Err    io.Writer
	InTerminal  bool // somebody can answer a question
	OutTerminal bool // colours will do
	Environment []string
	// Version is what -ldflags "-X main.version=…" has set, if anything.
	Version string
}

// grammar is the whole command line.
type grammar struct {
	Config string `short:"c" placeholder:"FILE" help:"The YAML file with the configuration. Default: $SUREPOST_CONFIG, or none."`
	JSON   bool   `name:"json" help:"Print JSON: one object, or one a line for lists. Errors are JSON on standard error."`

	kong.Plugins

	Relay        relayCommand       `cmd:"" help:"Publish what was committed, until SIGTERM or SIGINT."`
	Migrate      migrateGroup       `cmd:"" help:"The tables and their versions."`
	Status       statusCommand      `cmd:"" help:"How the outbox stands: destinations, lanes, backlog, parked events."`
	Events       eventsGroup        `cmd:"" help:"Look at the events of the log."`
	Scheduled    scheduledGroup     `cmd:"" help:"Events that aren't due yet."`
	Parked       parkedGroup        `cmd:"" help:"Events that the broker refused, and those of their keys behind them."`
	Replay       replayGroup        `cmd:"" help:"Publish a part of the log once more."`
	Destinations destinationsGroup  `cmd:"" help:"The readers of the log."`
	DeadLetters  deadLettersGroup   `cmd:"" name:"deadletters" help:"What consumers gave up."`
	Redrive      redriveCommand     `cmd:"" help:"Move dead letters back to the queues that they came from."`
	Inbox        inboxGroup         `cmd:"" help:"What consumers have handled."`
	Doctor       doctorCommand      `cmd:"" help:"Say what is wrong, why, and what to do. The exit code is the severity."`
	Configure    configurationGroup `cmd:"" name:"config" help:"The configuration."`
	Version      versionCommand     `cmd:"" help:"The version of this program."`
}

// session is one run of the program.
type session struct {
	Process
	ctx     context.Context
	grammar *grammar
	flags   map[string][]string
	now     func() time.Time
	config  *config.Config // once it was loaded
}

// Run runs one command and returns the exit code. ctx ends when it is asked to stop.
func Run(ctx context.Context, args []string, p Process) int {
	s := &session{Process: p, ctx: ctx, grammar: &grammar{}, now: time.Now}
	// Said before the parser is asked, so that its errors are JSON too.
	for _, a := range args {
		if a == "--" {
			break
		}
		if a == "--json" || a == "--json=true" {
			s.grammar.JSON = true
		}
	}
	asJSON := s.grammar.JSON
	plugin, given := flagsOf(config.Keys())
	s.grammar.Plugins = kong.Plugins{plugin}
	exited, code := false, 0
	parser, err := kong.New(s.grammar,
		kong.Name("surepost"),
		kong.Description("Publishes events that were committed with their data, and shows how they fare.\n\n"+
			"What is configured by flags can be configured by a file and variables too: surepost config keys lists all of it."),
		kong.Writers(p.Out, p.Err),
		kong.Exit(func(c int) { exited, code = true, c }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		panic("cli: the grammar is wrong: " + err.Error())
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if exited { // --help has been printed
		return code
	}
	s.grammar.JSON = s.grammar.JSON || asJSON
	if err != nil {
		return s.fail(usage(mend(err.Error()), "see surepost --help"))
	}
	s.flags = given()
	if err := parsed.Run(s); err != nil {
		return s.fail(err)
	}
	return 0
}

// mend makes kong's message ours.
func mend(message string) string { return strings.TrimPrefix(message, "surepost: ") }

// flagsOf makes a structure with a flag for each key, for kong, and a function that returns what was given of them.
func flagsOf(keys []*config.Key) (plugin any, given func() map[string][]string) {
	var fields []reflect.StructField
	var of []*config.Key
	for _, k := range keys {
		if k.Flag() == "" {
			continue
		}
		tag := fmt.Sprintf(`name:%q help:%q group:"Configuration" placeholder:%q`, k.Flag(), k.Help, strings.ToUpper(k.Kind))
		if !k.Common {
			tag += ` hidden:""`
		}
		typ := reflect.TypeFor[*string]()
		switch k.Kind {
		case "true or false":
			typ = reflect.TypeFor[*bool]()
		case "list of URLs":
			typ = reflect.TypeFor[[]string]()
		}
		fields = append(fields, reflect.StructField{Name: fmt.Sprintf("Flag%d", len(of)), Type: typ, Tag: reflect.StructTag(tag)})
		of = append(of, k)
	}
	made := reflect.New(reflect.StructOf(fields))
	return made.Interface(), func() map[string][]string {
		flags := map[string][]string{}
		for i, k := range of {
			switch v := made.Elem().Field(i).Interface().(type) {
			case *string:
				if v != nil {
					flags[k.Path] = []string{*v}
				}
			case *bool:
				if v != nil {
					flags[k.Path] = []string{fmt.Sprint(*v)}
				}
			case []string:
				if v != nil {
					flags[k.Path] = v
				}
			}
		}
		return flags
	}
}

// load returns the configuration with what is wrong with it so far.
func (s *session) load() (*config.Config, config.Problems) {
	c, problems := config.Load(config.Sources{File: s.grammar.Config, Environment: s.Environment, Flags: s.flags})
	s.config = c
	return c, problems
}

// inKeys says what a library says in the names of the keys.
func (s *session) inKeys(text string) string {
	if s.config == nil {
		return text
	}
	return s.config.InKeys(text)
}

// by is who is recorded for an action: what the flag says, or the user of the operating system.
func by(flag string) string {
	if flag != "" {
		return flag
	}
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	if name := os.Getenv("USER"); name != "" {
		return name
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}

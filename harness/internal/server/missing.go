package server

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// NoServerError says that no source had a server.
type NoServerError struct {
	Kind     *Kind
	Config   Config
	Docker   error
	Binaries error
}

func (e *NoServerError) Error() string { return NoServers([]*NoServerError{e}) }

// Cause tells apart what is missing for different reasons, whatever sort of use it is for.
func (e *NoServerError) Cause() string {
	return fmt.Sprintf("%s\n%v\n%v", e.Kind.Name, e.Docker, e.Binaries)
}

func (e *NoServerError) Unwrap() []error { return []error{e.Docker, e.Binaries} }

// NoServers says in one text what was tried for all these servers, why each source failed and what to
// do. What is the same for several of them, it says once.
func NoServers(missing []*NoServerError) string {
	each := func(text func(*NoServerError) string) []string {
		var all []string
		for _, e := range missing {
			if t := text(e); !slices.Contains(all, t) {
				all = append(all, t)
			}
		}
		return all
	}
	// Of servers with the same trouble, one line has all the names.
	troubles := func(what string, name, trouble func(*NoServerError) string) (text string) {
		for _, t := range each(trouble) {
			names := each(func(e *NoServerError) string {
				if trouble(e) == t {
					return name(e)
				}
				return ""
			})
			names = slices.DeleteFunc(names, func(s string) bool { return s == "" })
			text += fmt.Sprintf("  %s: %s\n", what+strings.Join(names, ", "), t)
		}
		return text
	}
	image := func(e *NoServerError) string { name, _ := e.Kind.image(e.Config); return name }

	var b strings.Builder
	fmt.Fprintf(&b, "no %s can be had. Tried, in this order:\n", strings.Join(each(func(e *NoServerError) string { return e.Kind.Name }), ", no "))
	b.WriteString(troubles("", func(e *NoServerError) string { return e.Kind.URLVar }, func(e *NoServerError) string {
		if e.Config.Private || e.Config.Image != "" {
			return "not used for a server of one's own"
		}
		return "not set"
	}))
	b.WriteString(troubles("Docker with the image ", image, func(e *NoServerError) string { return hang(e.Docker) }))
	b.WriteString(troubles("binaries of this machine", func(*NoServerError) string { return "" },
		func(e *NoServerError) string { return hang(e.Binaries) }))
	fmt.Fprintf(&b, "Do one of these:\n  apt-get install %s (on Debian and Ubuntu), or run: go run github.com/surepost/surepost/harness/cmd/harness install\n",
		strings.Join(each(func(e *NoServerError) string { return e.Kind.Package }), " "))
	var pulls []string
	for _, name := range each(image) {
		if name != NoImage {
			pulls = append(pulls, "docker pull "+name)
		}
	}
	names := strings.Join(each(func(e *NoServerError) string { return e.Kind.ImageVar }), ", ")
	if len(pulls) > 0 {
		fmt.Fprintf(&b, "  start Docker and let it have the image: %s; or name another in %s, or unset that\n", strings.Join(pulls, "; "), names)
	} else {
		fmt.Fprintf(&b, "  start Docker and unset %s\n", names)
	}
	fmt.Fprintf(&b, "  export %s (not for servers of one's own)",
		strings.Join(each(func(e *NoServerError) string { return e.Kind.URLVar + "=" + e.Kind.ExampleURL }), " "))
	return b.String()
}

// hang indents all lines of an error but the first, so that it reads as part of a list.
func hang(err error) string {
	if err == nil {
		err = errors.New("not tried")
	}
	return strings.ReplaceAll(err.Error(), "\n", "\n    ")
}

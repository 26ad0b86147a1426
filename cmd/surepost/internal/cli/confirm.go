package cli

import (
	"bufio"
	"fmt"
	"strings"
)

// consent is part of every command that can't be undone.
type consent struct {
	Yes bool `short:"y" help:"Don't ask."`
}

// confirm asks on a terminal; elsewhere --yes is demanded. Nothing was changed when it returns an error.
func (s *session) confirm(c consent, doing string) error {
	if c.Yes {
		return nil
	}
	if !s.InTerminal {
		return usage("this would "+doing+", and there is no terminal to ask on", "add --yes if it is meant")
	}
	fmt.Fprintf(s.Err, "This will %s. Go on? [y/N] ", doing)
	answer, err := bufio.NewReader(s.In).ReadString('\n')
	if err != nil && answer == "" {
		fmt.Fprintln(s.Err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return failed("not confirmed", "nothing was changed")
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/surepost/surepost/harness/internal/server"
)

// install makes sure that a server of each of these kinds can be started here, by an image or by
// binaries, and installs Debian's packages where it can't. It does nothing when all is there.
func install(ctx context.Context, kinds []*server.Kind, pgbouncer bool) error {
	var packages []string
	var missing []*server.NoServerError
	for _, kind := range kinds {
		if os.Getenv(kind.URLVar) != "" {
			continue // tests will use that one
		}
		var e *server.NoServerError
		if err := server.Check(ctx, kind); errors.As(err, &e) {
			packages = append(packages, kind.Package)
			missing = append(missing, e)
		}
	}
	pgbouncer = pgbouncer && !server.HasPgBouncer()
	if pgbouncer {
		packages = append(packages, "pgbouncer")
	}
	if len(packages) == 0 {
		return nil
	}
	asRoot, err := rootCommand()
	if err != nil {
		text := err.Error()
		if pgbouncer {
			text = "pgbouncer is not in PATH\n" + text
		}
		if len(missing) > 0 {
			text = server.NoServers(missing) + "\n" + text
		}
		return errors.New(text)
	}
	progress("installing %s…", strings.Join(packages, " "))
	cmd := exec.CommandContext(ctx, asRoot[0], append(asRoot[1:], append([]string{"/bin/sh", "-c", installScript, "sh"}, packages...)...)...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("apt-get install %s: %w", strings.Join(packages, " "), err)
	}
	return nil
}

// installScript installs packages without starting their services: policy-rc.d is how Debian asks
// whether it may (invoke-rc.d(8), 101 means no). The one that was there comes back in the end.
const installScript = `
policy=/usr/sbin/policy-rc.d
restore() {
	rm -f "$policy"
	[ ! -e "$policy.surepost" ] || mv "$policy.surepost" "$policy"
}
trap restore EXIT
trap 'exit 1' HUP INT TERM
[ ! -e "$policy" ] || mv "$policy" "$policy.surepost" || exit 1
printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" || exit 1
export DEBIAN_FRONTEND=noninteractive
apt-get update && apt-get install -y --no-install-recommends "$@"
`

// rootCommand returns what to put before a command to run it as root without asking anybody.
func rootCommand() ([]string, error) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return nil, errors.New("this command installs packages only where there is apt-get: do it by hand, or start Docker")
	}
	if os.Geteuid() == 0 {
		return []string{"env"}, nil
	}
	if exec.Command("sudo", "-n", "true").Run() != nil {
		return nil, errors.New("this command installs packages only as root, or by sudo without a password: run it so, or do it by hand")
	}
	return []string{"sudo", "-n"}, nil
}

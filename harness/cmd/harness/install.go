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

// install makes sure that a server of each kind can be started here, by an image or by binaries, and
// installs Debian's packages where it can't. It does nothing when all is there.
func install(ctx context.Context) error {
	var packages []string
	var missing []error
	for _, kind := range kinds {
		if os.Getenv(kind.URLVar) != "" {
			continue // tests will use that one
		}
		if err := server.Check(ctx, kind); err != nil {
			packages = append(packages, kind.Package)
			missing = append(missing, err)
		}
	}
	if len(packages) == 0 {
		return nil
	}
	asRoot, err := rootCommand()
	if err != nil {
		return errors.Join(append(missing, err)...)
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
		return nil, errors.New("packages are installed only where there is apt-get: install them by hand")
	}
	if os.Geteuid() == 0 {
		return []string{"env"}, nil
	}
	if exec.Command("sudo", "-n", "true").Run() != nil {
		return nil, errors.New("installing packages needs root, or sudo without a password")
	}
	return []string{"sudo", "-n"}, nil
}

package integration

import (
	"os/exec"
	"strings"
	"testing"
)

// A write outside a transaction is a compile error.
func TestPassingAPoolDoesNotCompile(t *testing.T) {
	t.Parallel()
	for program, want := range map[string]string{
		"pgxpool": "missing method",                           // *pgxpool.Pool has no Commit, so it isn't a pgx.Tx
		"sqldb":   "cannot use db (variable of type *sql.DB)", // as *sql.Tx
		"pgxtx":   "",
	} {
		out, err := exec.CommandContext(t.Context(), "go", "vet", "./testdata/"+program).CombinedOutput()
		switch {
		case want == "" && err != nil:
			t.Errorf("%s doesn't compile: %s", program, out)
		case want != "" && (err == nil || !strings.Contains(string(out), want)):
			t.Errorf("%s: %v, %s; want a compile error with %q", program, err, out, want)
		}
	}
}

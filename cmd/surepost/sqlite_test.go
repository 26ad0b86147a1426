package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/surepost/surepost/cmd/surepost/internal/cli"
)

func TestAnSQLiteFileIsMigratedAndLookedAt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "orders of the shop.db")
	u := user{t: t, env: []string{"SUREPOST_DATABASE_URL=" + path}}
	u.refused(1, "is not there", "status")
	if sql := one[cli.SQLView](u, "migrate", "sql"); !strings.Contains(sql.SQL, "CREATE TABLE") {
		t.Errorf("got %s", sql.SQL)
	}
	u.refused(1, "is not there", "migrate", "status") // the script has made no file
	all := list[cli.MigrationView](u, "migrate", "up")
	if len(all) == 0 || all[0].AppliedAt == nil {
		t.Fatalf("got %+v", all)
	}
	if again := list[cli.MigrationView](u, "migrate", "up"); len(again) != 0 {
		t.Errorf("the second time it applies %+v", again)
	}
	if status := list[cli.MigrationView](u, "migrate", "status"); len(status) != len(all) {
		t.Errorf("got %+v, want %+v", status, all)
	}
	u.env = []string{"SUREPOST_DATABASE_URL=sqlite://" + strings.ReplaceAll(path, " ", "%20")}
	if status := one[cli.StatusView](u, "status"); status.Database != "SQLite" {
		t.Errorf("got %+v", status)
	}
	if parked := list[cli.ParkedView](u, "parked", "list"); len(parked) != 0 {
		t.Errorf("got %+v", parked)
	}
	u.refused(1, "nothing was changed", "parked", "retry", "--all")
	u.refused(2, "add --yes", "parked", "discard", "--all")
	u.refused(1, "nothing was changed", "scheduled", "cancel", "--all", "--yes")
	u.refused(2, "only PostgreSQL's can", "replay", "list")
	u.refused(2, "only PostgreSQL's can", "events", "list")
	u.refused(2, "only PostgreSQL's can", "destinations", "lanes", "default", "3")
	if findings := list[cli.FindingView](u, "doctor"); len(findings) == 0 {
		t.Error("doctor finds nothing at all")
	}
}

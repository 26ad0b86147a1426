package cli

import (
	"fmt"
	"io"

	"github.com/surepost/surepost/cmd/surepost/internal/connect"
	"github.com/surepost/surepost/sqlstore"
)

type migrateGroup struct {
	Up     migrateUp     `cmd:"" help:"Bring the tables to this version. It may be run at any time, by several at once."`
	Status migrateStatus `cmd:"" help:"List all migrations, and when the database got them."`
	SQL    migrateSQL    `cmd:"" name:"sql" help:"Print the migrations as a script, for teams that run their own tool. It doesn't connect."`
}

type migrateUp struct{}

func (migrateUp) Run(s *session) error {
	db, err := s.open(connect.Needs{Database: true}, true)
	if err != nil {
		return err
	}
	defer db.Close()
	store, err := migrator(db)
	if err != nil {
		return err
	}
	applied, err := store.Migrate(s.ctx)
	if err != nil {
		return err
	}
	if len(applied) == 0 && !s.grammar.JSON {
		fmt.Fprintln(s.Out, "The tables are of this version already.")
		return nil
	}
	return printMigrations(s, applied)
}

type migrateStatus struct{}

func (migrateStatus) Run(s *session) error {
	db, err := s.open(connect.Needs{Database: true}, false)
	if err != nil {
		return err
	}
	defer db.Close()
	store, err := migrator(db)
	if err != nil {
		return err
	}
	all, err := store.MigrationStatus(s.ctx)
	if err != nil {
		return err
	}
	return printMigrations(s, all)
}

func printMigrations(s *session, list []sqlstore.Migration) error {
	views := make([]MigrationView, len(list))
	for i, m := range list {
		views[i] = MigrationView{m.Version, m.Name, when(m.AppliedAt)}
	}
	return printList(s, views, []string{"VERSION", "NAME", "APPLIED"}, func(m MigrationView) []string {
		applied := "missing: run surepost migrate up"
		if m.AppliedAt != nil {
			applied = clock(m.AppliedAt)
		}
		return []string{fmt.Sprintf("%03d", m.Version), m.Name, applied}
	})
}

type migrateSQL struct {
	Above int `help:"Only those above this version. Default: all." placeholder:"VERSION"`
}

func (cmd migrateSQL) Run(s *session) error {
	if cmd.Above < 0 {
		return usage(fmt.Sprintf("--above is %d", cmd.Above), "use a version's number, or leave it out for all")
	}
	db, err := s.open(connect.Needs{Database: true}, true)
	if err != nil {
		return err
	}
	defer db.Close()
	store, err := migrator(db)
	if err != nil {
		return err
	}
	return printOne(s, SQLView{store.MigrationSQL(cmd.Above)}, func(w io.Writer, v SQLView) { fmt.Fprint(w, v.SQL) })
}

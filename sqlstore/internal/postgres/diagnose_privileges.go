package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/surepost/surepost/diagnosis"
)

// need is what a role must be granted on one table: privileges as GRANT has them, by columns where fewer will do.
type need struct {
	table      string
	privileges []string
}

const (
	// insertEvents and insertScheduled leave out what a producer must not choose: tx and seq, and n.
	insertEvents    = "INSERT (" + eventColumns + ", ring)"
	insertScheduled = "INSERT (not_before, " + eventColumns + ")"
)

// needs are the least privileges by role, as the README has them under "Privileges".
var needs = map[diagnosis.Role][]need{
	diagnosis.Reader: reading("outbox", "sequence", "migration", "lease", "checkpoint", "parked", "destination", "relay", "scheduled"),
	diagnosis.Relay: append(reading("outbox", "sequence", "migration", "parked_action"),
		need{"destination", []string{"SELECT", "INSERT (name, lanes)", "UPDATE (done_at)"}},
		need{"relay", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}}, need{"parked", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}},
		need{"lease", []string{"SELECT", "INSERT", "UPDATE"}}, need{"checkpoint", []string{"SELECT", "INSERT", "DELETE"}},
		need{"outbox", []string{insertEvents}}, need{"scheduled", []string{"SELECT", "UPDATE (n)", "DELETE"}},
		need{"ring", []string{"SELECT", "UPDATE (current_at, left_at, emptied)"}},
		need{"outbox_0", []string{"SELECT", "TRUNCATE"}}, need{"outbox_1", []string{"SELECT", "TRUNCATE"}},
		need{"outbox_2", []string{"SELECT", "TRUNCATE"}}, need{"outbox_3", []string{"SELECT", "TRUNCATE"}},
	),
	diagnosis.Operator: append(reading("outbox", "sequence", "ring", "migration", "inbox"),
		need{"destination", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}}, need{"relay", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}},
		need{"lease", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}}, need{"parked", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}},
		need{"checkpoint", []string{"SELECT", "INSERT", "DELETE"}}, need{"scheduled", []string{"SELECT", "DELETE"}},
		need{"parked_action", []string{"SELECT", "INSERT"}}, need{"cancellation", []string{"SELECT", "INSERT"}},
	),
	diagnosis.Producer: append(reading("ring"), need{"outbox", []string{insertEvents}},
		need{"scheduled", []string{insertScheduled, "SELECT (n, not_before, id)", "UPDATE (n)", "DELETE"}}),
	diagnosis.Consumer: {{"inbox", []string{"SELECT", "INSERT"}}, {"inbox_attempt", []string{"SELECT", "INSERT", "UPDATE", "DELETE"}}},
}

func reading(tables ...string) (list []need) {
	for _, table := range tables {
		list = append(list, need{table, []string{"SELECT"}})
	}
	return list
}

// lack is a privilege that isn't there.
type lack struct{ privilege, table string }

// checkPrivileges sees what this user lacks of what its role needs. A user whose role isn't said must be able to read what an operator
// reads; if it may write some of what a relay or an operator writes, it is taken for the one of which it lacks less.
func (p *practice) checkPrivileges(ctx context.Context, q Querier) (found []diagnosis.Finding, err error) {
	var user string
	if _, err := queryRow(ctx, q, `SELECT current_user::text`, nil, &user); err != nil {
		return nil, err
	}
	missing := func(role diagnosis.Role, severity diagnosis.Severity, cause string, lacks []lack) {
		found = append(found, diagnosis.Finding{Code: "privileges-missing", Severity: severity, Subject: user, Cause: cause, Remedy: grantAll(lacks, user)})
	}
	if role := p.limits.Role; role != "" {
		lacks, _, err := p.lacks(ctx, q, role)
		if len(lacks) > 0 {
			missing(role, diagnosis.Critical, fmt.Sprintf("this user may not do all that a %s does", role), lacks)
		}
		return found, err
	}
	reader, _, err := p.lacks(ctx, q, diagnosis.Reader)
	if err != nil {
		return nil, err
	}
	if len(reader) > 0 {
		missing(diagnosis.Reader, diagnosis.Warning, "this user may not read what a relay and an operator read", reader)
		return found, nil
	}
	var closest []lack
	var like diagnosis.Role
	for _, role := range []diagnosis.Role{diagnosis.Relay, diagnosis.Operator} {
		lacks, writes, err := p.lacks(ctx, q, role)
		if err != nil || len(lacks) == 0 || writes == 0 { // nothing, or it only reads
			return nil, err
		}
		if like == "" || len(lacks) < len(closest) {
			closest, like = lacks, role
		}
	}
	missing(like, diagnosis.Warning, fmt.Sprintf("this user may write some of what a %s writes, and not all", like), closest)
	return found, nil
}

// lacks returns what the user lacks of a role, and how many privileges it has to write what producers don't.
func (p *practice) lacks(ctx context.Context, q Querier, role diagnosis.Role) (lacks []lack, writes int, err error) {
	for _, n := range needs[role] {
		table := p.engine.config.name(n.table)
		for _, privilege := range n.privileges {
			kind, columns, some := strings.Cut(privilege, " (")
			var may bool
			args := []any{table, kind}
			test := `has_table_privilege(to_regclass($1), $2)`
			switch {
			case n.table == "sequence":
				test = `has_sequence_privilege(to_regclass($1), $2)`
			case some:
				args = append(args, strings.TrimSuffix(columns, ")"))
				test = `(SELECT bool_and(has_column_privilege(to_regclass($1), c, $2)) FROM unnest(string_to_array($3, ', ')) c)`
			}
			if _, err := queryRow(ctx, q, `SELECT coalesce(`+test+`, true)`, args, &may); err != nil {
				return nil, 0, err
			}
			switch {
			case !may:
				lacks = append(lacks, lack{privilege, table})
			case kind != "SELECT" && n.table != "outbox" && n.table != "scheduled": // to which producers write, too
				writes++
			}
		}
	}
	return lacks, writes, nil
}

// grantAll returns the statements, one for each table and list of columns.
func grantAll(lacks []lack, user string) string {
	var whole []string
	for i, l := range lacks {
		if i > 0 && l.table == lacks[i-1].table {
			whole[len(whole)-1] = strings.Replace(whole[len(whole)-1], " ON ", ", "+l.privilege+" ON ", 1)
			continue
		}
		whole = append(whole, l.privilege+" ON "+l.table)
	}
	return grants(whole, user)
}

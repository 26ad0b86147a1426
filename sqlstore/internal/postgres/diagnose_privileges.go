package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/surepost/surepost/diagnosis"
)

// need is what a role must be granted on one table. Columns are those that the privileges are granted for, where not for all.
type need struct{ table, privileges, columns string }

const readAndWrite = "SELECT, INSERT, UPDATE, DELETE"

// needs are the privileges by role, as the README has them under "Privileges". Of the inbox's leaves one stands for all.
var needs = map[diagnosis.Role][]need{
	diagnosis.Reader: {
		{"outbox", "SELECT", ""}, {"sequence", "SELECT", ""}, {"migration", "SELECT", ""}, {"lease", "SELECT", ""}, {"checkpoint", "SELECT", ""},
		{"parked", "SELECT", ""}, {"destination", "SELECT", ""}, {"relay", "SELECT", ""}, {"scheduled", "SELECT", ""},
	},
	diagnosis.Relay: {
		{"outbox", "SELECT", ""}, {"outbox", "INSERT", eventColumns + ", ring"}, {"sequence", "SELECT", ""}, {"migration", "SELECT", ""},
		{"destination", "SELECT", ""}, {"destination", "INSERT", "name, lanes"}, {"destination", "UPDATE", "done_at"},
		{"relay", readAndWrite, ""}, {"parked", readAndWrite, ""}, {"lease", "SELECT, INSERT, UPDATE", ""}, {"checkpoint", "SELECT, INSERT, DELETE", ""},
		{"scheduled", "SELECT, DELETE", ""}, {"scheduled", "UPDATE", "n"}, {"ring", "SELECT", ""}, {"ring", "UPDATE", "current_at, left_at, emptied"},
		{"outbox_0", "SELECT, TRUNCATE", ""}, {"outbox_1", "SELECT, TRUNCATE", ""}, {"outbox_2", "SELECT, TRUNCATE", ""}, {"outbox_3", "SELECT, TRUNCATE", ""},
	},
	diagnosis.Operator: {
		{"outbox", "SELECT", ""}, {"sequence", "SELECT", ""}, {"migration", "SELECT", ""}, {"inbox", "SELECT", ""}, {"ring", "SELECT", ""},
		{"destination", readAndWrite, ""}, {"relay", readAndWrite, ""}, {"lease", readAndWrite, ""}, {"parked", readAndWrite, ""},
		{"checkpoint", "SELECT, INSERT, DELETE", ""}, {"scheduled", "SELECT, DELETE", ""}, {"parked_action", "SELECT, INSERT", ""},
		{"cancellation", "SELECT, INSERT", ""},
	},
	diagnosis.Producer: {
		{"outbox", "INSERT", eventColumns + ", ring"}, {"ring", "SELECT", ""},
		{"scheduled", "INSERT", "not_before, " + eventColumns}, {"scheduled", "SELECT", "n, not_before, id"}, {"scheduled", "UPDATE", "n"},
		{"scheduled", "DELETE", ""},
	},
	diagnosis.Consumer: {
		{"inbox", "SELECT, INSERT", ""}, {"inbox_attempt", readAndWrite, ""},
		{"inbox_0", "SELECT, DELETE, TRUNCATE", ""}, {"inbox_0", "UPDATE", "leaf"},
	},
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
		for privilege := range strings.SplitSeq(n.privileges, ", ") {
			var may bool
			args := []any{table, privilege}
			test := `has_table_privilege(to_regclass($1), $2)`
			switch {
			case n.table == "sequence":
				test = `has_sequence_privilege(to_regclass($1), $2)`
			case n.columns != "":
				args = append(args, n.columns)
				test = `(SELECT bool_and(has_column_privilege(to_regclass($1), c, $2)) FROM unnest(string_to_array($3, ', ')) c)`
			}
			if _, err := queryRow(ctx, q, `SELECT coalesce(`+test+`, true)`, args, &may); err != nil {
				return nil, 0, err
			}
			switch {
			case !may && n.columns != "":
				lacks = append(lacks, lack{privilege + " (" + n.columns + ")", table})
			case !may:
				lacks = append(lacks, lack{privilege, table})
			case privilege != "SELECT" && n.table != "outbox" && n.table != "scheduled": // to which producers write, too
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

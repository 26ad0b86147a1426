package integration

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/diagnosis"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/relay/relaytest"
	"github.com/surepost/surepost/sqlstore"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// impatient makes what a test has just begun old enough to be named.
var impatient = diagnosis.Limits{TransactionAge: time.Nanosecond, Behind: time.Nanosecond}

// doctor is what a store tells about its database.
type doctor interface {
	Diagnose(ctx context.Context, limits diagnosis.Limits) ([]diagnosis.Finding, error)
}

func diagnose(t *testing.T, of doctor, limits diagnosis.Limits) []diagnosis.Finding {
	t.Helper()
	findings, err := of.Diagnose(t.Context(), limits)
	if err != nil {
		t.Fatal(err)
	}
	if len(findings) == 0 {
		t.Fatal("the doctor has nothing to say")
	}
	for _, f := range findings {
		if f.Code == "" || f.Cause == "" || (f.Remedy == "") != (f.Severity == diagnosis.Good) {
			t.Errorf("a finding lacks something: %+v", f)
		}
	}
	return findings
}

// found returns the findings that have the code.
func found(findings []diagnosis.Finding, code string) (of []diagnosis.Finding) {
	for _, f := range findings {
		if f.Code == code {
			of = append(of, f)
		}
	}
	return of
}

// requireFinding demands one finding of the code and severity, and words in what it says.
func requireFinding(t *testing.T, findings []diagnosis.Finding, code string, severity diagnosis.Severity, subject string, words ...string) diagnosis.Finding {
	t.Helper()
	of := found(findings, code)
	if i := slices.IndexFunc(of, func(f diagnosis.Finding) bool { return f.Subject == subject }); i >= 0 {
		f := of[i]
		if f.Severity != severity {
			t.Errorf("%s is %v, want %v", code, f.Severity, severity)
		}
		for _, word := range words {
			if !strings.Contains(f.String(), word) {
				t.Errorf("%s doesn't say %q:\n%s", code, word, f)
			}
		}
		return f
	}
	t.Errorf("no finding %s of %q:\n%s", code, subject, list(findings))
	return diagnosis.Finding{}
}

func requireNone(t *testing.T, findings []diagnosis.Finding, code string) {
	t.Helper()
	if of := found(findings, code); len(of) > 0 && of[0].Severity != diagnosis.Good {
		t.Errorf("mended, and still there:\n%s", list(of))
	}
}

func list(findings []diagnosis.Finding) string {
	var b strings.Builder
	for _, f := range findings {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}

// healthy begins to relay, so that nothing is wrong.
func healthy(t *testing.T, store *pgxstore.Store) (log relay.Log) {
	t.Helper()
	log, _ = openLog(t, store, "a")
	for checkpoint(t, log, 1000).Full {
	}
	return log
}

func backendPID(t *testing.T, tx pgx.Tx) (subject string) {
	t.Helper()
	var pid int
	if err := tx.QueryRow(t.Context(), "SELECT pg_backend_pid()").Scan(&pid); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("pid %d", pid)
}

func TestAHealthyDatabaseHasNoFindingAboveGood(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.Postgres(harness.Private())).Postgres // the shared one doesn't wait for the disk
	pool, store := poolOn(t, server.URL())
	box := newBox(t, store)
	write(t, pool, box, numbered(10)...)
	healthy(t, store)
	findings := diagnose(t, store, diagnosis.Limits{RedeliveryHorizon: time.Hour, DedupeWindow: 24 * time.Hour})
	if diagnosis.Worst(findings) > diagnosis.Good {
		t.Errorf("a healthy database:\n%s", list(findings))
	}
	for _, code := range []string{"database", "pooler", "clock", "durability", "activity", "migrations", "locks", "transactions", "prepared-transactions",
		"xmin", "tables", "sequence", "privileges", "lanes", "parked", "inbox", "dedupe-window"} {
		if len(found(findings, code)) != 1 {
			t.Errorf("%s wasn't said to be good:\n%s", code, list(findings))
		}
	}
	t.Log(list(findings))
}

// Each of these is provoked, found, named and gone when it is mended.
func TestTheDoctorFindsWhoHoldsEventsBack(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	healthy(t, store)

	writer := begin(t, pool)
	execTx(t, writer, "SET application_name = 'billing'")
	if err := box.Write(t.Context(), writer, surepost.Event{Type: "Held"}); err != nil {
		t.Fatal(err)
	}
	reader := begin(t, pool)
	execTx(t, reader, "SELECT count(*) FROM surepost_outbox")
	findings := diagnose(t, store, impatient)
	pid := backendPID(t, writer)
	requireFinding(t, findings, "straggler", diagnosis.Warning, pid, "billing", "INSERT INTO", "idle in transaction", "pg_terminate_backend("+strings.TrimPrefix(pid, "pid ")+")")
	requireFinding(t, findings, "retention-held", diagnosis.Warning, backendPID(t, reader), "count(*)")
	if fresh := diagnose(t, store, diagnosis.Limits{}); len(found(fresh, "straggler"))+len(found(fresh, "retention-held")) > 0 {
		t.Errorf("transactions that have just begun are named:\n%s", list(fresh))
	}
	_ = writer.Rollback(t.Context())
	_ = reader.Rollback(t.Context())
	findings = diagnose(t, store, impatient)
	requireNone(t, findings, "straggler")
	requireNone(t, findings, "retention-held")

	prepared := begin(t, pool)
	if err := box.Write(t.Context(), prepared, surepost.Event{Type: "Held"}); err != nil {
		t.Fatal(err)
	}
	gid := "left open by " + surepost.NewID()
	execTx(t, prepared, "PREPARE TRANSACTION '"+gid+"'")
	_ = prepared.Rollback(t.Context())
	elsewhere := begin(t, pool)
	execTx(t, elsewhere, "CREATE TABLE elsewhere (n int)")
	execTx(t, elsewhere, "PREPARE TRANSACTION '"+gid+" elsewhere'")
	_ = elsewhere.Rollback(t.Context())
	findings = diagnose(t, store, impatient)
	requireFinding(t, findings, "prepared-transaction", diagnosis.Critical, gid, "COMMIT PREPARED '"+gid+"'")
	requireFinding(t, findings, "prepared-transaction", diagnosis.Warning, gid+" elsewhere")
	execSQL(t, pool, "ROLLBACK PREPARED '"+gid+"'", "ROLLBACK PREPARED '"+gid+" elsewhere'")
	if left := found(diagnose(t, store, impatient), "prepared-transaction"); slices.ContainsFunc(left, func(f diagnosis.Finding) bool { return strings.HasPrefix(f.Subject, gid) }) {
		t.Errorf("mended, and still there:\n%s", list(left))
	}
}

// While somebody locks a table the doctor doesn't hang, and says who.
func TestTheDoctorNamesWhoLocksTheTables(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	healthy(t, store)
	locker := begin(t, pool)
	execTx(t, locker, "LOCK TABLE surepost_outbox IN ACCESS EXCLUSIVE MODE")
	waiting := make(chan error, 1)
	go func() {
		waiting <- pgx.BeginFunc(context.Background(), pool, func(tx pgx.Tx) error { return box.Write(context.Background(), tx, surepost.Event{Type: "T"}) })
	}()
	const waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'surepost_outbox'::regclass"
	for count(t, pool, waits) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	from := time.Now()
	findings := diagnose(t, store, diagnosis.Limits{})
	if took := time.Since(from); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
	requireFinding(t, findings, "table-locked", diagnosis.Critical, backendPID(t, locker), "AccessExclusiveLock on surepost_outbox", "1 sessions wait")
	if unknown := found(findings, "lanes-unknown"); len(unknown) != 1 || !strings.Contains(unknown[0].Remedy, "locks") {
		t.Errorf("what couldn't be looked at isn't a finding:\n%s", list(findings))
	}
	requireNone(t, findings, "privileges-missing") // the checks behind went on
	if len(found(findings, "dedupe-window")) != 1 {
		t.Errorf("the last check wasn't made:\n%s", list(findings))
	}
	_ = locker.Rollback(t.Context())
	if err := <-waiting; err != nil {
		t.Fatal(err)
	}

	// Somebody reads for long, a migration waits for him, and all the others wait for the migration.
	reader := begin(t, pool)
	execTx(t, reader, "SELECT count(*) FROM surepost_outbox")
	migration := begin(t, pool)
	pid := backendPID(t, migration)
	go func() {
		_, err := migration.Exec(context.Background(), "ALTER TABLE surepost_outbox ADD COLUMN extra int")
		waiting <- err
	}()
	for count(t, pool, waits) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	findings = diagnose(t, store, diagnosis.Limits{})
	requireFinding(t, findings, "table-locked", diagnosis.Critical, pid, "behind "+backendPID(t, reader), "ALTER TABLE")
	_ = reader.Rollback(t.Context())
	if err := <-waiting; err != nil {
		t.Fatal(err)
	}
	_ = migration.Rollback(t.Context())
	requireNone(t, diagnose(t, store, diagnosis.Limits{}), "table-locked")
}

func TestTheDoctorFindsWhatWasDoneToTheTables(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ill, mend string
		code      string
		severity  diagnosis.Severity
		subject   string
		words     []string
	}{
		"a cache":          {"ALTER SEQUENCE surepost_sequence CACHE 20", "ALTER SEQUENCE surepost_sequence CACHE 1", "sequence-cache", diagnosis.Critical, `"surepost_sequence"`, []string{"CACHE 20", "CACHE 1"}},
		"steps":            {"ALTER SEQUENCE surepost_sequence INCREMENT 2", "ALTER SEQUENCE surepost_sequence INCREMENT 1", "sequence-step", diagnosis.Critical, `"surepost_sequence"`, []string{"steps by 2"}},
		"a set back":       {"SELECT setval('surepost_sequence', 3)", "SELECT setval('surepost_sequence', 10)", "sequence-behind", diagnosis.Critical, `"surepost_sequence"`, []string{"stands at 3", "at 10", "setval"}},
		"unlogged":         {"ALTER TABLE LEAF SET UNLOGGED", "ALTER TABLE LEAF SET LOGGED", "table-unlogged", diagnosis.Critical, "LEAF", []string{"SET LOGGED"}},
		"no index":         {"DROP INDEX LEAF_tx", "CREATE INDEX LEAF_tx ON LEAF (tx, seq)", "index-missing", diagnosis.Critical, "LEAF", []string{"begins with tx"}},
		"another default":  {"ALTER TABLE surepost_outbox ALTER tx SET DEFAULT '3'::xid8", "ALTER TABLE surepost_outbox ALTER tx SET DEFAULT pg_current_xact_id()", "table-changed", diagnosis.Critical, "surepost_outbox", nil},
		"an old migration": {"DELETE FROM surepost_migration WHERE version = 2", "INSERT INTO surepost_migration (version, name) VALUES (2, 'inbox_attempts')", "migrations-missing", diagnosis.Critical, "002_inbox_attempts", []string{"migrate up"}},
		"a newer one":      {"INSERT INTO surepost_migration (version, name) VALUES (999, 'later')", "DELETE FROM surepost_migration WHERE version = 999", "migrations-newer", diagnosis.Warning, "999", []string{"update"}},
		"no tables":        {"ALTER SCHEMA public RENAME TO hidden", "ALTER SCHEMA hidden RENAME TO public", "tables-missing", diagnosis.Critical, `"surepost_migration"`, []string{"migrate up"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool, store := newPool(t)
			write(t, pool, newBox(t, store), numbered(10)...)
			healthy(t, store)
			leaf := "surepost_outbox" // or its first partition
			if count(t, pool, "SELECT count(to_regclass('surepost_outbox_0'))") > 0 {
				leaf = "surepost_outbox_0"
			}
			in := strings.NewReplacer("LEAF", leaf).Replace
			execSQL(t, pool, in(c.ill))
			requireFinding(t, diagnose(t, store, diagnosis.Limits{}), c.code, c.severity, in(c.subject), c.words...)
			execSQL(t, pool, in(c.mend))
			findings := diagnose(t, store, diagnosis.Limits{})
			for _, f := range findings {
				if f.Severity > diagnosis.Good && f.Code != "not-durable" { // as the shared server is
					t.Errorf("mended, and still: %s", f)
				}
			}
		})
	}
}

func TestTheDoctorSeesWhetherEventsArePublished(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	requireFinding(t, diagnose(t, store, diagnosis.Limits{}), "no-relay", diagnosis.Warning, "destination default")
	write(t, pool, box, surepost.Event{ID: "e", Type: "T", Key: "k", Time: time.Now().Add(-time.Hour)})
	requireFinding(t, diagnose(t, store, diagnosis.Limits{}), "no-relay", diagnosis.Critical, "destination default", "1 events wait, the oldest for 1h")

	log, lease := openLog(t, store, "a")
	requireFinding(t, diagnose(t, store, diagnosis.Limits{}), "lane-behind", diagnosis.Critical, "lane default 0/1", "a has the lane", "published nothing yet")
	requireFinding(t, diagnose(t, store, diagnosis.Limits{Behind: 10 * time.Minute}), "lane-behind", diagnosis.Warning, "lane default 0/1")
	page, err := log.Read(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	if err := log.Checkpoint(t.Context(), page.After, []relay.Parked{{Entry: page.Entries[0], Reason: "no queue is bound"}}); err != nil {
		t.Fatal(err)
	}
	findings := diagnose(t, store, diagnosis.Limits{})
	requireNone(t, findings, "lane-behind")
	requireFinding(t, findings, "parked", diagnosis.Warning, "destination default", "1 events of 1 keys", "no queue is bound")

	execSQL(t, pool, "INSERT INTO surepost_relay (destination, owner, instance, expires_at) VALUES ('default', 'b', 'i', now() + interval '1 hour')",
		"UPDATE surepost_lease SET expires_at = now() - interval '1 minute'")
	requireFinding(t, diagnose(t, store, diagnosis.Limits{}), "lease-expired", diagnosis.Warning, "lane default 0/1", "the lease of a ran out 1m")
	write(t, pool, box, surepost.Event{Type: "T", Time: time.Now().Add(-time.Hour)})
	requireFinding(t, diagnose(t, store, diagnosis.Limits{}), "lease-expired", diagnosis.Critical, "lane default 0/1", "1 events wait")
	if err := store.Release(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	requireFinding(t, diagnose(t, store, diagnosis.Limits{}), "lane-unowned", diagnosis.Critical, "lane default 0/1")

	if _, err := store.DiscardParked(t.Context(), relay.ParkedFilter{}, "me"); err != nil {
		t.Fatal(err)
	}
	r := relaytest.New(t, store)
	r.Drain()
	findings = diagnose(t, store, diagnosis.Limits{})
	for _, code := range []string{"no-relay", "lane-behind", "lane-unowned", "lease-expired", "parked"} {
		requireNone(t, findings, code)
	}
}

// roleURL returns the URL of a new role with these grants.
func roleURL(t *testing.T, pool *pgxpool.Pool, base string, grants ...string) (name, address string) {
	t.Helper()
	name = "doctor_" + strings.ReplaceAll(surepost.NewID(), "-", "_")
	execSQL(t, pool, "CREATE ROLE "+name+" LOGIN PASSWORD 'secret'")
	t.Cleanup(func() {
		_, err := pool.Exec(context.Background(), "DROP OWNED BY "+name+"; DROP ROLE "+name)
		if err != nil {
			t.Error(err)
		}
	})
	for _, grant := range grants {
		execSQL(t, pool, grant+" TO "+name)
	}
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(name, "secret")
	return name, u.String()
}

func storeOn(t *testing.T, address string) *pgxstore.Store {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pgxstore.New(pool)
}

// readsAll is what an operator is granted.
const readsAll = "GRANT SELECT ON ALL TABLES IN SCHEMA public"

func TestTheDoctorNeedsNoMoreThanToRead(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.Postgres(harness.Private())).Postgres
	base := server.URL()
	pool, store := poolOn(t, base)
	healthy(t, store)
	_, address := roleURL(t, pool, base, readsAll, "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public", "GRANT pg_read_all_stats")
	operator := storeOn(t, address)
	if findings := diagnose(t, operator, diagnosis.Limits{}); diagnosis.Worst(findings) > diagnosis.Good {
		t.Errorf("as an operator:\n%s", list(findings))
	}
	outboxStatus(t, operator)

	// Without the statistics it sees that a transaction is there, and says what it can't see.
	writer := begin(t, pool)
	if err := newBox(t, store).Write(t.Context(), writer, surepost.Event{Type: "Held"}); err != nil {
		t.Fatal(err)
	}
	name, address := roleURL(t, pool, base, readsAll, "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public")
	findings := diagnose(t, storeOn(t, address), diagnosis.Limits{})
	requireFinding(t, findings, "activity-hidden", diagnosis.Notice, name, "GRANT pg_read_all_stats TO")
	requireFinding(t, findings, "straggler", diagnosis.Warning, backendPID(t, writer), "may not see")
	_ = writer.Rollback(t.Context())
	requireNone(t, diagnose(t, storeOn(t, address), diagnosis.Limits{}), "straggler")

	// Without the right to read it says which one is missing.
	_, address = roleURL(t, pool, base, "GRANT pg_read_all_stats")
	findings = diagnose(t, storeOn(t, address), diagnosis.Limits{})
	requireFinding(t, findings, "migrations-unknown", diagnosis.Warning, "", "GRANT SELECT ON surepost_migration")
	name, address = roleURL(t, pool, base, "GRANT SELECT ON surepost_migration")
	findings = diagnose(t, storeOn(t, address), diagnosis.Limits{})
	requireFinding(t, findings, "privileges-missing", diagnosis.Warning, name, `GRANT SELECT ON "surepost_outbox" TO "`+name)
}

func TestTheDoctorFindsProducersThatDoNotWaitForTheDisk(t *testing.T) {
	t.Parallel()
	base := harness.Start(t, harness.Postgres()).Postgres.URL()
	pool, store := poolOn(t, base)
	healthy(t, store)
	findings := diagnose(t, store, diagnosis.Limits{})
	requireFinding(t, findings, "not-durable", diagnosis.Critical, "fsync", "ALTER SYSTEM") // as the tests' shared server is
	if f := found(findings, "asynchronous-commit"); len(f) > 0 {
		t.Errorf("%s", list(f))
	}
	producer, _ := roleURL(t, pool, base, "GRANT INSERT (type) ON surepost_outbox")
	bystander, _ := roleURL(t, pool, base)
	for _, role := range []string{producer, bystander} {
		execSQL(t, pool, "ALTER ROLE "+role+" SET synchronous_commit = off")
	}
	findings = diagnose(t, store, diagnosis.Limits{})
	requireFinding(t, findings, "asynchronous-commit", diagnosis.Critical, "role "+producer, "ALTER ROLE "+producer+" RESET synchronous_commit")
	if of := found(findings, "asynchronous-commit"); len(of) != 1 {
		t.Errorf("who writes no events is named:\n%s", list(of))
	}
	execSQL(t, pool, "ALTER ROLE "+producer+" RESET synchronous_commit", fmt.Sprintf("ALTER DATABASE %s SET synchronous_commit = off", pgx.Identifier{pool.Config().ConnConfig.Database}.Sanitize()))
	requireFinding(t, diagnose(t, store, diagnosis.Limits{}), "asynchronous-commit", diagnosis.Critical, "database "+pool.Config().ConnConfig.Database)
}

func TestTheDoctorSaysWhyTheDatabaseCanNotBeReached(t *testing.T) {
	t.Parallel()
	findings := diagnose(t, storeOn(t, "postgres://u:p@127.0.0.1:1/nowhere"), diagnosis.Limits{})
	requireFinding(t, findings, "database-unreachable", diagnosis.Critical, "", "refused")
	if len(findings) != 1 {
		t.Errorf("more is said of a database that can't be reached:\n%s", list(findings))
	}
	if _, err := pgxstore.New(nil).Diagnose(t.Context(), diagnosis.Limits{}); err == nil {
		t.Error("a store without a pool has a healthy database")
	}
	if _, err := storeOn(t, "postgres://u:p@127.0.0.1:1/nowhere").Diagnose(t.Context(), diagnosis.Limits{Behind: -1}); err == nil {
		t.Error("a negative limit is taken")
	}
}

// Statements that a pooler breaks are found, and through one that works the doctor sees all that it sees without.
func TestTheDoctorWorksThroughAPooler(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.Postgres(harness.Private())).Postgres
	pool, store := poolOn(t, server.URL())
	healthy(t, store)
	via := startBouncer(t, server.URL(), transactions...)
	held := begin(t, pool)
	if err := newBox(t, store).Write(t.Context(), held, surepost.Event{Type: "Held"}); err != nil {
		t.Fatal(err)
	}
	through := storeOn(t, via.url(server.URL())+"&default_query_exec_mode=exec")
	findings := diagnose(t, through, impatient)
	requireFinding(t, findings, "straggler", diagnosis.Warning, backendPID(t, held))
	_ = held.Rollback(t.Context())
	if findings := diagnose(t, through, diagnosis.Limits{}); diagnosis.Worst(findings) > diagnosis.Good {
		t.Errorf("through pgbouncer:\n%s", list(findings))
	}
	db, err := sql.Open("postgres", via.url(server.URL()))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	requireFinding(t, diagnose(t, sqlstore.New(db), diagnosis.Limits{}), "pooler-mode", diagnosis.Critical, "", "binary_parameters")
}

// Through a standby, and where transactions are read-only, nothing can be published.
func TestTheDoctorFindsThatItCanNotWrite(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.Postgres(harness.Private())).Postgres
	pool, store := poolOn(t, server.URL())
	healthy(t, store)
	database := pgx.Identifier{pool.Config().ConnConfig.Database}.Sanitize()
	execSQL(t, pool, "ALTER DATABASE "+database+" SET default_transaction_read_only = on")
	requireFinding(t, diagnose(t, store, diagnosis.Limits{}), "read-only", diagnosis.Critical, pool.Config().ConnConfig.Database, "default_transaction_read_only")

	admin := storeAdmin(t, server.AdminURL())
	execSQL(t, admin, "ALTER DATABASE "+database+" RESET default_transaction_read_only",
		// A server with this file begins as a standby, of nobody.
		"DO $$ BEGIN EXECUTE format('COPY (SELECT) TO %L', current_setting('data_directory') || '/standby.signal'); END $$")
	server.Restart(t)
	requireFinding(t, diagnose(t, store, diagnosis.Limits{}), "standby", diagnosis.Critical, pool.Config().ConnConfig.Database, "target_session_attrs=read-write")
}

func storeAdmin(t *testing.T, address string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func TestTheDoctorFindsWhatHoldsBackTheRemovalOfDeadRows(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.Postgres(harness.Private())).Postgres
	pool, store := poolOn(t, server.URL())
	healthy(t, store)
	reader, err := pool.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Rollback(context.Background())
	execTx(t, reader, "SELECT 1 FROM pg_class LIMIT 1")
	requireFinding(t, diagnose(t, store, impatient), "xmin-held", diagnosis.Notice, backendPID(t, reader), "pg_class")
	_ = reader.Rollback(t.Context())
	requireNone(t, diagnose(t, store, impatient), "xmin-held")
}

func TestTheDoctorFindsScheduledEventsThatNobodyMoves(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	healthy(t, store)
	write(t, pool, newBox(t, store), surepost.Event{Type: "T", NotBefore: time.Now().Add(time.Hour)})
	requireNone(t, diagnose(t, store, diagnosis.Limits{}), "schedule-overdue")
	execSQL(t, pool, "UPDATE surepost_scheduled SET not_before = now() - interval '1 minute'")
	requireFinding(t, diagnose(t, store, diagnosis.Limits{}), "schedule-overdue", diagnosis.Critical, "", "was due 1m")
	if _, _, err := store.MoveDue(t.Context(), 10); err != nil {
		t.Fatal(err)
	}
	requireNone(t, diagnose(t, store, diagnosis.Limits{}), "schedule-overdue")
}

func TestTheDoctorLooksAtTheInbox(t *testing.T) {
	t.Parallel()
	base := harness.Start(t, harness.Postgres()).Postgres.URL()
	pool, store := poolOn(t, base)
	healthy(t, store)
	execSQL(t, pool, `INSERT INTO surepost_inbox (consumer, event_id, handled_at, leaf)
SELECT 'billing', 'e' || n, now() - make_interval(hours => n), 16 FROM generate_series(0, 1000) n
UNION ALL SELECT 'gone', 'e' || n, now() - make_interval(days => 30 + n), 16 FROM generate_series(0, 10) n`)
	findings := diagnose(t, store, diagnosis.Limits{})
	requireFinding(t, findings, "consumer-idle", diagnosis.Notice, "consumer gone", "720h")
	if of := append(found(findings, "consumer-idle"), found(findings, "inbox-unpruned")...); len(of) != 1 {
		t.Errorf("more than the consumer that is gone:\n%s", list(of))
	}
	findings = diagnose(t, store, diagnosis.Limits{DedupeWindow: 24 * time.Hour})
	requireFinding(t, findings, "inbox-unpruned", diagnosis.Notice, "consumer billing", "window is 24h")
	execSQL(t, pool, "DELETE FROM surepost_inbox WHERE handled_at < now() - interval '1 day'")
	findings = diagnose(t, store, diagnosis.Limits{DedupeWindow: 24 * time.Hour})
	requireNone(t, findings, "consumer-idle")
	requireNone(t, findings, "inbox-unpruned")

	_, address := roleURL(t, pool, base, "GRANT SELECT ON surepost_outbox, surepost_sequence, surepost_migration, surepost_lease, surepost_checkpoint, surepost_parked, "+
		"surepost_destination, surepost_relay, surepost_scheduled")
	findings = diagnose(t, storeOn(t, address), diagnosis.Limits{})
	if hidden := found(findings, "inbox-hidden"); len(hidden) != 1 || !strings.Contains(hidden[0].Remedy, `GRANT SELECT ON "surepost_inbox" TO`) {
		t.Errorf("without the right to read the inbox:\n%s", list(findings))
	}

	// An event that should be gone.
	write(t, pool, newBox(t, store), surepost.Event{Type: "T", Time: time.Now().Add(-100 * time.Hour)})
	requireFinding(t, diagnose(t, store, diagnosis.Limits{Retention: 24 * time.Hour}), "retention-overdue", diagnosis.Warning, "", "from 100h", "kept for 24h")
	requireNone(t, diagnose(t, store, diagnosis.Limits{Retention: 99 * time.Hour}), "retention-overdue")
}

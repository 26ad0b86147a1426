package integration

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/relay"
	"github.com/surepost/surepost/sqlstore/pgxstore"
)

// pooledTests are the tests of the stores that don't restart their server.
var pooledTests = map[string]func(*testing.T){
	"PgxStoreConforms":                          TestPgxStoreConforms,
	"EveryWayToWriteGivesTheSameEvent":          TestEveryWayToWriteGivesTheSameEvent,
	"MigrationsAtTheSameTime":                   TestMigrationsAtTheSameTime,
	"CopiesAtTheSameMomentHaveOneEffect":        TestCopiesAtTheSameMomentHaveOneEffect,
	"TheSecondCopyDoesTheWorkWhenTheFirstFails": TestTheSecondCopyDoesTheWorkWhenTheFirstFails,
	"AFailedHandlerLeavesNothing":               TestAFailedHandlerLeavesNothing,
	"AttemptsAreCountedStartedAndFinished":      TestAttemptsAreCountedStartedAndFinished,
	"ABatchIsOneTransaction":                    TestABatchIsOneTransaction,
	"OverlappingBatchesDoNotWaitInCircles":      TestOverlappingBatchesDoNotWaitInCircles,
	"LateCommitIsNotSkipped":                    TestLateCommitIsNotSkipped,
	"LaneCountsChangeUnderLateCommits":          TestLaneCountsChangeUnderLateCommits,
	"AHeldTransactionHoldsUpNobodyElse":         TestAHeldTransactionHoldsUpNobodyElse,
	"ManyStragglersComeInPages":                 TestManyStragglersComeInPages,
	"AStragglerAmongManySavepointsIsNotSkipped": TestAStragglerAmongManySavepointsIsNotSkipped,
	"TheVeryFirstEventIsNotLost":                TestTheVeryFirstEventIsNotLost,
	"ASequenceBehindTheCursorHaltsTheLane":      TestASequenceBehindTheCursorHaltsTheLane,
	"ASequenceThatWasSetBackHaltsTheLane":       TestASequenceThatWasSetBackWhileTheRelayWasDownHaltsTheLane,
	"AnOddRowHoldsUpNobody":                     TestAnOddRowHoldsUpNobody,
	"AnEpochThatIsGivenOutTwiceFencesStill":     TestAnEpochThatIsGivenOutTwiceFencesStill,
	"ALostLeaseWritesNothing":                   TestALostLeaseWritesNothing,
	"ChangedTablesAreRefusedAtStart":            TestChangedTablesAreRefusedAtStart,
	"ParkingIsStoredWithItsCheckpoint":          TestParkingIsStoredWithItsCheckpoint,
	"OldCheckpointsAreRemoved":                  TestOldCheckpointsAreRemoved,
	"ReopeningALogKeepsTheNewestCheckpoint":     TestReopeningALogKeepsTheNewestCheckpoint,
	"ReadsStayFlat":                             TestReadsStayFlat,
	"LockKeysMakesWritersOfAKeyWait":            TestLockKeysMakesWritersOfAKeyWait,
	"AReplayPublishesWhatItsFilterSelects":      TestAReplayPublishesWhatItsFilterSelects,
	"WhatCommitsLateIsNoPartOfAReplay":          TestWhatCommitsLateIsNoPartOfAReplay,
	"AReplayIsDoneWithItsLastLane":              TestAReplayIsDoneWithItsLastLane,
	"TheLastDestinationStaysWhoeverRemovesIt":   TestTheLastDestinationStaysWhoeverRemovesIt,
}

// The whole suite for pgx holds through pgbouncer in transaction mode: without prepared statements, and with them where
// pgbouncer can follow them.
func TestPgxStoreHoldsThroughPgBouncer(t *testing.T) {
	server := harness.Start(t, harness.Postgres()).Postgres
	plain := startBouncer(t, server.AdminURL(), transactions...)
	t.Run("exec", func(t *testing.T) {
		routePools(t, plain, pgx.QueryExecModeExec)
		for _, name := range slices.Sorted(maps.Keys(pooledTests)) {
			t.Run(name, pooledTests[name])
		}
	})
	if !plain.keepsStatements() {
		return // TestCheckNamesWhatAPoolerBreaks has what becomes of them here
	}
	t.Run("cache_statement", func(t *testing.T) {
		routePools(t, startBouncer(t, server.AdminURL(), keeping(transactions)...), pgx.QueryExecModeCacheStatement)
		for _, name := range slices.Sorted(maps.Keys(pooledTests)) {
			t.Run(name, pooledTests[name])
		}
	})
}

func keeping(settings []string) []string {
	return append(slices.Clone(settings), "max_prepared_statements = 200")
}

// The conformance suite holds with pgx's other ways to send a statement, and over database/sql with either driver.
func TestStoresConformThroughPgBouncer(t *testing.T) {
	b := startBouncer(t, harness.Start(t, harness.Postgres()).Postgres.AdminURL(), transactions...)
	for name, mode := range map[string]pgx.QueryExecMode{
		"cache_describe": pgx.QueryExecModeCacheDescribe, "simple_protocol": pgx.QueryExecModeSimpleProtocol,
	} {
		t.Run(name, func(t *testing.T) {
			routePools(t, b, mode)
			TestPgxStoreConforms(t)
		})
	}
	t.Run("sql", func(t *testing.T) {
		routePools(t, b, pgx.QueryExecModeExec)
		TestSQLStoreConforms(t)
	})
}

// sqlSettings are what the drivers of database/sql need behind a pooler in transaction mode.
var sqlSettings = map[string]string{"pgx": "&default_query_exec_mode=exec", "postgres": "&binary_parameters=yes"}

// A driver that prepares statements breaks behind a pooler in transaction mode, and one of them in silence. Check says so at
// the start, and nothing of the kind where all is well.
func TestCheckNamesWhatAPoolerBreaks(t *testing.T) {
	t.Parallel()
	server := harness.Start(t, harness.Postgres()).Postgres
	poolOn(t, server.URL()) // which migrates
	type driver struct{ name, settings string }
	const pgxRemedy, pqRemedy = "default_query_exec_mode=exec", "binary_parameters=yes"
	broken := map[driver]string{
		{"pgxpool", ""}: pgxRemedy,
		{"pgxpool", "&default_query_exec_mode=describe_exec"}: pgxRemedy,
		{"pgx", ""}:      pgxRemedy,
		{"postgres", ""}: pqRemedy,
	}
	sound := []driver{
		{"pgxpool", "&default_query_exec_mode=exec"}, {"pgxpool", "&default_query_exec_mode=cache_describe"},
		{"pgxpool", "&default_query_exec_mode=simple_protocol"}, {"pgx", sqlSettings["pgx"]}, {"postgres", sqlSettings["postgres"]},
	}
	check := func(t *testing.T, d driver, url string) error {
		t.Helper()
		if d.name != "pgxpool" {
			return newSQLStore(t, openSQL(t, d.name, url+d.settings)).Check(t.Context())
		}
		pool, err := pgxpool.New(t.Context(), url+d.settings)
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		return pgxstore.New(pool).Check(t.Context())
	}
	poolers := map[string][]string{
		"round robin": transactions,
		"last first":  {"pool_mode = transaction"},
		"session":     {"pool_mode = session"},
	}
	b := map[string]*bouncer{}
	for name, settings := range poolers {
		b[name] = startBouncer(t, server.AdminURL(), settings...)
	}
	keeps := b["session"].keepsStatements()
	if keeps {
		b["keeping"] = startBouncer(t, server.AdminURL(), keeping(transactions)...)
		b["round robin"].kill() // versions that can follow statements do so by default; these two must not
		b["round robin"] = startBouncer(t, server.AdminURL(), append(slices.Clone(transactions), "max_prepared_statements = 0")...)
		b["last first"].kill()
		b["last first"] = startBouncer(t, server.AdminURL(), "pool_mode = transaction", "max_prepared_statements = 0")
	}
	for d, remedy := range broken {
		for name, via := range b {
			err := check(t, d, via.url(server.URL()))
			named := d.settings == "" && strings.HasPrefix(d.name, "pgx")
			switch {
			case name == "session" || name == "keeping" && named:
				if err != nil {
					t.Errorf("%v through %s: %v, want nothing", d, name, err)
				}
			case !errors.Is(err, relay.ErrHalt) || !strings.Contains(err.Error(), remedy):
				t.Errorf("%v through %s: %v, want a halt that names %s", d, name, err, remedy)
			}
		}
		if err := check(t, d, server.URL()); err != nil {
			t.Errorf("%v without a pooler: %v", d, err)
		}
	}
	for _, d := range sound {
		for name, via := range b {
			if err := check(t, d, via.url(server.URL())); err != nil {
				t.Errorf("%v through %s: %v", d, name, err)
			}
		}
	}

	// A startup parameter that pgbouncer doesn't know.
	db := openSQL(t, "pgx", b["last first"].url(server.URL())+sqlSettings["pgx"]+"&work_mem=8MB")
	if err := newSQLStore(t, db).Check(t.Context()); err == nil || !strings.Contains(err.Error(), "ignore_startup_parameters") {
		t.Errorf("work_mem: %v, want an error that names ignore_startup_parameters", err)
	}
}

// pgbouncer dies twice and PostgreSQL once behind it, in the middle of the work.
func TestAPgBouncerCrashLosesNothing(t *testing.T) {
	t.Parallel()
	env := harness.Start(t, harness.Postgres(harness.Private()), harness.RabbitMQ())
	pg := env.Postgres
	b := startBouncer(t, pg.AdminURL(), append(slices.Clone(transactions), "server_login_retry = 1")...)
	routePools(t, b, pgx.QueryExecModeExec)
	f := newFlow(t, env)
	f.startConsumer(t)
	r, _ := f.startRelay(t)
	stop := f.keepProducing(t, 4)
	published := func() {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for before := r.Report().Published; r.Report().Published < before+20; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("nothing is published any more: %+v", r.Report())
			}
		}
	}
	published()
	for range 2 {
		b.kill()
		b.start()
		published()
	}
	pg.Kill(t)
	pg.Start(t)
	published()
	stop()
	n := f.settled(t, 30*time.Second)
	if rp := r.Report(); f.unroutable.Load() != 0 || rp.Parked != 0 {
		t.Errorf("the crashes spent %d tries: %+v", f.unroutable.Load(), rp)
	}
	t.Logf("%d events, %+v", n, r.Report())
}

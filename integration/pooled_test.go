package integration

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/surepost/surepost/harness"
)

// storeTests are the tests of pgxstore that don't restart their server.
var storeTests = map[string]func(*testing.T){
	"EveryWayToWrite":         TestEveryWayToWriteGivesTheSameEvent,
	"MigrationsAtTheSameTime": TestMigrationsAtTheSameTime,
	"CopiesAtTheSameMoment":   TestCopiesAtTheSameMomentHaveOneEffect,
	"TheSecondCopy":           TestTheSecondCopyDoesTheWorkWhenTheFirstFails,
	"AFailedHandler":          TestAFailedHandlerLeavesNothing,
	"TestTypedHandlers":       TestTypedHandlers,
	"InboxOverDatabaseSQL":    TestInboxOverDatabaseSQL,
	"Attempts":                TestAttemptsAreCountedStartedAndFinished,
	"Batch":                   TestABatchIsOneTransaction,
	"Held":                    TestAHeldTransactionHoldsUpNobodyElse,
	"stragglers":              TestManyStragglersComeInPages,
	"behind":                  TestASequenceBehindTheCursorHaltsTheLane,
	"setback":                 TestASequenceThatWasSetBackWhileTheRelayWasDownHaltsTheLane,
	"odd":                     TestAnOddRowHoldsUpNobody,
	"epoch":                   TestAnEpochThatIsGivenOutTwiceFencesStill,
	"changed":                 TestChangedTablesAreRefusedAtStart,
	"lost lease":              TestALostLeaseWritesNothing,
	"parking":                 TestParkingIsStoredWithItsCheckpoint,
	"checkpoints":             TestOldCheckpointsAreRemoved,
	"flat":                    TestReadsStayFlat,
	"lockkeys":                TestLockKeysMakesWritersOfAKeyWait,
	"first":                   TestTheVeryFirstEventIsNotLost,
	"savepoints":              TestAStragglerAmongManySavepointsIsNotSkipped,
	"reopen":                  TestReopeningALogKeepsTheNewestCheckpoint,
	"overlapping":             TestOverlappingBatchesDoNotWaitInCircles,
	"cut":                     TestLateCommitIsNotSkipped,
}

func TestPgxThroughPgBouncer(t *testing.T) {
	for name, mode := range map[string]pgx.QueryExecMode{
		"exec": pgx.QueryExecModeExec, "simple": pgx.QueryExecModeSimpleProtocol, "describe": pgx.QueryExecModeCacheDescribe,
		"describe_exec": pgx.QueryExecModeDescribeExec, "statement": pgx.QueryExecModeCacheStatement,
	} {
		t.Run(name, func(t *testing.T) {
			b := startBouncer(t, harness.Postgres(t).AdminURL(), append(transactions, "max_prepared_statements = 200")...)
			routePools(t, b, mode)
			for name, test := range storeTests {
				t.Run(name, test)
			}
		})
	}
}

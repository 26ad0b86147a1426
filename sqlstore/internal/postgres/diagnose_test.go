package postgres

import (
	"strings"
	"testing"
	"time"

	"github.com/surepost/surepost/diagnosis"
	"github.com/surepost/surepost/relay"
)

func TestAClockIsJudgedByNoMoreThanTheRoundTripLeavesOpen(t *testing.T) {
	for _, c := range []struct {
		ahead, trip time.Duration
		words       string // "": nothing to say
	}{
		{0, time.Millisecond, ""},
		{2 * time.Second, time.Millisecond, ""},
		{2500 * time.Millisecond, time.Second, ""},
		{3 * time.Second, time.Second, "3s ahead of"},
		{-time.Hour, time.Second, "1h0m0s behind"},
	} {
		found := skewed(c.ahead, c.trip, 2*time.Second)
		if c.words == "" && len(found) > 0 || c.words != "" && (len(found) != 1 || !strings.Contains(found[0].Cause, c.words)) {
			t.Errorf("%v, seen within %v: %v", c.ahead, c.trip, found)
		}
	}
}

func TestAShortWindowIsCritical(t *testing.T) {
	for _, c := range []struct {
		window, horizon time.Duration
		bad             bool
	}{{0, 0, false}, {24 * time.Hour, time.Hour, false}, {time.Hour, time.Hour, true}, {time.Minute, time.Hour, true}, {0, time.Hour, true}} {
		found := judgeWindow(diagnosis.Limits{DedupeWindow: c.window, RedeliveryHorizon: c.horizon})
		if (len(found) == 1 && found[0].Severity == diagnosis.Critical && found[0].Code == "dedupe-window-short") != c.bad {
			t.Errorf("window %v, horizon %v: %v", c.window, c.horizon, found)
		}
	}
}

func TestScheduledEventsThatAreDueMustMove(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		count int64
		due   time.Time
		bad   bool
	}{{0, time.Time{}, false}, {2, now.Add(time.Hour), false}, {2, now.Add(-time.Second), false}, {2, now.Add(-time.Minute), true}} {
		if found := judgeSchedule(relay.OutboxStatus{Scheduled: c.count, ScheduledDue: c.due}, now); (len(found) == 1) != c.bad {
			t.Errorf("%d events, the first due in %v: %v", c.count, c.due.Sub(now), found)
		}
	}
}

func TestAReplayThatNobodyRunsIsNoAlarm(t *testing.T) {
	d := relay.DestinationStatus{Destination: relay.Destination{Name: "again", Lanes: 1, Replay: &relay.Replay{}},
		LanesStatus: []relay.LaneStatus{{Backlog: 7, OldestUnpublished: time.Now().Add(-time.Hour)}}}
	found := judgeDestination(d, diagnosis.Limits{}.WithDefaults(), time.Now())
	if len(found) != 1 || found[0].Severity != diagnosis.Notice || !strings.Contains(found[0].Cause, "7 events") {
		t.Errorf("%v", found)
	}
	d.Replay.DoneAt = time.Now()
	if found := judgeDestination(d, diagnosis.Limits{}.WithDefaults(), time.Now()); len(found) > 0 {
		t.Errorf("one that is done: %v", found)
	}
}

func TestParkedEventsThatAreBeingRetriedAreANotice(t *testing.T) {
	if f := judgeParked("d", 3, 1, 3, time.Minute, ""); f.Severity != diagnosis.Notice {
		t.Errorf("%v", f)
	}
	if f := judgeParked("d", 3, 1, 2, time.Minute, "unroutable"); f.Severity != diagnosis.Warning || !strings.Contains(f.Cause, "unroutable") {
		t.Errorf("%v", f)
	}
}

func TestALockIsNamedIfSomebodyWaitsOrItIsOld(t *testing.T) {
	for _, c := range []struct {
		age     float64
		granted bool
		waiting int64
		named   bool
	}{{0.1, true, 0, false}, {10, true, 0, true}, {0.1, true, 3, true}, {0.1, false, 3, true}, {-1, true, 0, true}} {
		if _, named := judgeLock(backend{pid: 7, age: c.age}, c.granted, "AccessExclusiveLock on t", "9", c.waiting); named != c.named {
			t.Errorf("%+v: named %v", c, named)
		}
	}
}

func TestMigrationsAreComparedBothWays(t *testing.T) {
	done := map[int]time.Time{999: time.Now()}
	for _, m := range migrations[1:] {
		done[m.version] = time.Now()
	}
	missing, newer := compareMigrations(done)
	if len(missing) != 1 || missing[0] != "001_initial" || len(newer) != 1 || newer[0] != "999" {
		t.Errorf("missing %v, newer %v", missing, newer)
	}
}

func TestManyFindingsOfAKindAreCounted(t *testing.T) {
	many := make([]diagnosis.Finding, 12)
	for i := range many {
		many[i] = diagnosis.Finding{Code: "straggler", Severity: diagnosis.Warning, Subject: "pid", Cause: "c", Remedy: "r"}
	}
	few := fewer(many)
	if len(few) != mostFindings+1 || few[mostFindings].Code != "straggler" || few[mostFindings].Severity != diagnosis.Warning || !strings.Contains(few[mostFindings].Cause, "7 more") {
		t.Errorf("%v", few)
	}
	if got := fewer(many[:mostFindings]); len(got) != mostFindings {
		t.Errorf("%v", got)
	}
}

func TestAStatementIsShownOnOneShortLine(t *testing.T) {
	if got := shortQuery("SELECT\n\t1"); got != "SELECT 1" {
		t.Errorf("%q", got)
	}
	if got := shortQuery(strings.Repeat("ä", 500)); len([]rune(got)) != queryShown+1 {
		t.Errorf("%d characters", len([]rune(got)))
	}
}

func TestAnUnusedSlotIsNamedForWhatItHoldsBack(t *testing.T) {
	if f, wrong := judgeSlot("s", 1000, false); wrong {
		t.Errorf("%v", f)
	}
	if f, wrong := judgeSlot("s", 2<<30, false); !wrong || !strings.Contains(f.Cause, "2048 MiB") || !strings.Contains(f.Remedy, "pg_drop_replication_slot('s')") {
		t.Errorf("%v", f)
	}
	if f, wrong := judgeSlot("s", 0, true); !wrong || !strings.Contains(f.Cause, "dead row") {
		t.Errorf("%v", f)
	}
}

func TestTheLogIsOverdueAtTwiceItsRetention(t *testing.T) {
	now := time.Now()
	status := relay.OutboxStatus{OldestEvent: now.Add(-25 * time.Hour)}
	for retention, bad := range map[time.Duration]bool{0: false, 12 * time.Hour: true, 13 * time.Hour: false} {
		if found := judgeRetention(status, diagnosis.Limits{Retention: retention}, now); (len(found) == 1) != bad {
			t.Errorf("retention %v: %v", retention, found)
		}
	}
	if found := judgeRetention(relay.OutboxStatus{}, diagnosis.Limits{Retention: 1}, now); len(found) > 0 {
		t.Errorf("an empty log: %v", found)
	}
}

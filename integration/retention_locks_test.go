package integration

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/surepost/surepost"
	"github.com/surepost/surepost/harness"
	"github.com/surepost/surepost/relay"
)

// pg_dump holds a lock on all leaves until it is done: retention waits, no producer does, and the dump is whole.
func TestPgDumpHoldsUpRetentionOnly(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t, harness.Image("none")) // as new as pg_dump
	execSQL(t, pool, "ALTER DATABASE "+pgx.Identifier{pool.Config().ConnConfig.Database}.Sanitize()+
		" SET lock_timeout = '300ms'") // nobody is to wait for a lock
	pool.Reset()
	box := newBox(t, store)
	r := newReader(t, store, "default")
	defer r.close()
	const before = 2000
	events := make([]surepost.Event, before)
	for i := range events { // more than the pipes between the server and pg_dump's reader hold
		events[i] = surepost.Event{ID: "before" + strconv.Itoa(i), Type: "T", Key: "k", Data: strings.Repeat("x", 2000)}
	}
	write(t, pool, box, events...)
	r.pass()
	if report := retain(t, store, aLittle); !report.Moved {
		t.Fatalf("%q: the ring didn't move on", report)
	}

	// It goes on when somebody reads what it writes: so it is at it for as long as the test likes.
	dump := exec.CommandContext(t.Context(), "pg_dump", "--dbname="+pool.Config().ConnString())
	out, err := dump.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var complaints strings.Builder
	dump.Stderr = &complaints
	if err := dump.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "pg_dump copies the leaf", func() bool {
		return count(t, pool, `SELECT count(*) FROM pg_stat_activity
			WHERE application_name = 'pg_dump' AND query LIKE 'COPY %outbox_0 %'`) == 1
	})
	pid := count(t, pool, "SELECT pid FROM pg_stat_activity WHERE application_name = 'pg_dump'")

	retained := make(chan struct{})
	go func() {
		defer close(retained)
		for refused := 0; refused < 3; {
			report, err := store.Retain(t.Context(), relay.Retention{Keep: aLittle})
			if err != nil || report.Emptied > 0 {
				t.Errorf("%q, %v: a leaf is being dumped", report, err)
				return
			}
			if slices.ContainsFunc(report.Held, func(h relay.Holdup) bool { return h.PID == pid && strings.Contains(h.Query, "COPY") }) {
				refused++ // else it didn't come to the lock, since the reader hadn't passed what was written just now
			}
		}
	}()
	// Producers go on, one of which takes the leaf that is dumped for the current one, and so does the relay.
	during := 0
	for going := true; going; {
		select {
		case <-retained:
			going = false
		default:
		}
		write(t, pool, box, surepost.Event{ID: "during" + strconv.Itoa(during), Type: "T"})
		execSQL(t, pool, fmt.Sprintf(`INSERT INTO surepost_outbox (time, slot, id, type, version, source, data, ring)
			VALUES (now(), 1, 'stale%d', 'T', '1.0', 's', '{}', 0)`, during))
		during++
		r.pass()
	}
	if len(r.got) != before+2*during {
		t.Errorf("%d events came, want %d: they wait for the dump", len(r.got), before+2*during)
	}
	if leafOf(t, pool, "before0") != 0 {
		t.Error("retention emptied the leaf that is being dumped")
	}

	dumped, last := 0, ""
	for lines := bufio.NewReader(out); ; {
		line, err := lines.ReadString('\n')
		if strings.Contains(line, "\tbefore") {
			dumped++
		}
		if strings.HasPrefix(line, "--") && len(line) > 3 {
			last = line
		}
		if err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := dump.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, complaints.String())
	}
	if dumped != before || !strings.Contains(last, "dump complete") {
		t.Errorf("the dump has %d events of %d, and ends with %q", dumped, before, last)
	}
	for range 2 { // the first finds what was written to the leaf late, by the look of it
		retain(t, store, aLittle)
	}
	if leafOf(t, pool, "before0") != -1 {
		t.Error("the dump is done, and the leaf wasn't emptied")
	}
}

// Between the look at the ring and the lock, another relay may empty the leaf and somebody write to it who takes it for the current
// one: these events are young, however long ago the leaf was left.
func TestALeafThatIsEmptiedTwiceKeepsWhatCameInBetween(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	r := newReader(t, store, "default")
	defer r.close()
	write(t, pool, box, surepost.Event{ID: "e1", Type: "T"})
	r.pass()
	retain(t, store, aLittle) // moves on
	for refused := true; refused; {
		other := begin(t, pool)
		if _, err := other.Exec(t.Context(), "LOCK TABLE surepost_outbox_0 IN ACCESS SHARE MODE"); err != nil {
			t.Fatal(err)
		}
		reports := make(chan relay.RetentionReport)
		go func() {
			report, err := store.Retain(t.Context(), relay.Retention{Keep: aLittle})
			if err != nil {
				t.Error(err)
			}
			reports <- report
		}()
		eventually(t, "Retain has asked for the lock", func() bool { // and asks again
			return count(t, pool, `SELECT count(*) FROM pg_stat_activity
				WHERE datname = current_database() AND (query LIKE 'LOCK TABLE%NOWAIT' OR query = 'rollback')`) > 0
		})
		// What another Retain does, a producer with an old snapshot after it, and a relay that passes its event.
		if _, err := other.Exec(t.Context(), `LOCK TABLE surepost_outbox_0 IN ACCESS EXCLUSIVE MODE; TRUNCATE surepost_outbox_0;
			UPDATE surepost_ring SET emptied = true WHERE leaf = 0;
			INSERT INTO surepost_outbox (time, slot, id, type, version, source, data, ring) VALUES (now(), 1, 'young', 'T', '1.0', 's', '{}', 0);
			UPDATE surepost_checkpoint SET hot = (SELECT last_value FROM surepost_sequence), next = pg_current_xact_id()::text::bigint::text::xid8,
				snap = (SELECT format('%s:%s:', x, x)::pg_snapshot FROM (SELECT pg_current_xact_id()::text::bigint + 1) AS n (x))`); err != nil {
			t.Fatal(err)
		}
		if err := other.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		report := <-reports
		if report.Emptied > 0 || leafOf(t, pool, "young") != 0 {
			t.Fatalf("%q: an event that isn't old is gone", report)
		}
		refused = slices.ContainsFunc(report.Held, func(h relay.Holdup) bool { return h.PID != 0 }) // too slow: it had given up
		if refused {                                                                                // from the beginning
			execSQL(t, pool, "UPDATE surepost_ring SET emptied = false WHERE leaf = 0")
		}
	}
}

// TRUNCATE also locks the leaf's TOAST table, which an autovacuum may hold alone, and not for a moment. Then Retain has the leaf
// locked while it waits, and so it tries once, not forty times in a row: all that reads the log waits for it.
func TestALockOnALeafsToastHoldsUpReadsOnceOnly(t *testing.T) {
	t.Parallel()
	pool, store := newPool(t)
	box := newBox(t, store)
	r := newReader(t, store, "default")
	defer r.close()
	write(t, pool, box, surepost.Event{ID: "e1", Type: "T"})
	r.pass()
	retain(t, store, aLittle)
	var toast string
	if err := pool.QueryRow(t.Context(),
		"SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = 'surepost_outbox_0'::regclass").Scan(&toast); err != nil {
		t.Fatal(err)
	}
	vacuum := begin(t, pool)
	if _, err := vacuum.Exec(t.Context(), "SELECT count(*) FROM "+toast); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	report := retain(t, store, aLittle)
	if took := time.Since(began); took > 10*time.Second { // it waits for a second
		t.Errorf("Retain held up the log for %v", took)
	}
	requireHeld(t, report, toast)
	if pid := int(vacuum.Conn().PgConn().PID()); report.Held[0].PID != pid {
		t.Errorf("%+v is in the way, want backend %d", report.Held, pid)
	}
	if err := vacuum.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if report := retain(t, store, aLittle); report.Emptied != 1 {
		t.Errorf("%q: nobody is in the way, and the leaf wasn't emptied", report)
	}
}

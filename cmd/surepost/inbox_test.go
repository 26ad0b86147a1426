package main

import (
	"strings"
	"syscall"
	"testing"

	"github.com/surepost/surepost/cmd/surepost/internal/cli"
)

func TestTheInboxForgetsWhatIsOlderThanItsWindow(t *testing.T) {
	s := openShop(t)
	record := func(days string, events string) {
		t.Helper()
		_, err := s.pool.Exec(t.Context(), `INSERT INTO surepost_inbox (consumer, event_id, handled_at, leaf)
SELECT 'billing', 'e' || n, now() - make_interval(days => `+days+`), 16 FROM generate_series(`+events+`) n`)
		must(t, err)
	}
	left := func() (n int) {
		t.Helper()
		must(t, s.pool.QueryRow(t.Context(), "SELECT count(*) FROM surepost_inbox").Scan(&n))
		return n
	}
	record("40", "1, 10")
	record("20", "11, 15")
	s.refused(2, "add --yes", "inbox", "prune")
	short := []string{"--inbox-window=20d", "--yes"}
	s.refused(2, "inbox.window is 480h0m0s, and an event may come again after 612h0m0s", append([]string{"inbox", "prune"}, short...)...)
	s.refused(2, "inbox.window", "relay", "--inbox-prune", "--inbox-window=20d")
	if n := left(); n != 15 {
		t.Fatalf("what was refused has left %d records", n)
	}
	r := s.run("doctor", "--json", "--inbox-window=20d")
	if !strings.Contains(r.out, `"code":"dedupe-window-short","severity":"critical"`) {
		t.Errorf("the doctor says nothing of the window: %s", r)
	}
	if r := s.run("doctor", "--json", "--inbox-window=40d"); strings.Contains(r.out, "dedupe-window-short") {
		t.Errorf("the doctor, with a window that is long enough: %s", r)
	}
	if got := one[cli.PruneView](s.user, "inbox", "prune", "--yes"); got.Removed != 10 || got.WindowSeconds != 30*24*3600 {
		t.Errorf("inbox prune: %+v", got)
	}
	if n := left(); n != 5 {
		t.Errorf("%d records are left, want those 5 of the window", n)
	}

	// And beside a relay.
	record("40", "21, 30")
	relay := s.start("relay", "--inbox-prune")
	for left() != 5 {
		select {
		case <-relay.done:
			t.Fatal("the relay has ended")
		default:
		}
	}
	relay.signal(syscall.SIGTERM)
	if code := relay.ends(); code != 0 {
		t.Errorf("the relay ends with %d", code)
	}
}

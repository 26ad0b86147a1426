package model

import (
	"strings"
	"testing"
)

// For each bug the smallest scope that shows it, and the promise that it breaks.
var planted = []struct {
	bug    Bug
	scope  Scope
	breaks string
}{
	{XmaxForNext, oneLane.of("", 1, 1, 1), "lost"},
	{NumberOnly, oneLane.of("", 2, 1, 2), "lost"},
	{FreshFirst, oneLane.of("", 1, 2, 1), "out of order"},
	{LaterSnapshot, oneLane.of("", 1, 1, 1), "lost"},
	{NextBeforeHot, oneLane.of("", 1, 1, 1), "lost"},
	{HotBeyondPage, oneLane.with(pagesOfOne).of("", 1, 2, 1), "lost"},
	{UnpinnedPage, oneLane.with(pagesOfOne).of("", 1, 2, 1), "lost"},
	{DirtyRead, oneLane.of("", 2, 1, 2), "a ghost"},
	{NumberBeforeID, oneLane.of("", 1, 1, 1), "lost"},
	{CachedNumbers, oneLane.with(func(s *Scope) { s.Events = 4 }).of("", 2, 2, 2), "out of order"},
	{TogetherPerKey, oneLane.of("", 1, 2, 1), "out of order"},
	{CheckpointUnsettled, oneLane.of("", 1, 1, 1), "lost"},
	{UnfencedCheckpoint, lanes.with(twoLanesFirst).of("", 1, 1, 2), "lost"},
	{NewestLanes, lanes.with(twoLanesFirst).of("", 1, 1, 2), "lost"},
	{CheckWithoutLock, ring.of("", 1, 1, 1), "lost"},
	{OneDestination, ring.with(twoDestinations).of("", 1, 1, 1), "lost"},
	{CheckByNumber, ring.of("", 1, 1, 1), "lost"},
	{WeakLock, ring.of("", 1, 1, 1), "lost"},
}

func TestEveryBugBreaksAPromise(t *testing.T) {
	tried := map[Bug]bool{}
	for _, p := range planted {
		tried[p.bug] = true
		t.Run(p.bug.String(), func(t *testing.T) {
			sound := Explore(p.scope)
			if sound.Broken != "" {
				t.Fatalf("without the bug a promise is broken too:\n%s", printed(sound))
			}
			s := p.scope
			s.Bug = p.bug
			r := Explore(s)
			if !strings.Contains(r.Broken, p.breaks) {
				t.Fatalf("none of %d states shows that an event is %s; found: %q", r.States, p.breaks, r.Broken)
			}
			t.Logf("found in %v, after %d states:\n%s", r.Took, r.States, printed(r))
		})
	}
	for b := None + 1; b < bugs; b++ {
		if !tried[b] {
			t.Errorf("nothing shows that the explorer finds it when %s", b)
		}
	}
}

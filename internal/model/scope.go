package model

// Scope says how much there is of everything. What isn't said is none.
type Scope struct {
	Name         string
	Transactions int // at most 4
	Writes       int // events that each may write
	Keys         int
	Events       int // in all, at most 8; 0: as many as the transactions may write
	Destinations int // at most 2
	Lanes        int // 1, or 2: the most that a destination has
	FirstLanes   int // that each has at first
	LaneChanges  int
	Relays       int // lanes led at a time, or thought to be led: at most 2
	Takeovers    int // leases that are given out in all
	Leaves       int // 1: they aren't emptied; 2: they are
	Page         int // events that a read returns at most
	LaneScan     int // numbers that a read of one of several lanes looks at
	Ahead        int // pages that a relay may have unsettled: at most 2
	Bug          Bug
}

// Bug is something that is done wrong on purpose. The explorer finds a state for each in which a promise is broken.
type Bug int

// The bugs.
const (
	None                Bug = iota
	XmaxForNext             // the cut: stragglers are looked for up to xmax(snap) instead of next
	NumberOnly              // the usual cursor: seq > last
	FreshFirst              // stragglers are handed out after the fresh rows
	LaterSnapshot           // snap is of a later statement than the rows and hot
	NextBeforeHot           // next is taken before hot
	HotBeyondPage           // hot is the last number drawn though the page was full
	UnpinnedPage            // the snapshot isn't pinned where stragglers fill a page
	DirtyRead               // rows of running transactions are read
	NumberBeforeID          // the column seq comes before tx
	CachedNumbers           // the sequence has CACHE 2
	TogetherPerKey          // events of one key are in flight together, and one is nacked
	CheckpointUnsettled     // a checkpoint passes what isn't confirmed
	UnfencedCheckpoint      // a checkpoint is written without a look at the lease's epoch
	NewestLanes             // new lanes begin where the furthest of the old ones stands
	CheckWithoutLock        // Retain looks for unread rows before it locks the leaf, and not again
	OneDestination          // Retain asks one destination only
	CheckByNumber           // Retain looks for rows above hot only
	WeakLock                // Retain's lock doesn't conflict with that of whoever has inserted
	bugs
)

var bugNames = [...]string{
	None:                "none",
	XmaxForNext:         "stragglers are looked for up to xmax instead of next",
	NumberOnly:          "the cursor is the highest number read (seq > last)",
	FreshFirst:          "stragglers come after fresh rows",
	LaterSnapshot:       "the snapshot is of a later statement than the rows",
	NextBeforeHot:       "next is taken before hot",
	HotBeyondPage:       "hot is the last number drawn though the page was full",
	UnpinnedPage:        "stragglers fill a page and the snapshot isn't pinned",
	DirtyRead:           "rows of running transactions are read",
	NumberBeforeID:      "the number is drawn before the transaction id",
	CachedNumbers:       "the sequence has CACHE 2",
	TogetherPerKey:      "events of a key are in flight together, and the first is nacked",
	CheckpointUnsettled: "a checkpoint passes events that aren't confirmed",
	UnfencedCheckpoint:  "checkpoints aren't fenced by the lease's epoch",
	NewestLanes:         "new lanes begin at the newest of the old cursors",
	CheckWithoutLock:    "a leaf is checked before it is locked, and not again",
	OneDestination:      "a leaf is emptied that one destination has passed and another hasn't",
	CheckByNumber:       "the check of a leaf ignores transactions that were running",
	WeakLock:            "a leaf is emptied in which a transaction has rows that isn't over",
}

func (b Bug) String() string { return bugNames[b] }

package simulation

// plant is a bug that is there on purpose.
type plant struct {
	noFencing      bool // the store takes the writes of stale relays
	newestCursor   bool // when their number changes, lanes begin at the newest of the old cursors
	remembers      bool // a process begins at the cursor that it remembers, not at the checkpoint
	xmaxForNext    bool // stragglers are looked for below xmax alone
	freshFirst     bool // a page has stragglers behind fresh events
	confirmsAtOnce bool // the publisher confirms what it has sent
}

package cli

import (
	"encoding/json"
	"time"

	"github.com/surepost/surepost/cmd/surepost/internal/config"
)

// The shapes of --json. Fields are added, never removed or changed. The README's tables are made of these structures (go
// test -update), and what the commands print is compared with them. Times are RFC 3339 in UTC, null for none.

// Failure is printed on standard error, with every exit code but 0 and those of doctor.
type Failure struct {
	Error    string           `json:"error" doc:"what is wrong"`
	Remedy   string           `json:"remedy" doc:"what to do about it; empty where error says it"`
	Problems []config.Problem `json:"problems,omitempty" doc:"of the configuration: key, origin {kind, place}, message, remedy"`
}

// VersionView is what `version` prints.
type VersionView struct {
	Version string `json:"version" doc:"of the module, or what the build was given"`
	Commit  string `json:"commit" doc:"that it was built from; empty if unknown"`
	Changed bool   `json:"changed" doc:"the source had changes that were not committed"`
	Go      string `json:"go" doc:"the version of Go"`
	OS      string `json:"os" doc:"and architecture: linux/amd64"`
}

// MigrationView is a line of `migrate up` and `migrate status`.
type MigrationView struct {
	Version   int        `json:"version" doc:"the migration's number"`
	Name      string     `json:"name" doc:"its name"`
	AppliedAt *time.Time `json:"appliedAt" doc:"when this database got it; null: it didn't"`
}

// SQLView is what `migrate sql` prints.
type SQLView struct {
	SQL string `json:"sql" doc:"the script"`
}

// StatusView is what `status` prints.
type StatusView struct {
	Database     string            `json:"database" doc:"the kind of database"`
	LogBytes     int64             `json:"logBytes" doc:"size of the outbox's tables with their indexes"`
	InboxBytes   int64             `json:"inboxBytes" doc:"size of the inbox's"`
	OldestEvent  *time.Time        `json:"oldestEvent" doc:"time of the first event that the log still has"`
	Scheduled    int64             `json:"scheduled" doc:"events that aren't due yet"`
	ScheduledDue *time.Time        `json:"scheduledDue" doc:"when the first of them is"`
	Destinations []DestinationView `json:"destinations" doc:"as in destinations list, with lanes and relays"`
}

// DestinationView is a line of `destinations list` and `replay list`, and a part of `status`.
type DestinationView struct {
	Name              string      `json:"name" doc:"of the destination or the replay"`
	Lanes             int         `json:"lanes" doc:"how many lanes it has"`
	CreatedAt         *time.Time  `json:"createdAt" doc:"when it was made"`
	Replay            *ReplayView `json:"replay" doc:"null: it is no replay"`
	Backlog           *int64      `json:"backlog,omitempty" doc:"status only: events not published yet; exact up to 10,000 a lane"`
	OldestUnpublished *time.Time  `json:"oldestUnpublished,omitempty" doc:"status only: time of the oldest of them"`
	Parked            *int64      `json:"parked,omitempty" doc:"status only: parked events"`
	ParkedKeys        *int64      `json:"parkedKeys,omitempty" doc:"status only: keys that wait for an operator"`
	ParkedSince       *time.Time  `json:"parkedSince,omitempty" doc:"status only: when the first of them was parked"`
	LaneStates        []LaneView  `json:"laneStates,omitempty" doc:"status only: each lane"`
	Relays            []RelayView `json:"relays,omitempty" doc:"status only: relays that are alive"`
}

// ReplayView is what a replay is made of.
type ReplayView struct {
	Filter FilterView `json:"filter" doc:"which events"`
	By     string     `json:"by" doc:"who asked for it"`
	DoneAt *time.Time `json:"doneAt" doc:"when all was published; null: not yet"`
}

// FilterView is a filter of events.
type FilterView struct {
	Types         []string   `json:"types,omitempty" doc:"any of these types"`
	Keys          []string   `json:"keys,omitempty" doc:"any of these keys"`
	Sources       []string   `json:"sources,omitempty" doc:"any of these sources"`
	IDs           []string   `json:"ids,omitempty" doc:"any of these ids"`
	CorrelationID string     `json:"correlationId,omitempty" doc:"this correlation id"`
	From          *time.Time `json:"from,omitempty" doc:"at this time or later"`
	Until         *time.Time `json:"until,omitempty" doc:"before this time"`
}

// LaneView is a lane of a destination.
type LaneView struct {
	Lane              int        `json:"lane" doc:"its number, from 0"`
	Of                int        `json:"of" doc:"how many there are"`
	Owner             string     `json:"owner" doc:"the relay that publishes it; empty: none"`
	Epoch             int64      `json:"epoch" doc:"how often it has changed hands"`
	ExpiresSeconds    float64    `json:"expiresSeconds" doc:"until the lease runs out; negative: it did"`
	CheckpointAt      *time.Time `json:"checkpointAt" doc:"when progress was stored last"`
	OldestUnpublished *time.Time `json:"oldestUnpublished" doc:"time of the oldest event that it has not published"`
	Backlog           int64      `json:"backlog" doc:"events that it has not published"`
}

// RelayView is a relay that is alive.
type RelayView struct {
	Owner          string     `json:"owner" doc:"its name"`
	Since          *time.Time `json:"since" doc:"when it came"`
	ExpiresSeconds float64    `json:"expiresSeconds" doc:"until it counts as dead, unless it shows again"`
}

// EventView is a line of `events list` and `events tail`, and what `events show` prints.
type EventView struct {
	Seq           int64             `json:"seq" doc:"its number in the log"`
	ID            string            `json:"id" doc:"the event's id"`
	Type          string            `json:"type" doc:"its type"`
	Time          *time.Time        `json:"time" doc:"when it happened"`
	Version       string            `json:"version" doc:"of its schema"`
	Source        string            `json:"source" doc:"who wrote it"`
	CorrelationID string            `json:"correlationId" doc:"the flow that it belongs to"`
	CausationID   string            `json:"causationId,omitempty" doc:"the event that it follows from"`
	Key           string            `json:"key,omitempty" doc:"events of one key are in order"`
	Category      string            `json:"category,omitempty" doc:"domain, integration or system"`
	Headers       map[string]string `json:"headers,omitempty" doc:"its headers"`
	Data          json.RawMessage   `json:"data" doc:"its data as it is, if it is JSON; otherwise a text in base64"`
}

// ParkedView is a line of `parked list`, and what `parked show` prints.
type ParkedView struct {
	Destination string     `json:"destination" doc:"whose relay has parked it"`
	Reason      string     `json:"reason" doc:"what the broker said, or which event it waits for"`
	Behind      bool       `json:"behind" doc:"it only waits for an earlier event of its key"`
	Retrying    bool       `json:"retrying" doc:"the relay was asked to publish it again"`
	ParkedAt    *time.Time `json:"parkedAt" doc:"when it was parked"`
	Event       EventView  `json:"event" doc:"the event, as in events list"`
}

// CountView is what an action prints: `parked retry`, `parked discard`, `scheduled cancel`.
type CountView struct {
	Action string `json:"action" doc:"the command"`
	Count  int64  `json:"count" doc:"how many events it was done to"`
	By     string `json:"by" doc:"who is recorded for it"`
}

// DoneView is what an action on one thing prints: `destinations add`, `remove` and `lanes`, `replay cancel`.
type DoneView struct {
	Action string `json:"action" doc:"the command"`
	Name   string `json:"name" doc:"what it was done to"`
}

// ReplayCountView is what `replay start --dry-run` prints.
type ReplayCountView struct {
	Events int64            `json:"events" doc:"how many events would be published"`
	ByType map[string]int64 `json:"byType" doc:"and of each type"`
}

// ReplayResultView is what `replay start` and `replay resume` print at their end.
type ReplayResultView struct {
	Name      string `json:"name" doc:"of the replay"`
	Done      bool   `json:"done" doc:"all of it was published; false: it was interrupted, resume it"`
	Published int64  `json:"published" doc:"by this process, repetitions included"`
	Parked    int64  `json:"parked" doc:"events that the broker refused, by this process"`
}

// DeadLetterView is a line of `deadletters list`.
type DeadLetterView struct {
	ID         string     `json:"id" doc:"the event's id, or the message's"`
	Type       string     `json:"type" doc:"its type"`
	Key        string     `json:"key" doc:"its key"`
	Queue      string     `json:"queue" doc:"that it was consumed from"`
	Exchange   string     `json:"exchange" doc:"that it was published to first"`
	RoutingKey string     `json:"routingKey" doc:"and under which key"`
	Reason     string     `json:"reason" doc:"why it is here"`
	Error      string     `json:"error" doc:"the handler's last error"`
	Attempts   int        `json:"attempts" doc:"calls of its handler"`
	Redrives   int        `json:"redrives" doc:"how often it was redriven before"`
	At         *time.Time `json:"at" doc:"when it was dead-lettered"`
	Bytes      int        `json:"bytes" doc:"of its body"`
}

// RedriveView is what `redrive` prints.
type RedriveView struct {
	Waiting     int      `json:"waiting" doc:"letters that were there"`
	Moved       int      `json:"moved" doc:"back in their queue; with --dry-run: would be"`
	NotSelected int      `json:"notSelected" doc:"stay, as they are not meant"`
	Held        int      `json:"held" doc:"stay, behind a letter of their key that stays"`
	Failed      int      `json:"failed" doc:"stay, as they couldn't be moved"`
	Unseen      int      `json:"unseen" doc:"were not looked at"`
	Notes       []string `json:"notes,omitempty" doc:"what an operator should know"`
	DryRun      bool     `json:"dryRun" doc:"nothing was moved"`
}

// FindingView is a line of `doctor`.
type FindingView struct {
	Code     string `json:"code" doc:"the check; it never changes"`
	Severity string `json:"severity" doc:"good, notice, warning or critical"`
	Subject  string `json:"subject" doc:"what it is about"`
	Cause    string `json:"cause" doc:"what was found"`
	Remedy   string `json:"remedy" doc:"what to do; empty where all is good"`
}

// PruneView is what `inbox prune` prints.
type PruneView struct {
	Emptied       int      `json:"emptied" doc:"partitions that were emptied as a whole"`
	Removed       int64    `json:"removed" doc:"records that were removed one by one"`
	Attempts      int64    `json:"attempts" doc:"records of attempts that were removed"`
	Held          []string `json:"held,omitempty" doc:"what was in the way; the next time it is tried again"`
	WindowSeconds float64  `json:"windowSeconds" doc:"what was handled before that is forgotten"`
}

// KeyView is a line of `config keys`.
type KeyView struct {
	Key     string `json:"key" doc:"in the file"`
	Env     string `json:"env" doc:"the variable; empty: in the file only"`
	Flag    string `json:"flag" doc:"the flag; empty: none"`
	Kind    string `json:"kind" doc:"what its value looks like"`
	Default string `json:"default" doc:"as text; empty: none, or help says it"`
	Help    string `json:"help" doc:"what it means"`
}

// CheckView is what `config check` prints when all is well.
type CheckView struct {
	OK bool `json:"ok" doc:"true"`
}

// ScheduledView is a line of `scheduled list`.
type ScheduledView struct {
	Due       *time.Time `json:"due" doc:"when it enters the log"`
	WrittenAt *time.Time `json:"writtenAt" doc:"when it was written"`
	Event     EventView  `json:"event" doc:"the event, as in events list; its seq is 0 until it is due"`
}

// CancellationView is a line of `scheduled log`.
type CancellationView struct {
	By     string     `json:"by" doc:"who took it back"`
	At     *time.Time `json:"at" doc:"when"`
	ID     string     `json:"id" doc:"the event's id"`
	Type   string     `json:"type" doc:"its type"`
	Key    string     `json:"key" doc:"its key"`
	Source string     `json:"source" doc:"who wrote it"`
	Due    *time.Time `json:"due" doc:"when it would have been due"`
}

// ParkedActionView is a line of `parked log`.
type ParkedActionView struct {
	Action      string     `json:"action" doc:"retry or discard"`
	By          string     `json:"by" doc:"who did it"`
	At          *time.Time `json:"at" doc:"when"`
	Destination string     `json:"destination" doc:"whose event it was"`
	Seq         int64      `json:"seq" doc:"the event's number in the log"`
	ID          string     `json:"id" doc:"its id"`
	Type        string     `json:"type" doc:"its type"`
	Key         string     `json:"key" doc:"its key"`
	Reason      string     `json:"reason" doc:"why it was parked"`
}

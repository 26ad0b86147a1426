package amqp

import (
	"context"
	"strings"
	"testing"
	"time"
)

// TestBadRedrivesAreRefused before anything is connected to.
func TestBadRedrivesAreRefused(t *testing.T) {
	at := Connection{URLs: []string{"amqp://127.0.0.1:1"}}
	for name, test := range map[string]struct {
		config RedriveConfig
		words  string
	}{
		"no queue":    {RedriveConfig{Connection: at}, "Queue is empty"},
		"no URL":      {RedriveConfig{Queue: "q"}, "no URL"},
		"long":        {RedriveConfig{Connection: at, Queue: strings.Repeat("q", 252)}, "DeadLetterQueue is 256 bytes"},
		"into itself": {RedriveConfig{Connection: at, Queue: "q", To: "q.dlq"}, "To is the dead-letter queue itself"},
		"from itself": {RedriveConfig{Connection: at, Queue: "q", DeadLetterQueue: "q"}, "is the Queue itself"},
		"limit":       {RedriveConfig{Connection: at, Queue: "q", Limit: -1}, "Limit is -1"},
		"no time": {RedriveConfig{Connection: at, Queue: "q",
			Select: DeadLetterFilter{After: time.Unix(2, 0), Before: time.Unix(1, 0)}}, "exchange them"},
		"nobody there": {RedriveConfig{Connection: at, Queue: "q"}, "nothing listens there"},
	} {
		if _, err := Redrive(context.Background(), test.config); err == nil || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := DeadLetters(context.Background(), DeadLettersConfig{Connection: at, Queue: "q", Limit: -1}); err == nil ||
		!strings.Contains(err.Error(), "DeadLettersConfig.Limit is -1") {
		t.Errorf("a listing: %v", err)
	}
}

// TestLettersOfOthersInASharedQueueAreNotMeant.
func TestLettersOfOthersInASharedQueueAreNotMeant(t *testing.T) {
	c := RedriveConfig{Queue: "billing"}
	for queue, want := range map[string]bool{"billing": true, "billing.3": true, "": true, "shipping": false, "billing.x": false,
		"billing.retry.5s": false, "billing2": false} {
		if got := c.concerns(DeadLetter{Queue: queue}); got != want {
			t.Errorf("%q: %v", queue, got)
		}
	}
}

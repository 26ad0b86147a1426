package amqp

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

func TestDeadLetterKeepsTheMessage(t *testing.T) {
	sent := time.Unix(1700000000, 0)
	death := []any{amqp091.Table{"queue": "q", "count": int64(1)}}
	d := amqp091.Delivery{
		Headers:     amqp091.Table{"tenant": "acme", "x-death": death, "x-delivery-count": int64(3), "CC": []any{"other"}},
		ContentType: "application/json", ContentEncoding: "gzip", Priority: 3, CorrelationId: "c", ReplyTo: "r",
		Expiration: "1000", UserId: "joe", Exchange: "events", RoutingKey: "shop.OrderCreated",
		MessageId: "m", Timestamp: sent, Type: "OrderCreated", AppId: "shop",
		Body: []byte("{}"), DeliveryMode: amqp091.Transient,
	}
	m := &message{delivery: d, tries: tries{total: 5}}
	l := letter{message: m, reason: AttemptsSpent, err: errors.New("no stock")}
	p := l.publishing("billing", time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)), frameBytes)

	want := amqp091.Publishing{
		ContentType: "application/json", ContentEncoding: "gzip", Priority: 3, CorrelationId: "c", ReplyTo: "r",
		MessageId: "m", Timestamp: sent, Type: "OrderCreated", AppId: "shop",
		Body: []byte("{}"), DeliveryMode: amqp091.Persistent,
		Headers: amqp091.Table{
			"tenant": "acme", "x-death": death, HeaderCC: []any{"other"}, HeaderExpiration: "1000", HeaderUserID: "joe",
			HeaderReason: "attempts-spent", HeaderError: "no stock", HeaderAttempts: int64(5), HeaderQueue: "billing",
			HeaderExchange: "events", HeaderRoutingKey: "shop.OrderCreated", HeaderDeadLetteredAt: "2026-01-02T02:04:05Z",
		},
	}
	if got, want := fmt.Sprintf("%#v", p), fmt.Sprintf("%#v", want); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if len(d.Headers) != 4 {
		t.Error("the delivery's own headers were changed")
	}
	if err := p.Headers.Validate(); err != nil {
		t.Error(err)
	}
}

// TestDeadLetterFitsIntoOneFrame: a header frame that is too long would end the connection, again and again.
func TestDeadLetterFitsIntoOneFrame(t *testing.T) {
	long := strings.Repeat("ü", 100_000)
	for _, own := range []int{0, 1000, 90_000, 122_000, 126_000, 130_000} {
		headers := amqp091.Table{"small": "kept"}
		if own > 0 {
			headers["large"] = strings.Repeat("h", own)
		}
		l := letter{message: &message{delivery: amqp091.Delivery{Headers: headers}}, err: errors.New(long)}
		p := l.publishing("q", time.Now(), frameBytes)
		if n := fieldBytes(p.Headers); n > frameBytes-propertiesRoom {
			t.Errorf("%d bytes of own headers: %d bytes in all", own, n)
		}
		text := p.Headers[HeaderError].(string)
		if len(text) < 200 || len(text) > maxErrorBytes || !utf8.ValidString(text) {
			t.Errorf("%d bytes of own headers: the error has %d bytes", own, len(text))
		}
		if p.Headers["small"] != "kept" {
			t.Errorf("%d bytes of own headers: a small one was left out", own)
		}
		_, kept := p.Headers["large"]
		if left := p.Headers[HeaderLeftOut]; kept == (left == "large") && own > 0 {
			t.Errorf("%d bytes of own headers: kept %v, left out %v", own, kept, left)
		}
	}
}

func TestTextIsCutBetweenCharacters(t *testing.T) {
	for limit := range 12 {
		got := cutText("aüüüü\xff", limit)
		if len(got) > limit || !utf8.ValidString(got) {
			t.Errorf("limit %d: %q", limit, got)
		}
	}
	if got := cutText("short", 5); got != "short" {
		t.Error(got)
	}
	if !bytes.Contains([]byte(cutText("longer", 5)), []byte("…")) {
		t.Error("no mark")
	}
}

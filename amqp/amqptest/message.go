package amqptest

import (
	"encoding/binary"
	"time"
)

// Properties are a message's properties (AMQP 0-9-1 §1.8, class basic). Zero values are absent.
type Properties struct {
	ContentType     string
	ContentEncoding string
	Headers         Table
	DeliveryMode    uint8 // 2 is persistent
	Priority        uint8
	CorrelationID   string
	ReplyTo         string
	Expiration      string // ms
	MessageID       string
	Timestamp       time.Time
	Type            string
	UserID          string
	AppID           string
}

// Message is a message as it was published, or as it lies in a queue. Who gets one must not change it.
type Message struct {
	Exchange   string
	RoutingKey string
	Properties
	Body []byte

	// The rest is of interest where a message was published (in an [Event]).

	Mandatory bool
	// Number is the message's publishing number on its channel, from 1: the delivery tag of its confirm. 0 on a
	// channel without confirms.
	Number uint64

	// The rest is of interest in a queue (in [Broker.Messages]).

	// Redelivered is the flag of the next delivery.
	Redelivered bool
	// DeliveryCount is the quorum queue's count of failed deliveries, the header x-delivery-count.
	DeliveryCount int
	// Unacked says that a consumer holds the message.
	Unacked bool
}

// Persistent reports whether the message outlives a restart of the broker in a durable queue.
func (m *Message) Persistent() bool { return m.DeliveryMode == 2 }

// Property flags (AMQP 0-9-1 §4.2.6.1), in the order of the properties.
const (
	flagContentType     = 1 << 15
	flagContentEncoding = 1 << 14
	flagHeaders         = 1 << 13
	flagDeliveryMode    = 1 << 12
	flagPriority        = 1 << 11
	flagCorrelationID   = 1 << 10
	flagReplyTo         = 1 << 9
	flagExpiration      = 1 << 8
	flagMessageID       = 1 << 7
	flagTimestamp       = 1 << 6
	flagType            = 1 << 5
	flagUserID          = 1 << 4
	flagAppID           = 1 << 3
	flagsReserved       = 1<<2 | 1<<1 | 1<<0
)

// properties reads property flags and properties.
func (d *decoder) properties() Properties {
	var p Properties
	flags := d.u16()
	if flags&flagsReserved != 0 && d.err == nil {
		d.err, d.rest = errNoFlag, nil
	}
	short := func(flag uint16, s *string) {
		if flags&flag != 0 {
			*s = d.shortstr()
		}
	}
	short(flagContentType, &p.ContentType)
	short(flagContentEncoding, &p.ContentEncoding)
	if flags&flagHeaders != 0 {
		p.Headers = d.table()
	}
	if flags&flagDeliveryMode != 0 {
		p.DeliveryMode = d.u8()
	}
	if flags&flagPriority != 0 {
		p.Priority = d.u8()
	}
	short(flagCorrelationID, &p.CorrelationID)
	short(flagReplyTo, &p.ReplyTo)
	short(flagExpiration, &p.Expiration)
	short(flagMessageID, &p.MessageID)
	if flags&flagTimestamp != 0 {
		p.Timestamp = time.Unix(int64(d.u64()), 0)
	}
	short(flagType, &p.Type)
	short(flagUserID, &p.UserID)
	short(flagAppID, &p.AppID)
	return p
}

// properties appends property flags and properties.
func (b payload) properties(p Properties) payload {
	start := len(b)
	b = b.u16(0)
	var flags uint16
	short := func(flag uint16, s string) {
		if s != "" {
			flags |= flag
			b = b.shortstr(s)
		}
	}
	short(flagContentType, p.ContentType)
	short(flagContentEncoding, p.ContentEncoding)
	if p.Headers != nil {
		flags |= flagHeaders
		b = b.table(p.Headers)
	}
	if p.DeliveryMode != 0 {
		flags |= flagDeliveryMode
		b = b.u8(p.DeliveryMode)
	}
	if p.Priority != 0 {
		flags |= flagPriority
		b = b.u8(p.Priority)
	}
	short(flagCorrelationID, p.CorrelationID)
	short(flagReplyTo, p.ReplyTo)
	short(flagExpiration, p.Expiration)
	short(flagMessageID, p.MessageID)
	if !p.Timestamp.IsZero() {
		flags |= flagTimestamp
		b = b.u64(uint64(p.Timestamp.Unix()))
	}
	short(flagType, p.Type)
	short(flagUserID, p.UserID)
	short(flagAppID, p.AppID)
	binary.BigEndian.PutUint16(b[start:], flags)
	return b
}

// stored is a message that was published, shared by all queues that it went to.
type stored struct {
	Message
	encoded []byte // the properties on the wire
	// unconfirmed says that the publisher asked for a confirm that it was not sent yet.
	unconfirmed bool
	// deaths is the history of dead-lettering. Since RabbitMQ 4.0 it can't be changed by clients that publish the
	// message again, so it isn't read from the headers.
	deaths []death
	// redelivered is the flag of the first delivery from a queue.
	redelivered bool
}

func newStored(m Message) *stored {
	return &stored{Message: m, encoded: payload(nil).properties(m.Properties)}
}

// withHeaders returns the message's properties on the wire, with more headers.
func (s *stored) withHeaders(more Table) []byte {
	if len(more) == 0 {
		return s.encoded
	}
	p := s.Properties
	p.Headers = make(Table, len(s.Headers)+len(more))
	for k, v := range s.Headers {
		p.Headers[k] = v
	}
	for k, v := range more {
		p.Headers[k] = v
	}
	return payload(nil).properties(p)
}

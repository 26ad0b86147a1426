package amqp

import (
	"net"
	"sync/atomic"

	"testing"

	amqp091 "github.com/rabbitmq/amqp091-go"
)



func BenchmarkHeaderCost(b *testing.B) {
	for _, headers := range []int{0, 1} {
		for _, key := range []bool{false, true} {
			name := map[bool]string{false: "no key header", true: "key header"}[key]
			b.Run(name+map[int]string{0: ", none else", 1: ", beside traceparent"}[headers], func(b *testing.B) {
				peer := newDiscardingChannel(b)
				var f formatter
				e := testEvent("0190d8a0-7a1b-7c3d-8e4f-0123456789ab")
				e.Key = "order-0190d8a0"
				if headers == 1 {
					e.Headers = map[string]string{"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
				}
				b.ReportAllocs()
				for b.Loop() {
					p, err := f.publishing(&e)
					if err != nil {
						b.Fatal(err)
					}
					if key {
						if p.Headers == nil {
							if f.headers == nil {
								f.headers = amqp091.Table{}
							}
							p.Headers = f.headers
						}
						p.Headers["surepost-key"] = e.Key
					}
					if err := peer.Publish("events", "test.Tested", true, false, p); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

type discarding struct {
	net.Conn
	discard atomic.Bool
}

func (d *discarding) Write(p []byte) (int, error) {
	if d.discard.Load() {
		return len(p), nil
	}
	return d.Conn.Write(p)
}

func newDiscardingChannel(b *testing.B) *amqp091.Channel {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	p := &peer{listener: l, script: script{frameMax: 131072}}
	go p.accept()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	d := &discarding{Conn: conn}
	c, err := amqp091.Open(d, amqp091.Config{SASL: []amqp091.Authentication{&amqp091.PlainAuth{}}, Vhost: "/"})
	if err != nil {
		b.Fatal(err)
	}
	ch, err := c.Channel()
	if err != nil {
		b.Fatal(err)
	}
	d.discard.Store(true)
	b.Cleanup(func() { l.Close(); conn.Close() })
	return ch
}

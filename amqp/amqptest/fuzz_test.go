package amqptest

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"reflect"
	"testing"
	"time"
)

// FuzzFrame: whatever comes off the wire, the parser neither panics nor takes more memory than was sent, and what it
// understands it can write again.
func FuzzFrame(f *testing.F) {
	table := Table{"s": "v", "i": int64(1), "t": Table{"n": nil}, "a": []any{true, 1.5, []byte("x")}}
	message := payload(nil).properties(Properties{MessageID: "m", Headers: table, DeliveryMode: 2})
	f.Add(appendFrame(nil, frameMethod, 1, begin(queueDeclare).u16(0).shortstr("q").u8(2).table(table)))
	f.Add(appendContent(nil, 1, message, []byte("body"), 4096))
	f.Add(appendFrame(nil, frameHeartbeat, 0, nil))
	f.Add([]byte{frameMethod, 0, 0, 0xff, 0xff, 0xff, 0xff})                                            // 4 GiB, it says
	f.Add(appendFrame(nil, frameMethod, 0, payload(nil).u32(0x7fffffff).u8('F')))                       // a table likewise
	f.Add(appendFrame(nil, frameMethod, 0, bytes.Repeat(payload(nil).u8(0).u8('F').u32(0x00ffff), 50))) // and deep
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := bufio.NewReader(bytes.NewReader(wire))
		for {
			frame, err := readFrame(r, 4096)
			if err != nil {
				break
			}
			if len(frame.payload) > 4096-frameOverhead {
				t.Fatalf("a payload of %d bytes", len(frame.payload))
			}
			d := decoder{rest: frame.payload}
			d.u32()
			sameAgain(t, d, (*decoder).table, payload.table)
			d = decoder{rest: frame.payload}
			d.take(12)
			sameAgain(t, d, (*decoder).properties, payload.properties)
		}
	})
}

// sameAgain reads a value, writes it, and reads it again. Values are compared by what is written: NaN isn't equal to
// itself.
func sameAgain[T any](t *testing.T, d decoder, read func(*decoder) T, write func(payload, T) payload) {
	value := read(&d)
	if d.err != nil {
		return
	}
	wire := write(nil, value)
	again := decoder{rest: wire}
	second := read(&again)
	if again.err != nil || len(again.rest) > 0 {
		t.Fatalf("%#v is written as % x, which reads with %v", value, wire, again.err)
	}
	if !reflect.DeepEqual(value, second) && len(write(nil, second)) != len(wire) {
		t.Fatalf("%#v came back as %#v", value, second)
	}
}

// FuzzConnection: whatever a client sends once it has logged in, the broker lives, and serves the next one.
func FuzzConnection(f *testing.F) {
	open := appendFrame(nil, frameMethod, 1, begin(channelOpen).shortstr(""))
	method := func(p payload) []byte { return appendFrame(bytes.Clone(open), frameMethod, 1, p) }
	f.Add(method(begin(queueDeclare).u16(0).shortstr("q").u8(2).table(Table{"x-max-length": int64(1)})))
	f.Add(method(begin(basicConsume).u16(0).shortstr("q").shortstr("").u8(0).table(nil)))
	f.Add(method(begin(basicGet).u16(0).shortstr("q").u8(0)))
	f.Add(method(begin(basicAck).u64(1).u8(1)))
	f.Add(method(begin(exchangeDeclare).u16(0).shortstr("x").shortstr("topic").u8(2).table(nil)))
	f.Add(method(begin(queueBind).u16(0).shortstr("q").shortstr("amq.topic").shortstr("#.*").u8(0).table(nil)))
	f.Add(append(method(begin(basicPublish).u16(0).shortstr("").shortstr("q").u8(1)),
		appendContent(nil, 1, payload(nil).properties(Properties{Expiration: "5"}), []byte("body"), 4096)...))
	f.Add(method(begin(connectionClose).u16(200).shortstr("").u32(0)))
	b, err := Start(Config{PipeOnly: true})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(b.Close)
	f.Fuzz(func(t *testing.T, wire []byte) {
		if _, err := b.Publish(Message{RoutingKey: "q"}); err != nil {
			t.Fatal(err)
		}
		conn, err := b.Dial("", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		go io.Copy(io.Discard, conn)
		if err := conn.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if err := login(conn); err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(wire) // refused at some point, usually
	})
}

// login goes through the handshake blindly.
func login(conn net.Conn) error {
	out := []byte(protocolHeader)
	out = appendFrame(out, frameMethod, 0,
		begin(connectionStartOk).table(nil).shortstr("PLAIN").longstr("\x00guest\x00guest").shortstr("en_US"))
	out = appendFrame(out, frameMethod, 0, begin(connectionTuneOk).u16(10).u32(4096).u16(0))
	out = appendFrame(out, frameMethod, 0, begin(connectionOpen).shortstr("/").shortstr("").u8(0))
	_, err := conn.Write(out)
	return err
}

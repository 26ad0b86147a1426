package amqptest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Frame types and the octet that ends each frame (AMQP 0-9-1 §2.3.5).
const (
	frameMethod    = 1
	frameHeader    = 2
	frameBody      = 3
	frameHeartbeat = 8
	frameEnd       = 0xCE
)

const (
	// frameOverhead is what a frame adds to its payload: type, channel, size and end.
	frameOverhead = 8
	// handshakeFrameMax bounds frames before connection.tune-ok: 4096 in AMQP 0-9-1 §2.3.5, 8192 in RabbitMQ ≥ 4.1
	// (initial_frame_max).
	handshakeFrameMax = 8192
	// defaultFrameMax is RabbitMQ's frame_max.
	defaultFrameMax = 131072
)

// protocolHeader opens a connection (AMQP 0-9-1 §4.2.2).
const protocolHeader = "AMQP\x00\x00\x09\x01"

// frame is one frame as it came off the wire.
type frame struct {
	kind    byte
	channel uint16
	payload []byte
}

var errFrameEnd = errors.New("frame doesn't end with 0xCE")

// frameTooLarge is a frame whose header announces more than was negotiated.
type frameTooLarge struct{ size, limit uint32 }

func (e *frameTooLarge) Error() string {
	return fmt.Sprintf("frame of %d bytes, more than the negotiated %d", e.size, e.limit)
}

// readFrame reads one frame of at most limit bytes, overhead included. What a frame announces is compared with the
// limit before memory is set aside for it. The payload belongs to the caller.
func readFrame(r *bufio.Reader, limit uint32) (frame, error) {
	var head [7]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	f := frame{kind: head[0], channel: binary.BigEndian.Uint16(head[1:])}
	size := binary.BigEndian.Uint32(head[3:])
	if size > limit-frameOverhead {
		return f, &frameTooLarge{size, limit}
	}
	payload := make([]byte, size+1)
	if _, err := io.ReadFull(r, payload); err != nil {
		return frame{}, err
	}
	if payload[size] != frameEnd {
		return frame{}, errFrameEnd
	}
	f.payload = payload[:size]
	return f, nil
}

// appendFrame appends one frame to out.
func appendFrame(out []byte, kind byte, channel uint16, payload []byte) []byte {
	out = append(out, kind)
	out = binary.BigEndian.AppendUint16(out, channel)
	out = binary.BigEndian.AppendUint32(out, uint32(len(payload)))
	out = append(out, payload...)
	return append(out, frameEnd)
}

// appendContent appends a message's header frame and body frames, none larger than frameMax.
func appendContent(out []byte, channel uint16, properties, body []byte, frameMax uint32) []byte {
	head := make([]byte, 0, 12+len(properties))
	head = binary.BigEndian.AppendUint16(head, classBasic)
	head = binary.BigEndian.AppendUint16(head, 0) // weight, unused
	head = binary.BigEndian.AppendUint64(head, uint64(len(body)))
	out = appendFrame(out, frameHeader, channel, append(head, properties...))
	for room := int(frameMax) - frameOverhead; len(body) > 0; {
		n := min(room, len(body))
		out = appendFrame(out, frameBody, channel, body[:n])
		body = body[n:]
	}
	return out
}

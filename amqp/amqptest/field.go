package amqptest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// Table is a field table (AMQP 0-9-1 §4.2.5.5): headers of a message, arguments of a declaration. Its values are nil,
// bool, int8, uint8, int16, uint16, int32, uint32, int64, float32, float64, [Decimal], string, []byte, time.Time,
// Table and []any, each encoded in the type that RabbitMQ and amqp091-go use for it; int is encoded as int64.
type Table map[string]any

// Decimal is a field of type 'D': Value × 10^-Scale.
type Decimal struct {
	Scale uint8
	Value int32
}

// maxDepth bounds tables and arrays inside of each other: each level takes a call.
const maxDepth = 32

var (
	errShort  = errors.New("argument ends early")
	errDeep   = fmt.Errorf("more than %d tables inside of each other", maxDepth)
	errNoFlag = errors.New("reserved property flags are set")
)

// decoder reads fields from a payload. After the first error it returns zero values.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) take(n int) []byte {
	if d.err != nil {
		return nil
	}
	if n < 0 || n > len(d.rest) {
		d.err, d.rest = errShort, nil
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) u8() uint8 {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) u16() uint16 {
	if b := d.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) u32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) u64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) shortstr() string { return string(d.take(int(d.u8()))) }

// longBytes reads a long string. Its length is bounded by the frame.
func (d *decoder) longBytes() []byte {
	n := d.u32()
	if uint64(n) > uint64(len(d.rest)) {
		if d.err == nil {
			d.err, d.rest = errShort, nil
		}
		return nil
	}
	return d.take(int(n))
}

func (d *decoder) longstr() string { return string(d.longBytes()) }

func (d *decoder) table() Table { return d.tableAt(0) }

func (d *decoder) tableAt(depth int) Table {
	in := decoder{rest: d.longBytes(), err: d.err}
	t := Table{}
	for in.err == nil && len(in.rest) > 0 {
		name := in.shortstr()
		t[name] = in.value(depth + 1)
	}
	d.err = in.err
	return t
}

func (d *decoder) arrayAt(depth int) []any {
	in := decoder{rest: d.longBytes(), err: d.err}
	a := []any{}
	for in.err == nil && len(in.rest) > 0 {
		a = append(a, in.value(depth+1))
	}
	d.err = in.err
	return a
}

// value reads a field's type and value, in the types that RabbitMQ uses (its page "AMQP 0-9-1 Errata", §3).
func (d *decoder) value(depth int) any {
	if depth > maxDepth {
		d.err, d.rest = errDeep, nil
		return nil
	}
	switch kind := d.u8(); kind {
	case 't':
		return d.u8() != 0
	case 'b':
		return int8(d.u8())
	case 'B':
		return d.u8()
	case 's':
		return int16(d.u16())
	case 'u':
		return d.u16()
	case 'I':
		return int32(d.u32())
	case 'i':
		return d.u32()
	case 'l', 'L':
		return int64(d.u64())
	case 'f':
		return math.Float32frombits(d.u32())
	case 'd':
		return math.Float64frombits(d.u64())
	case 'D':
		return Decimal{Scale: d.u8(), Value: int32(d.u32())}
	case 'S':
		return d.longstr()
	case 'x':
		return append([]byte{}, d.longBytes()...)
	case 'T':
		return time.Unix(int64(d.u64()), 0)
	case 'F':
		return d.tableAt(depth)
	case 'A':
		return d.arrayAt(depth)
	case 'V':
		return nil
	default:
		if d.err == nil {
			d.err, d.rest = fmt.Errorf("unknown field type %q", kind), nil
		}
		return nil
	}
}

// payload is the payload of a method frame under construction.
type payload []byte

func (p payload) u8(n uint8) payload   { return append(p, n) }
func (p payload) u16(n uint16) payload { return binary.BigEndian.AppendUint16(p, n) }
func (p payload) u32(n uint32) payload { return binary.BigEndian.AppendUint32(p, n) }
func (p payload) u64(n uint64) payload { return binary.BigEndian.AppendUint64(p, n) }

// bit appends an octet that holds one bit.
func (p payload) bit(set bool) payload {
	if set {
		return append(p, 1)
	}
	return append(p, 0)
}

// shortstr appends a short string, cut at the 255 bytes that it can hold.
func (p payload) shortstr(s string) payload {
	s = s[:min(len(s), 255)]
	return append(append(p, byte(len(s))), s...)
}

func (p payload) longstr(s string) payload { return append(p.u32(uint32(len(s))), s...) }

func (p payload) table(t Table) payload {
	start := len(p)
	p = p.u32(0)
	for name, value := range t {
		p = p.shortstr(name).value(value)
	}
	binary.BigEndian.PutUint32(p[start:], uint32(len(p)-start-4))
	return p
}

func (p payload) array(a []any) payload {
	start := len(p)
	p = p.u32(0)
	for _, value := range a {
		p = p.value(value)
	}
	binary.BigEndian.PutUint32(p[start:], uint32(len(p)-start-4))
	return p
}

// value appends a field's type and value. A type that [Table] doesn't list is a mistake of the test's and panics.
func (p payload) value(value any) payload {
	switch v := value.(type) {
	case nil:
		return p.u8('V')
	case bool:
		return p.u8('t').bit(v)
	case int8:
		return p.u8('b').u8(uint8(v))
	case uint8:
		return p.u8('B').u8(v)
	case int16:
		return p.u8('s').u16(uint16(v))
	case uint16:
		return p.u8('u').u16(v)
	case int32:
		return p.u8('I').u32(uint32(v))
	case uint32:
		return p.u8('i').u32(v)
	case int64:
		return p.u8('l').u64(uint64(v))
	case int:
		return p.u8('l').u64(uint64(v))
	case float32:
		return p.u8('f').u32(math.Float32bits(v))
	case float64:
		return p.u8('d').u64(math.Float64bits(v))
	case Decimal:
		return p.u8('D').u8(v.Scale).u32(uint32(v.Value))
	case string:
		return p.u8('S').longstr(v)
	case []byte:
		return append(p.u8('x').u32(uint32(len(v))), v...)
	case time.Time:
		return p.u8('T').u64(uint64(v.Unix()))
	case Table:
		return p.u8('F').table(v)
	case map[string]any:
		return p.u8('F').table(v)
	case []any:
		return p.u8('A').array(v)
	default:
		panic(fmt.Sprintf("amqptest: a field can't hold a %T; see Table", value))
	}
}

// integer returns an argument's value if it is of one of the integer types.
func integer(value any) (int64, bool) {
	switch v := value.(type) {
	case int8:
		return int64(v), true
	case uint8:
		return int64(v), true
	case int16:
		return int64(v), true
	case uint16:
		return int64(v), true
	case int32:
		return int64(v), true
	case uint32:
		return int64(v), true
	case int64:
		return v, true
	case int:
		return int64(v), true
	}
	return 0, false
}

// typeName returns RabbitMQ's name of a field's type, which its error texts contain (rabbit_binary_parser).
func typeName(value any) string {
	switch value.(type) {
	case bool:
		return "bool"
	case int8:
		return "byte"
	case uint8:
		return "unsignedbyte"
	case int16:
		return "short"
	case uint16:
		return "unsignedshort"
	case int32:
		return "signedint"
	case uint32:
		return "unsignedint"
	case int64, int:
		return "long"
	case float32:
		return "float"
	case float64:
		return "double"
	case Decimal:
		return "decimal"
	case string:
		return "longstr"
	case []byte:
		return "binary"
	case time.Time:
		return "timestamp"
	case Table, map[string]any:
		return "table"
	case []any:
		return "array"
	}
	return "void"
}

package intercept

import (
	"bytes"
	"errors"
	"strings"

	"golang.org/x/net/http2/hpack"
)

const (
	maxH2List  = 256 << 10 // bytes of a header list, as RFC 9113 counts them
	maxH2Table = 64 << 10  // bytes of a table that a peer may have us keep
)

var errH2List = errors.New("the header list is too large")

// h2Decoder reads the header blocks of one direction of a connection. All must be read, since
// each may refer to those before.
type h2Decoder struct {
	dec    *hpack.Decoder
	fields []hpack.HeaderField // of the last block
	size   int
}

func newH2Decoder() *h2Decoder {
	d := new(h2Decoder)
	d.dec = hpack.NewDecoder(h2DefaultTable, d.emit)
	d.dec.SetAllowedMaxDynamicTableSize(maxH2Table)
	d.dec.SetMaxStringLength(maxHead)
	return d
}

func (d *h2Decoder) emit(f hpack.HeaderField) {
	if d.size += int(f.Size()); d.size > maxH2List {
		d.dec.SetEmitEnabled(false) // but let it keep its table
		return
	}
	d.fields = append(d.fields, f)
}

func (d *h2Decoder) decode(block []byte) error {
	clear(d.fields)
	d.fields, d.size = d.fields[:0], 0
	d.dec.SetEmitEnabled(true)
	if _, err := d.dec.Write(block); err != nil {
		return err
	}
	if err := d.dec.Close(); err != nil {
		return err
	}
	if d.size > maxH2List {
		return errH2List
	}
	return nil
}

// h2Encoder writes header blocks.
type h2Encoder struct {
	enc *hpack.Encoder
	buf bytes.Buffer
}

// newH2Encoder makes an encoder whose table has at most table bytes, and whose first block
// makes the peer forget what its table held.
func newH2Encoder(table uint32) *h2Encoder {
	e := new(h2Encoder)
	e.enc = hpack.NewEncoder(&e.buf)
	e.enc.SetMaxDynamicTableSize(0)
	e.enc.SetMaxDynamicTableSize(min(table, h2DefaultTable))
	return e
}

// newH2Stateless makes an encoder that neither uses nor changes the peer's table, so that its
// blocks can be put between those of another.
func newH2Stateless() *h2Encoder {
	e := newH2Encoder(0)
	e.encode([]hpack.HeaderField{{Name: ":status", Value: "200"}}) // takes the change of size with it
	return e
}

// limit follows the peer's SETTINGS_HEADER_TABLE_SIZE downwards.
func (e *h2Encoder) limit(table uint32) {
	if table < e.enc.MaxDynamicTableSize() {
		e.enc.SetMaxDynamicTableSizeLimit(table)
	}
}

// encode returns a block that is valid until the next.
func (e *h2Encoder) encode(fields []hpack.HeaderField) []byte {
	e.buf.Reset()
	for _, f := range fields {
		_ = e.enc.WriteField(f) // a bytes.Buffer takes everything
	}
	return e.buf.Bytes()
}

// h2Request offers a decoded request to the rules of HTTP/1: pseudo-headers are no headers,
// but :authority is what a rule on host means, and crumbs of a cookie are one.
type h2Request struct {
	request
	text []byte // that the fields of request are in
}

// healthPath is gRPC's health service. Its callers mean the original, unless they say otherwise
// in a header of their own: that a rule's host or user agent is theirs says nothing.
const healthPath = "/grpc.health.v1.Health/"

func (q *h2Request) take(fields []hpack.HeaderField) {
	q.reset()
	q.text = q.text[:0]
	health, host, authority := false, false, ""
	for _, f := range fields {
		health = health || f.Name == ":path" && strings.HasPrefix(f.Value, healthPath)
		host = host || f.Name == "host"
		if f.Name == ":authority" {
			authority = f.Value
		}
	}
	if !host && authority != "" && !health {
		q.add("host", authority)
	}
	crumbs := 0
	for _, f := range fields {
		switch {
		case f.IsPseudo(), health && (f.Name == "host" || f.Name == "user-agent" && !isProbe(f.Value)):
		case f.Name == "cookie":
			crumbs++
		default:
			q.add(f.Name, f.Value)
		}
	}
	if crumbs > 0 {
		q.addCookie(fields)
	}
}

func isProbe(agent string) bool { return strings.HasPrefix(agent, "kube-probe/") }

func (q *h2Request) add(name, value string) {
	at := len(q.text)
	q.text = append(append(q.text, name...), value...)
	mid := at + len(name)
	f := field{span{at, len(q.text)}, span{at, mid}, span{mid, len(q.text)}}
	q.fields = append(q.fields, f)
	q.note(f.name.of(q.text), f.value.of(q.text))
}

// addCookie puts the crumbs of the cookie together.
func (q *h2Request) addCookie(fields []hpack.HeaderField) {
	q.add("cookie", "")
	v := &q.fields[len(q.fields)-1].value
	for _, f := range fields {
		if f.Name != "cookie" {
			continue
		}
		if v.end > v.off {
			q.text = append(q.text, "; "...)
		}
		q.text = append(q.text, f.Value...)
		v.end = len(q.text)
	}
}

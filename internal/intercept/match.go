package intercept

import "bytes"

// Limits of https://www.w3.org/TR/baggage/: members beyond them are not seen.
const (
	maxBaggageBytes   = 8192 // of all baggage headers of a request together
	maxBaggageMembers = 180
)

// choose returns the route of a request, or nil for the origin. b starts with the head.
func (l *listener) choose(q *request, b []byte) *route {
	if !q.probe {
		for _, r := range l.rules {
			if r.Match.holds(q.fields, b) {
				return r
			}
		}
	}
	return l.all
}

// holds evaluates m, whose header names are in lower case, on the raw head b.
// It allocates nothing.
func (m *Match) holds(fields []field, b []byte) bool {
	for i := range m.Headers {
		if !m.Headers[i].holds(fields, b) {
			return false
		}
	}
	for i := range m.Baggage {
		if !m.Baggage[i].holds(fields, b) {
			return false
		}
	}
	for i := range m.AnyOf {
		if m.AnyOf[i].holds(fields, b) {
			return true
		}
	}
	return len(m.AnyOf) == 0
}

func (m *HeaderMatch) holds(fields []field, b []byte) bool {
	for _, f := range fields {
		if f.name.end-f.name.off == len(m.Name) && f.value.end-f.value.off == len(m.Value) &&
			equalFold(f.name.of(b), m.Name) && string(f.value.of(b)) == m.Value {
			return true
		}
	}
	return false
}

func (m *BaggageMatch) holds(fields []field, b []byte) bool {
	bytesLeft, membersLeft := maxBaggageBytes, maxBaggageMembers
	for _, f := range fields {
		if f.name.end-f.name.off != len("baggage") || !equalFold(f.name.of(b), "baggage") {
			continue
		}
		v := f.value.of(b)
		for more := true; more; {
			var member []byte
			member, v, more = bytes.Cut(v, comma)
			bytesLeft -= len(member) + 1
			membersLeft--
			if bytesLeft < -1 || membersLeft < 0 {
				return false
			}
			if m.isMember(member) {
				return true
			}
		}
	}
	return false
}

var comma = []byte{','}

// isMember reports whether member is m: key OWS "=" OWS value OWS *( ";" property ).
func (m *BaggageMatch) isMember(member []byte) bool {
	if i := bytes.IndexByte(member, ';'); i >= 0 {
		member = member[:i]
	}
	eq := bytes.IndexByte(member, '=')
	if eq < 0 || string(trimOWS(member[:eq])) != m.Key {
		return false
	}
	return decodesTo(trimOWS(member[eq+1:]), m.Value)
}

// decodesTo reports whether the percent-encoded v is want; a malformed v never is.
func decodesTo(v []byte, want string) bool {
	n := 0
	for i := 0; i < len(v); i, n = i+1, n+1 {
		c := v[i]
		switch {
		case c == '%':
			if i+2 >= len(v) {
				return false
			}
			hi, lo := unhex(v[i+1]), unhex(v[i+2])
			if hi < 0 || lo < 0 {
				return false
			}
			c = byte(hi<<4 | lo)
			i += 2
		case c <= ' ' || c >= 0x7f || c == '"' || c == '\\':
			return false // not a baggage-octet; comma and semicolon cannot get here
		}
		if n >= len(want) || c != want[n] {
			return false
		}
	}
	return n == len(want)
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

package intercept

import "bytes"

// maxHead bounds the head of a message and maxFields the headers in it. What is
// larger is not refused, it is passed on unseen.
const (
	maxHead   = 64 << 10
	maxFields = 256
	maxMethod = 32
)

// progress is how far a parser got with the bytes it was given.
type progress uint8

const (
	partial  progress = iota // well-formed so far; there must be more
	complete                 // the end was found
	doubtful                 // not what we understand: be a wire
)

type span struct{ off, end int }

func (s span) of(b []byte) []byte { return b[s.off:s.end] }

// field is one header line, as offsets from the start of the head.
type field struct{ line, name, value span }

// head is what requests and responses have in common. Parsing resumes where it
// stopped, so a head that comes in many pieces is looked at once.
//
// It accepts only what every parser reads in the same way: CRLF line ends, no folding,
// no space around names, no control characters. RFC 9112 lets recipients repair more
// than that; a router that repairs decides what the origin meant to decide.
type head struct {
	size   int // of the whole head with its empty line, once complete
	next   int // start of the first line not parsed yet
	seen   int // up to where that line has been searched for its end
	fields []field

	minor     byte  // of HTTP/1.minor
	length    int64 // Content-Length, -1 if absent
	chunked   bool
	ambiguous bool // the framing headers contradict each other, or are of no known kind
	close     bool // Connection: close
	keepAlive bool // Connection: keep-alive
}

func (h *head) reset() { *h = head{fields: h.fields[:0], length: -1} }

// request is a parsed request head.
type request struct {
	head
	method method
	probe  bool // from the kubelet
}

// method is what matters of a request's method.
type method uint8

const (
	otherMethod method = iota
	idempotent         // a second request is as good as one (RFC 9110, 9.2.2)
	headMethod         // idempotent too
	connectMethod
)

// repeats reports whether a second request is as good as one.
func (m method) repeats() bool { return m == idempotent || m == headMethod }

func methodOf(b []byte) method {
	switch string(b) {
	case "GET", "OPTIONS", "TRACE", "PUT", "DELETE":
		return idempotent
	case "HEAD":
		return headMethod
	case "CONNECT":
		return connectMethod
	}
	return otherMethod
}

func (q *request) reset() {
	q.head.reset()
	q.method, q.probe = otherMethod, false
}

// parse looks at b, which starts with the request and may end anywhere.
func (q *request) parse(b []byte) progress {
	if q.next == 0 {
		if p := q.requestLine(b); p != complete {
			return p
		}
	}
	p := q.parseFields(b, q.note)
	if p == complete && (q.ambiguous || q.chunked && q.minor == 0) {
		return doubtful
	}
	return p
}

// requestLine parses "METHOD target HTTP/1.x". An incomplete line is checked as far as it
// goes, so that a client that speaks something else is noticed at once.
func (q *request) requestLine(b []byte) progress {
	line := b
	end := bytes.IndexByte(b, '\n')
	if end >= 0 {
		if end == 0 || b[end-1] != '\r' {
			return doubtful
		}
		line = b[:end-1]
	}
	i := 0
	for i < len(line) && (line[i] >= 'A' && line[i] <= 'Z' || line[i] == '-' || line[i] == '_') {
		i++
	}
	if i > maxMethod {
		return doubtful
	}
	if i == len(line) {
		return ifMore(end < 0)
	}
	if i == 0 || line[i] != ' ' {
		return doubtful
	}
	q.method = methodOf(line[:i])
	i++
	target := i
	for i < len(line) && line[i] > ' ' && line[i] != 0x7f {
		i++
	}
	if i == len(line) {
		return ifMore(end < 0)
	}
	if i == target || line[i] != ' ' {
		return doubtful
	}
	return q.version(line[i+1:], end)
}

func (q *request) version(v []byte, end int) progress {
	const prefix = "HTTP/1."
	if end < 0 {
		v = bytes.TrimSuffix(v, []byte("\r"))
		n := min(len(v), len(prefix))
		return ifMore(string(v[:n]) == prefix[:n] && len(v) <= len(prefix)+1)
	}
	if len(v) != len(prefix)+1 || string(v[:len(prefix)]) != prefix || v[len(prefix)] > '1' || v[len(prefix)] < '0' {
		return doubtful
	}
	q.minor = v[len(prefix)] - '0'
	q.next = end + 1
	q.seen = q.next
	return complete
}

func ifMore(ok bool) progress {
	if ok {
		return partial
	}
	return doubtful
}

// response is a parsed response head.
type response struct {
	head
	status int
}

func (p *response) reset() {
	p.head.reset()
	p.status = 0
}

func (p *response) parse(b []byte) progress {
	if p.next == 0 {
		if pr := p.statusLine(b); pr != complete {
			return pr
		}
	}
	return p.parseFields(b, nil)
}

// statusLine parses "HTTP/1.x 200 reason"; the reason and the space before it may be missing.
func (p *response) statusLine(b []byte) progress {
	const shape = "HTTP/1.x 000"
	for i := range min(len(b), len(shape)) {
		switch shape[i] {
		case 'x':
			if b[i] != '0' && b[i] != '1' {
				return doubtful
			}
		case '0':
			if b[i] < '0' || b[i] > '9' {
				return doubtful
			}
		default:
			if b[i] != shape[i] {
				return doubtful
			}
		}
	}
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		return partial
	}
	if end <= len(shape) || b[end-1] != '\r' {
		return doubtful
	}
	reason := b[len(shape) : end-1]
	if len(reason) > 0 && reason[0] != ' ' || !allValueChars(reason) {
		return doubtful
	}
	p.minor = b[7] - '0'
	p.status = int(b[9]-'0')*100 + int(b[10]-'0')*10 + int(b[11]-'0')
	if p.status < 100 {
		return doubtful
	}
	p.next = end + 1
	p.seen = p.next
	return complete
}

// parseFields parses header lines up to and with the empty one.
func (h *head) parseFields(b []byte, note func(name, value []byte)) progress {
	for {
		i := bytes.IndexByte(b[h.seen:], '\n')
		if i < 0 {
			h.seen = len(b)
			return partial
		}
		end := h.seen + i
		if end == h.next || b[end-1] != '\r' {
			return doubtful
		}
		if end-1 == h.next {
			h.size = end + 1
			return complete
		}
		f, ok := parseField(b, span{h.next, end - 1})
		if !ok || len(h.fields) == maxFields {
			return doubtful
		}
		h.fields = append(h.fields, f)
		h.frame(f.name.of(b), f.value.of(b))
		if note != nil {
			note(f.name.of(b), f.value.of(b))
		}
		h.next = end + 1
		h.seen = h.next
	}
}

func parseField(b []byte, line span) (field, bool) {
	i := line.off
	for i < line.end && tokenChar[b[i]] {
		i++
	}
	if i == line.off || i == line.end || b[i] != ':' {
		return field{}, false // a folded line ends here too
	}
	v := span{i + 1, line.end}
	for v.off < v.end && (b[v.off] == ' ' || b[v.off] == '\t') {
		v.off++
	}
	for v.off < v.end && (b[v.end-1] == ' ' || b[v.end-1] == '\t') {
		v.end--
	}
	return field{line, span{line.off, i}, v}, allValueChars(v.of(b))
}

// frame takes note of the headers that say where the message ends.
func (h *head) frame(name, value []byte) {
	switch len(name) {
	case len("content-length"):
		if equalFold(name, "content-length") {
			n, ok := parseLength(value)
			h.ambiguous = h.ambiguous || !ok || h.length >= 0 || h.chunked
			h.length = n
		}
	case len("transfer-encoding"):
		if equalFold(name, "transfer-encoding") {
			h.ambiguous = h.ambiguous || h.chunked || h.length >= 0 || !equalFold(value, "chunked")
			h.chunked = true
		}
	case len("connection"):
		if equalFold(name, "connection") {
			h.close = h.close || hasListed(value, "close")
			h.keepAlive = h.keepAlive || hasListed(value, "keep-alive")
		}
	}
}

// note takes note of the kubelet's probes, which are never intercepted by rule:
// they ask whether the origin is well.
func (q *request) note(name, value []byte) {
	const probe = "kube-probe/"
	if len(name) == len("user-agent") && equalFold(name, "user-agent") {
		q.probe = q.probe || len(value) >= len(probe) && string(value[:len(probe)]) == probe
	}
}

// persists reports whether the connection may carry another message after this one.
func (h *head) persists() bool {
	if h.minor == 0 {
		return h.keepAlive && !h.close
	}
	return !h.close
}

func parseLength(v []byte) (int64, bool) {
	if len(v) == 0 || len(v) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// hasListed reports whether the comma-separated list v has token, in any case.
func hasListed(v []byte, token string) bool {
	for len(v) > 0 {
		item := v
		if i := bytes.IndexByte(v, ','); i >= 0 {
			item, v = v[:i], v[i+1:]
		} else {
			v = nil
		}
		if equalFold(trimOWS(item), token) {
			return true
		}
	}
	return false
}

func trimOWS(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

// equalFold compares b with lower, which is lower-case ASCII.
func equalFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func allValueChars(b []byte) bool {
	for _, c := range b {
		if !valueChar[c] {
			return false
		}
	}
	return true
}

// tokenChar is RFC 9110's tchar, valueChar what a header value may hold.
var tokenChar, valueChar = func() (token, value [256]bool) {
	for c := range 256 {
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		token[c] = alnum || c < 0x80 && bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0
		value[c] = c == '\t' || c >= 0x20 && c != 0x7f
	}
	return
}()

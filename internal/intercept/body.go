package intercept

// body finds the end of a message body in the bytes that go by, without changing them.
type body struct {
	kind   framing
	left   int64 // of a sized body
	chunks chunkScanner
}

type framing uint8

const (
	noBody framing = iota
	sized
	chunked
	endless // until the connection ends, or of no known framing
)

func (q *request) body() body {
	switch {
	case q.chunked:
		return body{kind: chunked}
	case q.length > 0:
		return body{kind: sized, left: q.length}
	}
	return body{}
}

// body of a final response to a request of the given method.
func (p *response) body(m method) body {
	switch {
	case p.upgrades(m):
		return body{kind: endless}
	case m == headMethod || p.status == 204 || p.status == 304:
		return body{}
	case p.ambiguous || p.chunked && p.minor == 0:
		return body{kind: endless}
	case p.chunked:
		return body{kind: chunked}
	case p.length == 0:
		return body{}
	case p.length > 0:
		return body{kind: sized, left: p.length}
	}
	return body{kind: endless}
}

// upgrades reports whether the connection stops being HTTP after this response.
func (p *response) upgrades(m method) bool {
	return p.status == 101 || m == connectMethod && p.status/100 == 2
}

// unframed reports whether a body that only the end of the connection ends is plainly
// what p announces.
func (p *response) unframed(m method) bool {
	return p.upgrades(m) || !p.ambiguous && !p.chunked && p.length < 0
}

// scan returns how many bytes of p are body, and whether the body ends with them.
// Doubtful means that its end can no longer be found; all of p belongs to it then.
func (b *body) scan(p []byte) (int, progress) {
	switch b.kind {
	case noBody:
		return 0, complete
	case sized:
		n := min(int64(len(p)), b.left)
		b.left -= n
		return int(n), ifMoreLeft(b.left)
	case chunked:
		n, pr := b.chunks.scan(p)
		if pr == doubtful {
			b.kind = endless
			return len(p), doubtful
		}
		return n, pr
	}
	return len(p), doubtful
}

func ifMoreLeft(n int64) progress {
	if n > 0 {
		return partial
	}
	return complete
}

// chunkScanner follows the chunked coding, extensions and trailers included.
type chunkScanner struct {
	state  chunkState
	digits uint8
	left   uint64 // of the chunk's data
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	chunkExtension
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	trailerStart // of a line; an empty one ends the body
	trailerLine
	trailerLF
	lastLF
)

// scan returns how many bytes of p belong to the body. It accepts no bare CR or LF and
// no space around the size: parsers differ there, and smuggling lives on that.
func (s *chunkScanner) scan(p []byte) (int, progress) {
	for i := 0; i < len(p); i++ {
		if s.state == chunkData {
			n := min(uint64(len(p)-i), s.left)
			s.left -= n
			i += int(n) - 1
			if s.left == 0 {
				s.state = chunkDataCR
			}
			continue
		}
		switch s.step(p[i]) {
		case complete:
			return i + 1, complete
		case doubtful:
			return i, doubtful
		}
	}
	return len(p), partial
}

// step takes one byte that is not chunk data.
func (s *chunkScanner) step(c byte) progress {
	switch s.state {
	case chunkSize:
		return s.sizeDigit(c)
	case chunkExtension:
		if c == '\r' {
			s.state = chunkSizeLF
			return partial
		}
		return ifMore(valueChar[c])
	case trailerStart:
		if c == '\r' {
			s.state = lastLF
			return partial
		}
		s.state = trailerLine
		return ifMore(tokenChar[c])
	case trailerLine:
		if c == '\r' {
			s.state = trailerLF
			return partial
		}
		return ifMore(valueChar[c])
	case chunkDataCR:
		s.state = chunkDataLF
		return ifMore(c == '\r')
	case lastLF:
		if c == '\n' {
			return complete
		}
		return doubtful
	}
	return s.lineFeed(c)
}

func (s *chunkScanner) sizeDigit(c byte) progress {
	if d := unhex(c); d >= 0 {
		s.digits++
		s.left = s.left<<4 | uint64(d)
		return ifMore(s.digits <= 15)
	}
	switch c {
	case ';':
		s.state = chunkExtension
	case '\r':
		s.state = chunkSizeLF
	default:
		return doubtful
	}
	return ifMore(s.digits > 0)
}

// lineFeed takes the LF of a CRLF and says what comes after that line.
func (s *chunkScanner) lineFeed(c byte) progress {
	switch {
	case c != '\n':
		return doubtful
	case s.state == chunkSizeLF && s.left > 0:
		s.state = chunkData
	case s.state == chunkDataLF:
		*s = chunkScanner{}
	default: // after the last chunk's size, or a trailer
		s.state = trailerStart
	}
	return partial
}

package intercept

import (
	"encoding/binary"
	"strings"
)

// h2Preface is what a client that speaks HTTP/2 says first.
const h2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// Frame types, flags, settings and error codes of RFC 9113, as far as the router looks at them.
const (
	h2Data         = 0
	h2Headers      = 1
	h2Priority     = 2
	h2Reset        = 3
	h2Settings     = 4
	h2PushPromise  = 5
	h2Ping         = 6
	h2GoAway       = 7
	h2WindowUpdate = 8
	h2Continuation = 9

	h2EndStream   = 0x1
	h2Ack         = 0x1
	h2EndHeaders  = 0x4
	h2Padded      = 0x8
	h2HasPriority = 0x20

	h2HeaderTableSize   = 1
	h2EnablePush        = 2
	h2MaxStreams        = 3
	h2InitialWindowSize = 4
	h2MaxFrameSize      = 5

	h2NoError         = 0
	h2ProtocolError   = 1
	h2InternalError   = 2
	h2StreamClosed    = 5
	h2RefusedStream   = 7
	h2Cancel          = 8
	h2EnhanceYourCalm = 11

	h2HeadSize      = 9
	h2FrameSize     = 16 << 10 // that every peer accepts, as a frame's length
	h2DefaultWindow = 65535
	h2MaxWindow     = 1<<31 - 1
	h2MaxStreamID   = 1<<31 - 1
	h2DefaultTable  = 4096 // bytes of an HPACK table
)

// h2Frame is the head of a frame.
type h2Frame struct {
	length int // of the payload
	kind   byte
	flags  byte
	stream uint32
}

// h2FrameOf reads the head that b starts with; b has at least h2HeadSize bytes.
func h2FrameOf(b []byte) h2Frame {
	return h2Frame{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]),
		kind:   b[3],
		flags:  b[4],
		stream: binary.BigEndian.Uint32(b[5:]) & h2MaxStreamID,
	}
}

func (f h2Frame) has(flag byte) bool { return f.flags&flag != 0 }

// size is that of the whole frame.
func (f h2Frame) size() int { return h2HeadSize + f.length }

// ends reports whether its sender will send no more on the stream.
func (f h2Frame) ends() bool {
	return f.kind == h2Reset || (f.kind == h2Data || f.kind == h2Headers) && f.has(h2EndStream)
}

func (f h2Frame) appendTo(dst []byte) []byte {
	dst = append(dst, byte(f.length>>16), byte(f.length>>8), byte(f.length), f.kind, f.flags)
	return binary.BigEndian.AppendUint32(dst, f.stream)
}

// appendWord appends a frame whose payload is one 32-bit number: RST_STREAM or WINDOW_UPDATE.
func appendWord(dst []byte, kind byte, stream, word uint32) []byte {
	dst = h2Frame{length: 4, kind: kind, stream: stream}.appendTo(dst)
	return binary.BigEndian.AppendUint32(dst, word)
}

func appendGoAway(dst []byte, last, code uint32) []byte {
	dst = h2Frame{length: 8, kind: h2GoAway}.appendTo(dst)
	dst = binary.BigEndian.AppendUint32(dst, last)
	return binary.BigEndian.AppendUint32(dst, code)
}

// settings calls each for the settings in the payload of a SETTINGS frame.
func settings(payload []byte, each func(id uint16, value uint32)) {
	for ; len(payload) >= 6; payload = payload[6:] {
		each(binary.BigEndian.Uint16(payload), binary.BigEndian.Uint32(payload[2:]))
	}
}

// increment reads the payload of a WINDOW_UPDATE.
func increment(payload []byte) int64 {
	return int64(binary.BigEndian.Uint32(payload) & h2MaxWindow)
}

// h2Block is a header block: a HEADERS frame and what continues it.
type h2Block struct {
	size     int    // of all its frames
	priority []byte // the five bytes of HEADERS that say so, or nil
	fields   []byte // HPACK
}

// blockOf finds the header block that b starts with. A block in several frames is gathered
// in *scratch. With partial, b does not hold all of it.
func blockOf(b []byte, scratch *[]byte) (h2Block, progress) {
	f := h2FrameOf(b)
	if len(b) < f.size() {
		return h2Block{size: f.size()}, partial
	}
	blk := h2Block{size: f.size()}
	p := b[h2HeadSize:f.size()]
	if f.has(h2Padded) {
		if len(p) == 0 || int(p[0]) >= len(p) {
			return blk, doubtful
		}
		p = p[1 : len(p)-int(p[0])]
	}
	if f.has(h2HasPriority) {
		if len(p) < 5 {
			return blk, doubtful
		}
		blk.priority, p = p[:5], p[5:]
	}
	if f.has(h2EndHeaders) {
		blk.fields = p
		return blk, complete
	}
	*scratch = append((*scratch)[:0], p...)
	for {
		rest := b[blk.size:]
		if len(rest) < h2HeadSize {
			return blk, partial
		}
		more := h2FrameOf(rest)
		if more.kind != h2Continuation || more.stream != f.stream {
			return blk, doubtful
		}
		blk.size += more.size()
		if len(rest) < more.size() {
			return blk, partial
		}
		*scratch = append(*scratch, rest[h2HeadSize:more.size()]...)
		if more.has(h2EndHeaders) {
			blk.fields = *scratch
			return blk, complete
		}
	}
}

// appendBlock appends fields, which are HPACK, as the frames of a header block.
func appendBlock(dst []byte, stream uint32, endStream bool, priority, fields []byte) []byte {
	f := h2Frame{kind: h2Headers, stream: stream}
	if endStream {
		f.flags = h2EndStream
	}
	if priority != nil {
		f.flags |= h2HasPriority
	}
	for {
		n := min(len(fields), h2FrameSize-len(priority))
		if n == len(fields) {
			f.flags |= h2EndHeaders
		}
		f.length = len(priority) + n
		dst = append(append(f.appendTo(dst), priority...), fields[:n]...)
		if fields = fields[n:]; len(fields) == 0 {
			return dst
		}
		f, priority = h2Frame{kind: h2Continuation, stream: stream}, nil
	}
}

// splitData takes the first n flow-controlled bytes off a DATA frame that has more. It returns
// the frame that carries them, without their bytes if that cannot be done, and what is left. rest
// may be b's memory.
func splitData(dst, b []byte, n int) (out, rest []byte, took int) {
	f := h2FrameOf(b)
	data, head, tail := b[h2HeadSize:], []byte(nil), []byte(nil)
	if f.has(h2Padded) {
		pad := int(data[0])
		if pad >= len(data) {
			return dst, b, 0 // the client shall see it whole
		}
		head, tail = data[:1], data[len(data)-pad:]
		data = data[1 : len(data)-pad]
	}
	n = min(n, len(data))
	if n <= 0 {
		return dst, b, 0
	}
	dst = append(h2Frame{length: n, kind: h2Data, stream: f.stream}.appendTo(dst), data[:n]...)
	left := h2Frame{length: f.length - n, kind: h2Data, flags: f.flags, stream: f.stream}
	rest = append(left.appendTo(make([]byte, 0, left.size())), head...)
	return dst, append(append(rest, data[n:]...), tail...), n
}

// isH2Preface reports whether b may be the start of a connection that speaks HTTP/2.
func isH2Preface(b []byte) bool {
	return len(b) > 0 && strings.HasPrefix(h2Preface, string(b[:min(len(b), len(h2Preface))]))
}

// isH2Settings reports whether b starts as the first frame of a server that speaks HTTP/2.
func isH2Settings(b []byte) bool {
	if len(b) < h2HeadSize {
		return false
	}
	f := h2FrameOf(b)
	return f.kind == h2Settings && f.flags == 0 && f.stream == 0 && f.length%6 == 0 && f.length <= h2FrameSize
}

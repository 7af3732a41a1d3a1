package protocols

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
)

// A wsCase is a case of Autobahn's test suite for WebSocket, written again by its number: what a client sends, and what a
// server that keeps to RFC 6455 and RFC 7692 answers. The suite itself needs Python 2.
type wsCase struct {
	id    string
	steps []wsStep
	want  []string // what comes back: messages "text …" and "binary …", and "pong …"
	code  []int    // of the server's close frame, any of these; none: Autobahn takes it as it comes
	ends  bool     // by what was sent; otherwise the client closes
}

// A wsStep is what is sent at once, or in pieces; the next step waits for what comes back.
type wsStep struct {
	frames []wsFrame
	chop   int // octets of a piece; 0: one piece; byFrame
	cut    []int
	await  int // frames that come back before the next step
}

const byFrame = -1

type wsFrame struct {
	op      byte
	rsv     byte
	more    bool // not the last of its message
	payload string
}

const (
	wsText   = 1
	wsBinary = 2
	wsClose  = 8
	wsPing   = 9
	wsPong   = 10
)

// octets are a frame as a client sends it.
func (f wsFrame) octets() []byte {
	mask := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	b := []byte{f.op | f.rsv<<4, 0x80}
	if !f.more {
		b[0] |= 0x80
	}
	switch n := len(f.payload); {
	case n < 126:
		b[1] |= byte(n)
	case n < 1<<16:
		b[1] |= 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] |= 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	b = append(b, mask[:]...)
	at := len(b)
	b = append(b, f.payload...)
	for i := range b[at:] {
		b[at+i] ^= mask[i%4]
	}
	return b
}

// fragments are a message in frames of size octets.
func fragments(op byte, payload string, size int) (out []wsFrame) {
	for at := 0; ; at, op = at+size, 0 {
		end := min(at+size, len(payload))
		out = append(out, wsFrame{op: op, payload: payload[at:end], more: end < len(payload)})
		if end == len(payload) {
			return out
		}
	}
}

func closeFrame(code int, reason string) wsFrame {
	return wsFrame{op: wsClose, payload: string(binary.BigEndian.AppendUint16(nil, uint16(code))) + reason}
}

func repeated(s string, n int) string { return strings.Repeat(s, n/len(s)+1)[:n] }

// wsCases are all cases but 12 and 13.
func wsCases() (cases []wsCase) {
	add := func(c wsCase) { cases = append(cases, c) }
	one := func(chop int, frames ...wsFrame) []wsStep { return []wsStep{{frames: frames, chop: chop}} }
	fails := func(id string, code int, steps []wsStep, want ...string) {
		add(wsCase{id: id, steps: steps, want: want, code: []int{code}, ends: true})
	}
	echoes := func(id string, steps []wsStep, want ...string) {
		add(wsCase{id: id, steps: steps, want: want, code: []int{1000}})
	}
	text := func(s string) wsFrame { return wsFrame{op: wsText, payload: s} }
	const hello, odd = "Hello, world!", "\x00\xff\xfe\xfd\xfc\xfb\x00\xff"

	for i, n := range []int{0, 125, 126, 127, 128, 65535, 65536, 65536} {
		chop := 0
		if i == 7 {
			chop = 997
		}
		star, thorn := strings.Repeat("*", n), strings.Repeat("\xfe", n)
		echoes(fmt.Sprintf("1.1.%d", i+1), one(chop, text(star)), "text "+star)
		echoes(fmt.Sprintf("1.2.%d", i+1), one(chop, wsFrame{op: wsBinary, payload: thorn}), "binary "+thorn)
	}

	long := strings.Repeat("\xfe", 125)
	echoes("2.1", one(0, wsFrame{op: wsPing}), "pong ")
	echoes("2.2", one(0, wsFrame{op: wsPing, payload: hello}), "pong "+hello)
	echoes("2.3", one(0, wsFrame{op: wsPing, payload: odd}), "pong "+odd)
	echoes("2.4", one(0, wsFrame{op: wsPing, payload: long}), "pong "+long)
	fails("2.5", 1002, one(0, wsFrame{op: wsPing, payload: long + "\xfe"}))
	echoes("2.6", one(1, wsFrame{op: wsPing, payload: long}), "pong "+long)
	echoes("2.7", one(0, wsFrame{op: wsPong}))
	echoes("2.8", one(0, wsFrame{op: wsPong, payload: "unsolicited pong payload"}))
	echoes("2.9", one(0, wsFrame{op: wsPong, payload: "unsolicited pong payload"}, wsFrame{op: wsPing, payload: "ping payload"}), "pong ping payload")
	var pings []wsFrame
	var pongs []string
	for i := range 10 {
		payload := fmt.Sprintf("payload-%d", i)
		pings, pongs = append(pings, wsFrame{op: wsPing, payload: payload}), append(pongs, "pong "+payload)
	}
	echoes("2.10", one(0, pings...), pongs...)
	echoes("2.11", one(1, pings...), pongs...)

	fails("3.1", 1002, one(0, wsFrame{op: wsText, rsv: 1, payload: hello}))
	for i, chop := range []int{0, byFrame, 1} {
		fails(fmt.Sprintf("3.%d", i+2), 1002, one(chop, text(hello), wsFrame{op: wsText, rsv: byte(i + 2), payload: hello}, wsFrame{op: wsPing}), "text "+hello)
	}
	fails("3.5", 1002, one(0, wsFrame{op: wsBinary, rsv: 5, payload: odd}))
	fails("3.6", 1002, one(0, wsFrame{op: wsPing, rsv: 6, payload: hello}))
	fails("3.7", 1002, one(0, wsFrame{op: wsClose, rsv: 7}))

	for group, first := range []byte{3, 11} {
		id := fmt.Sprintf("4.%d.", group+1)
		fails(id+"1", 1002, one(0, wsFrame{op: first}))
		fails(id+"2", 1002, one(0, wsFrame{op: first + 1, payload: "reserved opcode payload"}))
		fails(id+"3", 1002, one(0, text(hello), wsFrame{op: first + 2}, wsFrame{op: wsPing}), "text "+hello)
		fails(id+"4", 1002, one(0, text(hello), wsFrame{op: first + 3, payload: hello}, wsFrame{op: wsPing}), "text "+hello)
		fails(id+"5", 1002, one(0, text(hello), wsFrame{op: first + 4, payload: hello}, wsFrame{op: wsPing}), "text "+hello)
	}

	part := func(n int, op byte, more bool) wsFrame {
		return wsFrame{op: op, more: more, payload: fmt.Sprintf("fragment%d", n)}
	}
	fails("5.1", 1002, one(0, part(1, wsPing, true), part(2, 0, false)))
	fails("5.2", 1002, one(0, part(1, wsPong, true), part(2, 0, false)))
	for i, chop := range []int{0, byFrame, 1} {
		echoes(fmt.Sprintf("5.%d", i+3), one(chop, part(1, wsText, true), part(2, 0, false)), "text fragment1fragment2")
		echoes(fmt.Sprintf("5.%d", i+6), one(chop, part(1, wsText, true), wsFrame{op: wsPing, payload: "ping payload"}, part(2, 0, false)),
			"pong ping payload", "text fragment1fragment2")
		stray := wsFrame{payload: "non-continuation payload"}
		fails(fmt.Sprintf("5.%d", i+9), 1002, one(chop, stray, text(hello)))
		stray.more = true
		fails(fmt.Sprintf("5.%d", i+12), 1002, one(chop, stray, text(hello)))
	}
	fails("5.15", 1002, one(0, part(1, wsText, true), part(2, 0, false), part(3, 0, true), part(4, wsText, false)), "text fragment1fragment2")
	fails("5.16", 1002, one(0, part(1, 0, true), part(2, wsText, true), part(3, 0, false), part(1, 0, true), part(2, wsText, true), part(3, 0, false)))
	fails("5.17", 1002, one(0, part(1, 0, false), part(2, wsText, true), part(3, 0, false), part(1, 0, false), part(2, wsText, true), part(3, 0, false)))
	fails("5.18", 1002, one(0, part(1, wsText, true), part(2, wsText, false)))
	for i, chop := range []int{0, byFrame} {
		first := []wsFrame{part(1, wsText, true), part(2, 0, true), {op: wsPing, payload: "pongme 1!"}}
		then := []wsFrame{part(3, 0, true), part(4, 0, true), {op: wsPing, payload: "pongme 2!"}, part(5, 0, false)}
		echoes(fmt.Sprintf("5.%d", 19+i), []wsStep{{frames: first, chop: chop, await: 1}, {frames: then, chop: chop}},
			"pong pongme 1!", "pong pongme 2!", "text fragment1fragment2fragment3fragment4fragment5")
	}

	cases = append(cases, utf8Cases()...)

	closes := func(id string, code []int, frames ...wsFrame) {
		add(wsCase{id: id, steps: one(0, frames...), code: code, ends: true})
	}
	normal := closeFrame(1000, "")
	echoes("7.1.1", one(0, text(hello)), "text "+hello)
	closes("7.1.2", []int{1000}, normal, wsFrame{op: wsClose})
	closes("7.1.3", []int{1000}, normal, wsFrame{op: wsPing})
	closes("7.1.4", []int{1000}, normal, text(hello))
	closes("7.1.5", []int{1000}, part(1, wsText, true), normal, part(2, 0, false))
	big := repeated("BAsd7&jh23", 256<<10)
	add(wsCase{id: "7.1.6", steps: one(0, text(big), text(hello), normal, wsFrame{op: wsPing}), want: []string{"text " + big, "text " + hello}, code: []int{1000}, ends: true})
	closes("7.3.1", nil, wsFrame{op: wsClose})
	closes("7.3.2", []int{1002}, wsFrame{op: wsClose, payload: "a"})
	closes("7.3.3", []int{1000}, normal)
	closes("7.3.4", []int{1000}, closeFrame(1000, hello))
	closes("7.3.5", []int{1000}, closeFrame(1000, strings.Repeat("*", 123)))
	closes("7.3.6", []int{1002}, closeFrame(1000, strings.Repeat("*", 124)))
	closes("7.5.1", []int{1002, 1007}, closeFrame(1000, kosme+"\xed\xa0\x80edited"))
	for i, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		closes(fmt.Sprintf("7.7.%d", i+1), []int{1000, code}, closeFrame(code, ""))
	}
	for i, code := range []int{0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999} {
		closes(fmt.Sprintf("7.9.%d", i+1), []int{1002}, closeFrame(code, ""))
	}
	closes("7.13.1", nil, closeFrame(5000, ""))
	closes("7.13.2", nil, closeFrame(65535, ""))

	for i, kind := range []string{"text ", "binary "} {
		op := byte(i + 1)
		for k, size := range []int{64 << 10, 256 << 10, 1 << 20, 4 << 20, 8 << 20, 16 << 20} {
			payload := repeated("BAsd7&jh23", size)
			echoes(fmt.Sprintf("9.%d.%d", i+1, k+1), one(0, wsFrame{op: op, payload: payload}), kind+payload)
			chopped := repeated("BAsd7&jh23", 1<<20)
			echoes(fmt.Sprintf("9.%d.%d", i+5, k+1), one(64<<k, wsFrame{op: op, payload: chopped}), kind+chopped)
			many, want := manyFrames(op, []int{0, 16, 64, 256, 1024, 4096}[k])
			echoes(fmt.Sprintf("9.%d.%d", i+7, k+1), many, want...)
		}
		stars := strings.Repeat("*", 4<<20)
		for k := range 9 {
			echoes(fmt.Sprintf("9.%d.%d", i+3, k+1), one(0, fragments(op, stars, 64<<(2*k))...), kind+stars)
		}
	}
	stars := strings.Repeat("*", 65536)
	echoes("10.1.1", one(0, fragments(wsText, stars, 1300)...), "text "+stars)
	return cases
}

// manyFrames are a thousand messages, each of which is sent when the one before it has come back.
func manyFrames(op byte, size int) (steps []wsStep, want []string) {
	f, kind := wsFrame{op: op, payload: strings.Repeat("*", size)}, "text "
	if op == wsBinary {
		f.payload, kind = strings.Repeat("\xfe", size), "binary "
	}
	for range 1000 {
		steps, want = append(steps, wsStep{frames: []wsFrame{f}, await: 1}), append(want, kind+f.payload)
	}
	return steps, want
}

const kosme = "\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5" // a Greek word

// utf8Cases are the cases 6: messages of text that is, or is not, UTF-8. Their sequences are those of Markus Kuhn's UTF-8 decoder
// capability and stress test.
func utf8Cases() (cases []wsCase) {
	add := func(id, payload string, valid bool, steps ...wsStep) {
		c := wsCase{id: id, steps: steps, code: []int{1007}, ends: true}
		if valid {
			c.want, c.code, c.ends = []string{"text " + payload}, []int{1000}, false
		}
		cases = append(cases, c)
	}
	whole := func(frames ...wsFrame) wsStep { return wsStep{frames: frames} }
	const mixed, middle = "Hello-µ@ßöäüàá-UTF-8!!", "middle frame payload"
	add("6.1.1", "", true, whole(wsFrame{op: wsText}))
	add("6.1.2", "", true, whole(wsFrame{op: wsText, more: true}, wsFrame{more: true}, wsFrame{}))
	add("6.1.3", middle, true, whole(wsFrame{op: wsText, more: true}, wsFrame{more: true, payload: middle}, wsFrame{}))
	add("6.2.1", mixed, true, whole(wsFrame{op: wsText, payload: mixed}))
	add("6.2.2", mixed, true, whole(fragments(wsText, mixed, strings.Index(mixed, "ü"))...))
	add("6.2.3", mixed, true, whole(fragments(wsText, mixed, 1)...))
	add("6.2.4", kosme, true, whole(fragments(wsText, kosme, 1)...))
	const broken = kosme + "\xed\xa0\x80edited"
	add("6.3.1", broken, false, whole(wsFrame{op: wsText, payload: broken}))
	add("6.3.2", broken, false, whole(fragments(wsText, broken, 1)...))
	const beyond = kosme + "\xf4\x90\x80\x80edited"
	for i, at := range [][2]int{{len(kosme), len(kosme) + 4}, {12, 13}} {
		add(fmt.Sprintf("6.4.%d", i+1), beyond, false, whole(wsFrame{op: wsText, more: true, payload: beyond[:at[0]]}),
			whole(wsFrame{more: true, payload: beyond[at[0]:at[1]]}), whole(wsFrame{payload: beyond[at[1]:]}))
		head := len(wsFrame{op: wsText, payload: beyond}.octets()) - len(beyond)
		add(fmt.Sprintf("6.4.%d", i+3), beyond, false, wsStep{frames: []wsFrame{{op: wsText, payload: beyond}}, cut: []int{head + at[0], head + at[1]}})
	}

	var prefixes []string
	for i := range len(kosme) {
		prefixes = append(prefixes, kosme[:i+1])
	}
	runs := func(ranges ...[2]byte) (out []string) {
		for _, r := range ranges {
			var b []byte
			for c := r[0]; c < r[1]; c++ {
				b = append(b, c, ' ')
			}
			out = append(out, string(b))
		}
		return out
	}
	var continuations []byte
	for c := byte(0x80); c < 0xbf; c++ {
		continuations = append(continuations, c)
	}
	cutShort := []string{"\xc0", "\xe0\x80", "\xf0\x80\x80", "\xf8\x80\x80\x80", "\xfc\x80\x80\x80\x80", "\xdf", "\xef\xbf", "\xf7\xbf\xbf", "\xfb\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf"}
	nonCharacters := []string{"\xef\xbf\xbe", "\xef\xbf\xbf"}
	for plane := rune(1); plane <= 16; plane++ {
		nonCharacters = append(nonCharacters, string(plane<<16|0xfffe), string(plane<<16|0xffff))
	}
	for i, group := range [][]string{
		{"hello$world", "hello\u00a2world", "hello\u20acworld", "hello\U00024b62world", kosme},
		prefixes,
		{"\x00", "\u0080", "\u0800", "\U00010000"},
		{"\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80"},
		{"\x7f", "\u07ff", "\uffff", "\U0010ffff"},
		{"\xf7\xbf\xbf\xbf", "\xfb\xbf\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf\xbf"},
		{"\ud7ff", "\ue000", "\ufffd", "\U0010ffff", "\xf4\x90\x80\x80"},
		{"\x80", "\xbf", "\x80\xbf", "\x80\xbf\x80", "\x80\xbf\x80\xbf", "\x80\xbf\x80\xbf\x80", "\x80\xbf\x80\xbf\x80\xbf", string(continuations)},
		runs([2]byte{0xc0, 0xdf}, [2]byte{0xe0, 0xef}, [2]byte{0xf0, 0xf7}, [2]byte{0xf8, 0xfb}, [2]byte{0xfc, 0xfd}),
		cutShort,
		{strings.Join(cutShort, "")},
		{"\xfe", "\xff", "\xfe\xfe\xff\xff"},
		{"\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xf8\x80\x80\x80\xaf", "\xfc\x80\x80\x80\x80\xaf"},
		{"\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xf8\x87\xbf\xbf\xbf", "\xfc\x83\xbf\xbf\xbf\xbf"},
		{"\xc0\x80", "\xe0\x80\x80", "\xf0\x80\x80\x80", "\xf8\x80\x80\x80\x80", "\xfc\x80\x80\x80\x80\x80"},
		{"\xed\xa0\x80", "\xed\xad\xbf", "\xed\xae\x80", "\xed\xaf\xbf", "\xed\xb0\x80", "\xed\xbe\x80", "\xed\xbf\xbf"},
		{"\xed\xa0\x80\xed\xb0\x80", "\xed\xa0\x80\xed\xbf\xbf", "\xed\xad\xbf\xed\xb0\x80", "\xed\xad\xbf\xed\xbf\xbf", "\xed\xae\x80\xed\xb0\x80", "\xed\xae\x80\xed\xbf\xbf", "\xed\xaf\xbf\xed\xb0\x80", "\xed\xaf\xbf\xed\xbf\xbf"},
		nonCharacters,
		{"\ufff9", "\ufffa", "\ufffb", "\ufffc", "\ufffd", "\ufffe", "\uffff"},
	} {
		for k, s := range group {
			add(fmt.Sprintf("6.%d.%d", i+5, k+1), s, isUTF8(s), whole(wsFrame{op: wsText, payload: s}))
		}
	}
	return cases
}

func isUTF8(s string) bool { return strings.ToValidUTF8(s, "") == s }

// compressed is how the cases 12 and 13 differ: each sends messages of many sizes, compressed, whole and in fragments.
type compressed struct {
	group string
	offer string
	data  string
	op    byte
}

// sizes of messages, and of their fragments.
var compressedSizes = [][2]int{{16}, {64}, {256}, {1024}, {4096}, {8192}, {16384}, {32768}, {65536}, {131072},
	{8192, 256}, {16384, 256}, {32768, 256}, {65536, 256}, {131072, 256}, {131072, 1024}, {131072, 4096}, {131072, 32768}}

func compressedGroups() (out []compressed) {
	const usual = "permessage-deflate; client_no_context_takeover; client_max_window_bits"
	for i, data := range []string{likeJSON(), likeBitmap(), likeProse(), likeHTML(), likePDF()} {
		op := byte(wsBinary)
		if i == 0 || i == 3 {
			op = wsText
		}
		out = append(out, compressed{fmt.Sprintf("12.%d", i+1), usual, data, op})
	}
	bits := func(n int) string { return fmt.Sprintf("%s; server_max_window_bits=%d", usual, n) }
	const alone = "; server_no_context_takeover"
	for i, offer := range []string{usual, usual + alone, bits(9), bits(15), bits(9) + alone, bits(15) + alone, bits(9) + alone + ", " + usual + alone + ", " + usual} {
		out = append(out, compressed{fmt.Sprintf("13.%d", i+1), offer, likeJSON(), wsText})
	}
	return out
}

// What the suite sends are files; these compress about as they do.
func likeJSON() string {
	return generated(func(r *rand.Rand, b *strings.Builder) {
		fmt.Fprintf(b, `{"id": %d, "name": "%s %s", "tags": ["%s", "%s"], "at": [%.6f, %.6f]},`, r.IntN(1e6), word(r), word(r), word(r), word(r), r.Float64()*180, r.Float64()*90)
	})
}

func likeHTML() string {
	return generated(func(r *rand.Rand, b *strings.Builder) {
		fmt.Fprintf(b, "<li class=%q><a href=\"/%s/%d\">%s %s</a></li>\n", word(r), word(r), r.IntN(1000), word(r), word(r))
	})
}

func likeProse() string {
	return generated(func(r *rand.Rand, b *strings.Builder) { fmt.Fprintf(b, "%s %s, ", word(r), word(r)) })
}

func likeBitmap() string {
	level := 128
	return generated(func(r *rand.Rand, b *strings.Builder) {
		level = max(0, min(255, level+r.IntN(9)-4))
		b.WriteByte(byte(level))
	})
}

func likePDF() string {
	return generated(func(r *rand.Rand, b *strings.Builder) { b.WriteByte(byte(r.IntN(256))) })
}

// generated is half a MiB, the same each time.
func generated(more func(*rand.Rand, *strings.Builder)) string {
	r := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	for b.Len() < 512<<10 {
		more(r, &b)
	}
	return b.String()
}

func word(r *rand.Rand) string {
	var b strings.Builder
	for range 1 + r.IntN(3) {
		b.WriteByte("bdfgklmnprst"[r.IntN(12)])
		b.WriteByte("aeiou"[r.IntN(5)])
	}
	return b.String()
}

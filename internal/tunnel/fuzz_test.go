package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"testing"
	"time"

	"github.com/libp2p/go-yamux/v5"
)

// frame is one yamux frame: version 0, type, flags, stream, length, and what follows.
func frame(kind byte, flags uint16, stream, length uint32, payload string) []byte {
	b := []byte{0, kind}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	b = binary.BigEndian.AppendUint32(b, length)
	return append(b, payload...)
}

func block(t testing.TB, v any) string {
	t.Helper()
	var b bytes.Buffer
	if err := writeBlock(&b, v); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// greeting is what a laptop sends first: a stream, and its hello in it.
func greeting(t testing.TB, h hello) []byte {
	text := block(t, h)
	return append(frame(1, 1, 1, 0, ""), frame(0, 0, 1, uint32(len(text)), text)...) // window update with SYN, then data
}

// Whatever a laptop with a valid key sends once it is let in, the router's end of its tunnel ends with the connection, and
// serves no route that the session may not have.
func FuzzFramesFromALaptop(f *testing.F) {
	for _, routes := range [][]string{{"web:80"}, {"not:80"}, nil} {
		f.Add(greeting(f, hello{Version: "v1", Session: "s", Serves: routes}))
	}
	f.Add(append(greeting(f, hello{Session: "s", Serves: []string{"web:80"}}), frame(0, 0, 1, 18, block(f, beat{Leaving: true}))...))
	f.Add(greeting(f, hello{Session: "another"}))
	f.Add(frame(0, 1, 1, 0xffffffff, "too long to be true"))
	f.Add(frame(2, 1, 0, 7, "")) // ping
	f.Add(frame(3, 0, 0, 2, "")) // go away
	f.Add(append(frame(1, 1, 1, 0, ""), frame(1, 1, 3, 0, "")...))
	f.Fuzz(func(t *testing.T, sent []byte) {
		server := NewServer(ServerOptions{
			Name: "router-0", Version: "v1",
			HasKey:  func(session, key string) bool { return session == "s" && key == "k" },
			Allowed: func(session, route string) bool { return session == "s" && route == "web:80" },
		})
		mine, theirs := net.Pipe()
		go func() {
			_, _ = theirs.Write(sent)
			theirs.Close()
		}()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		live := newLiveConn(mine)
		defer live.Close()
		l := &laptop{stop: make(chan struct{}), leave: make(chan struct{}), config: muxConfig(maxFromLaptop)}
		var err error
		if l.mux, err = yamux.Client(live, l.config, nil); err != nil {
			t.Fatal(err)
		}
		defer l.mux.Close()
		ctx, cancel := context.WithTimeout(t.Context(), handshakeTime)
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- server.hold(t.Context(), ctx, live, l, "k") }()
		select {
		case err := <-ended:
			if err == nil {
				t.Error("a connection that broke off was served to a good end")
			}
		case <-time.After(2 * handshakeTime):
			t.Fatal("it does not end although its connection has")
		}
		for session, routes := range server.Connected() {
			t.Errorf("session %s is still connected, for %v", session, routes)
		}
	})
}

// Whatever the control stream's lines say, nothing but their few fields is read from them.
func FuzzControlLines(f *testing.F) {
	for _, s := range []string{`{"version":"v1","session":"s","serves":["web:80"]}`, `{"bye":"x"}`, `{"leaving":true}`, `{"error":"x"}`, `[]`, `{"serves":{}}`, `{"serves":[1]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if len(line) > maxLine {
			return
		}
		raw := append(binary.BigEndian.AppendUint16(nil, uint16(len(line))), line...)
		for _, v := range []any{&hello{}, &welcome{}, &beat{}, &opening{}} {
			err := readBlock(bytes.NewReader(raw), v)
			if (err == nil) != (json.Unmarshal(line, v) == nil) {
				t.Errorf("%q: %v", line, err)
			}
		}
	})
}

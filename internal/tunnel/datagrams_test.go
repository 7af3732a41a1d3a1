package tunnel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/iotest"
	"time"
)

// scripted is a stream that was cut somehow.
type scripted struct {
	net.Conn
	io.Reader
}

func (s scripted) Read(p []byte) (int, error) { return s.Reader.Read(p) }

type sink struct {
	net.Conn
	bytes.Buffer
}

func (s *sink) Write(p []byte) (int, error) { return s.Buffer.Write(p) }
func (s *sink) Read(p []byte) (int, error)  { return s.Buffer.Read(p) }

func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

// Whatever datagrams go in come out, none joined and none split, however the stream is cut; a stream that is none breaks
// and holds nobody.
func FuzzDatagrams(f *testing.F) {
	f.Add([]byte("\x00\x01a\x00\x00\x00\x02bc"), []byte("hello"))
	f.Add([]byte("\xff\xff"), []byte{})
	f.Fuzz(func(t *testing.T, stream, datagram []byte) {
		for _, r := range []io.Reader{bytes.NewReader(stream), iotest.OneByteReader(bytes.NewReader(stream))} {
			d := datagrams(scripted{Reader: r})
			buf := make([]byte, maxDatagram)
			left := stream
			for {
				n, err := d.Read(buf)
				if err != nil {
					break
				}
				if len(left) < 2+n || !bytes.Equal(left[2:2+n], buf[:n]) {
					t.Fatalf("read %q of %q", buf[:n], left)
				}
				left = left[2+n:]
			}
			if len(left) >= 2 && len(left) >= 2+int(left[0])<<8+int(left[1]) {
				t.Fatalf("stopped before %q", left)
			}
		}
		d := datagrams(&sink{})
		for range 3 {
			if _, err := d.Write(datagram); (err != nil) != (len(datagram) > maxDatagram) {
				t.Fatal(err)
			} else if err != nil {
				return
			}
		}
		buf := make([]byte, maxDatagram)
		for range 3 {
			if n, err := d.Read(buf); err != nil || !bytes.Equal(buf[:n], datagram) {
				t.Fatalf("%q, %v", buf[:n], err)
			}
		}
	})
}

func TestDatagramsGoThroughATunnel(t *testing.T) {
	t.Parallel()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { server.Close() })
	go func() {
		buf := make([]byte, maxDatagram)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(buf[:n], from)
		}
	}()
	r := newRig(t)
	r.laptop(r.key, r.ca.CertificatePEM(), func(context.Context, string) (net.Conn, error) { return net.Dial("udp", server.LocalAddr().String()) })
	r.awaitConnected()
	stream, err := r.server.DialDatagrams(t.Context(), "s", "web:80", &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1})
	must(t, err)
	conn := Datagrams(stream)
	defer conn.Close()
	buf := make([]byte, maxDatagram)
	for _, size := range []int{0, 1, 1500, 60_000} {
		sent := bytes.Repeat([]byte{byte(size)}, size)
		_, err := conn.Write(sent)
		must(t, err)
		must(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
		n, err := conn.Read(buf)
		if err != nil || !bytes.Equal(buf[:n], sent) {
			t.Fatalf("%d bytes of %d came back: %v", n, size, err)
		}
	}
	// A deadline between two datagrams loses none.
	must(t, conn.SetReadDeadline(time.Now().Add(time.Millisecond)))
	if err := conn.(*datagramConn).Await(); !isTimeout(err) {
		t.Errorf("awaiting: %v", err)
	}
	must(t, conn.SetReadDeadline(time.Time{}))
	_, err = conn.Write([]byte("x"))
	must(t, err)
	if n, err := conn.Read(buf); n != 1 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
	// The laptop's program goes: the flow ends, and the router asks again.
	server.Close()
	_, err = conn.Write([]byte("x"))
	must(t, err)
	must(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	if _, err := conn.Read(buf); err == nil || isTimeout(err) {
		t.Errorf("the flow goes on without a program: %v", err)
	}
	if _, err := conn.Write(make([]byte, maxDatagram+1)); err == nil {
		t.Error("a datagram that is too long was written")
	}
}

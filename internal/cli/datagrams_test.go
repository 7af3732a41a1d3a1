package cli

import (
	"net"
	"os"
	"testing"
)

// missing ends a test that this system cannot run, which is no excuse where it must.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Whether a laptop's program hears datagrams is known without sending it any.
func TestDatagramsAreDialledOnlyWhereSomebodyListens(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/net/udp"); err != nil {
		missing(t, "this system does not tell who listens")
	}
	for _, addr := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"} {
		l, err := net.ListenPacket("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		port := int32(l.LocalAddr().(*net.UDPAddr).Port)
		c, err := new(udpHosts).dial(port)
		if err != nil {
			t.Errorf("%s: %v", addr, err)
		} else {
			if _, err := c.Write([]byte("x")); err != nil {
				t.Errorf("%s: %v", addr, err)
			}
			buf := make([]byte, 8)
			if n, _, err := l.ReadFrom(buf); n != 1 || err != nil {
				t.Errorf("%s: read %d, %v", addr, n, err)
			}
			c.Close()
		}
		l.Close()
		if c, err := new(udpHosts).dial(port); err == nil {
			c.Close()
			t.Errorf("%s: nobody listens any more, and it was dialled", addr)
		}
	}
	peer, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	c, err := net.Dial("udp", peer.LocalAddr().String()) // a client's socket hears its server only
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if hostOfUDP(int32(c.LocalAddr().(*net.UDPAddr).Port)) != "" {
		t.Error("a connected socket is taken for a server")
	}
}

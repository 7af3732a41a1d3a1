package dial

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestOnlyOrdinaryAddressesAreConnectedTo(t *testing.T) {
	t.Parallel()
	g := Guard{Refused: []netip.Addr{netip.MustParseAddr("10.96.0.1")}}
	for _, a := range []string{"10.0.0.1", "192.168.1.1", "140.82.121.3", "fd00::1", "2001:db8::1", "64:ff9b::8c52:7903"} {
		if err := g.Check(netip.MustParseAddr(a)); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	for _, a := range []string{"127.0.0.1", "127.8.0.1", "::1", "0.0.0.0", "::", "169.254.169.254", "fe80::1", "fe80::1%eth0", "224.0.0.1", "ff02::1", "255.255.255.255",
		"fd00:ec2::254", "100.100.100.200", "192.0.0.192", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.96.0.1", "10.96.0.1", "64:ff9b::a60:1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"} {
		if g.Check(netip.MustParseAddr(a)) == nil {
			t.Errorf("%s is connected to", a)
		}
	}
}

// A name that leads to a refused address is looked at when it is known where it leads.
func TestNamesAreLookedAtWhereTheyLead(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if _, err := (Guard{}).Dialer(time.Second).DialContext(t.Context(), "tcp", "localhost:"+port); err == nil || !strings.Contains(err.Error(), "is not connected to") {
		t.Errorf("localhost: %v", err)
	}
	c, err := (Guard{Loopback: true}).Dialer(time.Second).DialContext(t.Context(), "tcp", "localhost:"+port)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

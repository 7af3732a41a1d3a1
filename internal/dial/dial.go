// Package dial connects to addresses that somebody else has named, and to none that only this process should reach.
package dial

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"dayfly.dev/dayfly/internal/usererr"
)

// Where clouds tell their machines' secrets, beside the link-local addresses. Of the others, a pod may have one.
var (
	metadata       = netip.MustParseAddr("fd00:ec2::254")
	othersMetadata = []netip.Addr{netip.MustParseAddr("100.100.100.200"), netip.MustParseAddr("192.0.0.192")}
)

// nat64 is in front of addresses of IPv4 that are reached by way of IPv6.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// plain is an address without what stands in front of one of IPv4.
func plain(addr netip.Addr) netip.Addr {
	if addr = addr.Unmap().WithZone(""); nat64.Contains(addr) {
		all := addr.As16()
		return netip.AddrFrom4([4]byte(all[12:]))
	}
	return addr
}

// Ordinary says whether a pod can have the address.
func Ordinary(addr netip.Addr) bool {
	addr = plain(addr)
	return addr.IsGlobalUnicast() && addr != metadata // global in Go's sense: not loopback, link-local, multicast or unspecified
}

// Guard is which addresses are connected to: those that are [Ordinary] and not refused.
type Guard struct {
	Refused  []netip.Addr
	Loopback bool // is ordinary, too: for servers on this machine, in tests
}

// Check says why an address is not connected to; nil: it is.
func (g Guard) Check(addr netip.Addr) error {
	addr = plain(addr)
	if g.Loopback && addr.IsLoopback() {
		return nil
	}
	if !Ordinary(addr) || slices.Contains(othersMetadata, addr) || slices.ContainsFunc(g.Refused, func(r netip.Addr) bool { return plain(r) == addr }) {
		return usererr.New(usererr.Refused, "name a server that pods of anybody may reach", "the address %s is not connected to: nobody but dayfly or its node should reach it", addr)
	}
	return nil
}

// Dialer returns one that looks at an address after its name was resolved, so that no name leads elsewhere in between.
func (g Guard) Dialer(timeout time.Duration) *net.Dialer {
	return &net.Dialer{Timeout: timeout, Control: func(network, address string, _ syscall.RawConn) error {
		if network != "tcp4" && network != "tcp6" {
			return fmt.Errorf("no connections by %s", network)
		}
		at, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		return g.Check(at.Addr())
	}}
}

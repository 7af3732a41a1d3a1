package cli

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// udpHosts remembers for a moment where a UDP port of this laptop is heard: there may be a thousand flows a second, and the
// kernel's list is long when there are many.
type udpHosts struct {
	mu    sync.Mutex
	known map[int32]udpHost
}

type udpHost struct {
	host string
	when time.Time
}

const udpHostAge = 200 * time.Millisecond

// dial makes a socket to a port of this laptop. Nothing is said on it, so whether somebody listens is asked of the kernel:
// otherwise the original answers.
func (u *udpHosts) dial(port int32) (net.Conn, error) {
	u.mu.Lock()
	at, ok := u.known[port]
	if !ok || time.Since(at.when) > udpHostAge {
		at = udpHost{hostOfUDP(port), time.Now()}
		if u.known == nil {
			u.known = map[int32]udpHost{}
		}
		u.known[port] = at
	}
	u.mu.Unlock()
	if at.host == "" {
		return nil, fmt.Errorf("nothing listens on the laptop's UDP port %d", port)
	}
	return net.Dial("udp", net.JoinHostPort(at.host, strconv.Itoa(int(port))))
}

// hostOfUDP is the loopback address on which a UDP port is heard, or "".
func hostOfUDP(port int32) string {
	for _, host := range []string{"127.0.0.1", "::1"} {
		if listensOnUDP(host, port) {
			return host
		}
	}
	return ""
}

// listensOnUDP says whether a datagram to a loopback address would find a socket, as /proc/net/udp and udp6 show it. A
// system that has neither is not asked: its answer is taken for granted.
func listensOnUDP(host string, port int32) bool {
	known := false
	for _, file := range []string{"udp", "udp6"} {
		data, err := os.ReadFile("/proc/net/" + file)
		if err != nil {
			continue
		}
		known = true
		for line := range strings.SplitSeq(string(data), "\n") {
			if fields := strings.Fields(line); len(fields) > 2 && hears(fields[1], fields[2], host, port) {
				return true
			}
		}
	}
	return !known
}

// hears says whether a socket with these addresses, in the hexadecimal of /proc/net/udp, takes datagrams for host and port
// from anybody.
func hears(own, peer, host string, port int32) bool {
	addr, number, _ := strings.Cut(own, ":")
	if !strings.HasSuffix(peer, ":0000") || !strings.EqualFold(number, fmt.Sprintf("%04X", port)) {
		return false
	}
	const any4, any6 = "00000000", "00000000000000000000000000000000"
	loopback := map[string][]string{"127.0.0.1": {"0100007F", "7F000001"}, "::1": {"00000000000000000000000001000000", any6[:31] + "1"}}[host]
	if addr == any6 || addr == any4 && host == "127.0.0.1" {
		return true
	}
	return addr == loopback[0] || addr == loopback[1] // as the machine writes its numbers
}

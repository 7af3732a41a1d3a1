package cluster

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
)

// The addresses inside of a cluster. They are used in network namespaces only, so every cluster has the same and they
// cannot clash with the host's.
const (
	podsCIDR     = "10.244.0.0/16"
	servicesCIDR = "10.96.0.0/16"
	apiService   = "10.96.0.1"
	dnsService   = "10.96.0.10"
	controlIP    = "10.245.0.1"
	lanPrefixLen = "/24"
	control      = "control"
	bridge       = "lan"
)

// maxNodes is bounded by the address plan, and by reason.
const maxNodes = 9

func nodeName(i int) string    { return fmt.Sprintf("node-%d", i) }
func nodeIP(i int) string      { return fmt.Sprintf("10.245.0.%d", 10+i) }
func nodePodCIDR(i int) string { return fmt.Sprintf("10.244.%d.0/24", i) }

// hostEnd and controlEnd are the addresses of the link between the host and the API server.
func (c *Cluster) hostEnd() netip.Addr    { return c.Link.Addr().Next() }
func (c *Cluster) controlEnd() netip.Addr { return c.hostEnd().Next() }

// hostInterface is the only network device that a cluster has on the host.
func (c *Cluster) hostInterface() string { return "tc-" + c.ID }

// controlCables joins control to the host and makes the switch that the nodes are plugged into.
func (c *Cluster) controlCables() (inside, outside []string) {
	inside = []string{
		"link set lo up",
		"link add host type veth peer name " + c.hostInterface() + " netns /proc/self/fd/3",
		fmt.Sprintf("addr add %s/30 dev host", c.controlEnd()),
		"link set host up",
		"link add " + bridge + " type bridge",
		"addr add " + controlIP + lanPrefixLen + " dev " + bridge,
		"link set " + bridge + " up",
	}
	for i := 1; i <= c.Nodes; i++ {
		inside = append(inside, fmt.Sprintf("route add %s via %s", nodePodCIDR(i), nodeIP(i)))
	}
	return inside, []string{
		fmt.Sprintf("addr add %s/30 dev %s", c.hostEnd(), c.hostInterface()),
		"link set " + c.hostInterface() + " up",
	}
}

// nodeCables plugs a node into control's switch. There is no default route: nothing leaves the cluster.
func (c *Cluster) nodeCables(i int) (inside, outside []string) {
	name := nodeName(i)
	inside = []string{
		"link set lo up",
		// The address stays the same, or the others would need a minute to notice that the node was restarted.
		fmt.Sprintf("link add eth0 address 02:df:00:00:00:%02x type veth peer name %s netns /proc/self/fd/3", i, name),
		"addr add " + nodeIP(i) + lanPrefixLen + " dev eth0",
		"link set eth0 up",
		// Without a route the kernel would not look further at what the node sends to a Service. Where there is no such
		// Service, control drops it.
		"route add " + servicesCIDR + " via " + controlIP,
	}
	for other := 1; other <= c.Nodes; other++ {
		if other != i {
			inside = append(inside, fmt.Sprintf("route add %s via %s", nodePodCIDR(other), nodeIP(other)))
		}
	}
	return inside, []string{"link set " + name + " master " + bridge, "link set " + name + " up"}
}

// linkPools are ranges that no network should use for its hosts: carrier-grade NAT and benchmarking.
var linkPools = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("198.18.0.0/15")}

// chooseLink picks a /30 that no address and no route of the host overlaps, the cluster's previous one if possible.
func (c *Cluster) chooseLink() error {
	taken, err := hostPrefixes(c.hostInterface())
	if err != nil {
		return err
	}
	link, ok := freeLink(c.Link, c.ID, taken)
	if !ok {
		return fmt.Errorf("no free /30 for the API server in %v: routes of this host cover them; see `ip route show table all`", linkPools)
	}
	c.Link = link
	return nil
}

func freeLink(previous netip.Prefix, id string, taken []netip.Prefix) (netip.Prefix, bool) {
	free := func(p netip.Prefix) bool {
		for _, t := range taken {
			if t.Overlaps(p) {
				return false
			}
		}
		return true
	}
	if previous.IsValid() && free(previous) {
		return previous, true
	}
	seed, _ := hex.DecodeString(id)
	for _, pool := range linkPools {
		size := uint32(1) << (30 - pool.Bits())
		start := binary.BigEndian.Uint32(append(make([]byte, 4), seed...)[len(seed):]) % size
		for i := range min(size, 4096) {
			base := pool.Addr().As4()
			n := binary.BigEndian.Uint32(base[:]) + (start+i)%size*4
			var addr [4]byte
			binary.BigEndian.PutUint32(addr[:], n)
			if p := netip.PrefixFrom(netip.AddrFrom4(addr), 30); free(p) {
				return p, true
			}
		}
	}
	return netip.Prefix{}, false
}

// hostPrefixes lists what the host's routes and addresses cover, without default routes and the device except.
func hostPrefixes(except string) ([]netip.Prefix, error) {
	var found []netip.Prefix
	var routes []struct{ Dst, Dev string }
	if err := ipJSON(&routes, "route", "show", "table", "all"); err != nil {
		return nil, err
	}
	for _, r := range routes {
		if r.Dev == except {
			continue
		}
		if p, err := netip.ParsePrefix(r.Dst); err == nil && p.Bits() > 0 {
			found = append(found, p.Masked())
		} else if a, err := netip.ParseAddr(r.Dst); err == nil {
			found = append(found, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return found, nil // each address has a route in the table local
}

func ipJSON(into any, args ...string) error {
	out, err := exec.Command("ip", append([]string{"-4", "-json"}, args...)...).Output()
	if err != nil {
		return fmt.Errorf("asking ip for the host's %s: %w", args[0], err)
	}
	return json.Unmarshal(out, into)
}

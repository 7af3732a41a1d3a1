package e2e

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// losses tells the connections that a node's own kernel lost from those that dayfly lost. When kube-proxy replaces the rule
// of a service, nftables may find nothing for a connection that is being opened at that very instant (docs/operations.md):
// it leaves the node's translation as it came, and kube-proxy's last rule refuses it. The nodes count such connections, and
// the service is watched meanwhile: what is counted is excused only if the service had endpoints all the time.
type losses struct {
	t       *testing.T
	table   string
	service *corev1.Service
	stop    func()
	ended   chan struct{}

	mu   sync.Mutex
	bare string // when a port of the service had no endpoints, or the watch was lost
}

// countLosses counts until the test ends.
func countLosses(t *testing.T, service *corev1.Service, callers []string) *losses {
	t.Helper()
	w, err := cluster.Watch(t.Context(), &discoveryv1.EndpointSliceList{}, client.InNamespace(service.Namespace),
		client.MatchingLabels{discoveryv1.LabelServiceName: service.Name})
	must(t, err)
	l := &losses{t: t, table: "losses-" + service.Namespace, service: service, stop: w.Stop, ended: make(chan struct{})}
	go l.watch(w)
	var rules strings.Builder
	for _, p := range service.Spec.Ports {
		fmt.Fprintf(&rules, "ip saddr { %s } ip daddr %s tcp dport %d tcp flags & (syn|ack) == syn counter; ",
			strings.Join(callers, ", "), service.Spec.ClusterIP, p.Port)
	}
	t.Cleanup(func() {
		l.stop()
		<-l.ended
		for _, node := range nodes {
			_ = testcluster("exec", node, "--", "nft", "delete table ip "+l.table).Run()
		}
	})
	for _, node := range nodes { // just behind the translation of addresses
		inMachine(t, node, "nft", fmt.Sprintf("table ip %s { chain c { type filter hook prerouting priority -95; %s}; }", l.table, &rules))
	}
	return l
}

// watch follows the service's slices as every kube-proxy does: one by one, in their order.
func (l *losses) watch(w watch.Interface) {
	defer close(l.ended)
	have := map[string]*discoveryv1.EndpointSlice{}
	served := map[string]bool{}
	for e := range w.ResultChan() {
		s, ok := e.Object.(*discoveryv1.EndpointSlice)
		if !ok {
			break
		}
		if have[s.Name] = s; e.Type == watch.Deleted {
			delete(have, s.Name)
		}
		now := portsServed(have)
		for _, p := range l.service.Spec.Ports {
			if served[p.Name] && !now[p.Name] {
				l.lay(fmt.Sprintf("port %s had no endpoint at version %s", p.Name, s.ResourceVersion))
			}
		}
		served = now
	}
	l.lay("the service could not be watched to the end")
}

func (l *losses) lay(bare string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bare == "" {
		l.bare = bare
	}
}

func portsServed(slices map[string]*discoveryv1.EndpointSlice) map[string]bool {
	out := map[string]bool{}
	for _, s := range slices {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready {
				continue
			}
			for _, p := range s.Ports {
				out[*p.Name] = true
			}
		}
	}
	return out
}

var counted = regexp.MustCompile(`dport (\d+) .*counter packets (\d+)`)

// excuse takes out the samples of connections that a node's kernel lost, and says so.
func (l *losses) excuse(samples []sample) []sample {
	l.t.Helper()
	lost := map[int]int{} // by port
	for _, node := range nodes {
		out, err := testcluster("exec", node, "--", "nft", "list table ip "+l.table).CombinedOutput()
		if err != nil {
			return samples // the node is gone
		}
		for _, m := range counted.FindAllStringSubmatch(string(out), -1) {
			port, _ := strconv.Atoi(m[1])
			n, _ := strconv.Atoi(m[2])
			lost[port] += n
		}
	}
	l.mu.Lock()
	bare := l.bare
	l.mu.Unlock()
	var out []sample
	for _, s := range samples {
		port := 80
		if s.echo() {
			port = 9090
		}
		if s.Sent != 0 || !strings.HasSuffix(s.Error, "refused") || lost[port] == 0 {
			out = append(out, s)
			continue
		}
		if bare != "" {
			l.t.Logf("%s: a node did not translate it; %s", s, bare)
			out = append(out, s)
			continue
		}
		lost[port]--
		l.t.Logf("%s: lost by its node's kernel, while kube-proxy replaced a rule", s)
	}
	return out
}

// callersIn are the addresses of the pods that startTraffic's clients run in.
func callersIn(t *testing.T, ns string) []string {
	t.Helper()
	ips := podIPs(t, ns, "app=client")
	for _, ip := range ips {
		if !netip.MustParseAddr(ip).Is4() {
			t.Fatalf("a client at %s", ip)
		}
	}
	return ips
}

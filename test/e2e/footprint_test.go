//go:build bench

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/session"
	"dayfly.dev/dayfly/internal/tunnel"
)

// What controller and routers take, by their own metrics: idle, with one session, and with 200 and 500 whose laptops are connected
// and whose intercepts are armed, 50 services in all; and what the command takes that holds a session. One owner may have 50
// sessions in a namespace, so they are spread.
func TestFootprint(t *testing.T) {
	const services = 50
	many := 500
	if n, err := strconv.Atoi(os.Getenv("FOOTPRINT_SESSIONS")); err == nil {
		many = n
	}
	watch := newNamespace(t)
	deployClient(t, watch)
	allowScraping(t, watch)
	kubectl(t, "-n", system, "rollout", "restart", "deploy")
	for _, d := range []string{"controller", "router-0", "router-1"} {
		kubectl(t, "-n", system, "rollout", "status", "deploy/"+d, "--timeout=60s")
	}
	time.Sleep(30 * time.Second) // the predecessors have drained, the heap has settled
	fmt.Println("| | controller | router | command |\n|---|---|---|---|")
	footprint(t, watch, "idle", 0)
	ns := make([]string, max(5, (many+49)/50))
	for i := range ns {
		ns[i] = newNamespace(t)
		for k := range services / len(ns) {
			addService(t, ns[i], fmt.Sprintf("svc%d", k), "web")
		}
	}
	deployWeb(t, ns[0], 1)
	l := newLaptop(t, ns[0])
	cmd := l.command("-q", "intercept", "service", "svc0", "-r", "80", "-l", strconv.Itoa(l.answer("laptop")), "--session", "one")
	must(t, cmd.Start())
	awaitArmed(t, ns, 1)
	footprint(t, watch, "1 session", cmd.Process.Pid)
	must(t, cmd.Process.Signal(os.Interrupt))
	must(t, cmd.Wait())

	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	open := func(i int) {
		var c v1alpha1.Intercept
		c.Service, c.Port, c.LaptopPort = fmt.Sprintf("svc%d", i/len(ns)%(services/len(ns))), 80, 1
		wg.Go(func() { serveAs(ctx, t, ns[i%len(ns)], fmt.Sprintf("s%d", i), c) })
	}
	for i := range many {
		if i == 200 {
			awaitArmed(t, ns, i)
			footprint(t, watch, "200 sessions", 0)
		}
		open(i)
		time.Sleep(50 * time.Millisecond)
	}
	awaitArmed(t, ns, many)
	footprint(t, watch, fmt.Sprintf("%d sessions", many), 0)
}

func awaitArmed(t *testing.T, namespaces []string, want int) {
	t.Helper()
	await(t, 3*time.Minute, fmt.Sprintf("%d armed", want), func() error {
		time.Sleep(time.Second)
		armed := 0
		for _, ns := range namespaces {
			for _, s := range sessions(t, ns) {
				if len(s.Status.Intercepts) == 1 && s.Status.Intercepts[0].State == v1alpha1.StateArmed {
					armed++
				}
			}
		}
		if armed < want {
			return fmt.Errorf("%d", armed)
		}
		return nil
	})
}

// serveAs is a laptop without a process of its own: it holds a session's tunnels.
func serveAs(ctx context.Context, t *testing.T, ns, name string, ic v1alpha1.Intercept) {
	s, key := newSession(t, ns, name, user{api: cluster}, ic)
	if err := cluster.Create(ctx, s); err != nil {
		t.Error(err)
		return
	}
	tun := tunnelOf(t, s)
	cfg, err := key.ClientTLS([]byte(tun.CA))
	if err != nil {
		t.Error(err)
		return
	}
	tunnel.NewClient(tunnel.ClientOptions{
		Version: "bench", Session: session.ID(s), TLS: cfg, Routers: tun.Routers, Serves: []string{session.Route(ic)},
		Dial: func(ctx context.Context, router string) (net.Conn, error) {
			return cluster.DialRouter(ctx, system, router)
		},
		Answer: func(context.Context, string) (net.Conn, error) { return nil, errors.New("nothing here") },
	}).Run(ctx)
}

// footprint prints resident memory and CPU of the busiest pod of each role over 15 s, and the resident memory of a command.
func footprint(t *testing.T, watch, when string, command int) {
	t.Helper()
	time.Sleep(10 * time.Second)
	roles := []string{"controller", "router"}
	before := map[string]map[string]series{}
	for _, r := range roles {
		before[r] = scrapeEach(t, watch, r)
	}
	start := time.Now()
	time.Sleep(15 * time.Second)
	line := "| " + when
	for _, r := range roles {
		var rss, cpu float64
		for pod, s := range scrapeEach(t, watch, r) {
			rss = max(rss, s["process_resident_memory_bytes"])
			cpu = max(cpu, (s["process_cpu_seconds_total"]-before[r][pod]["process_cpu_seconds_total"])/time.Since(start).Seconds())
		}
		line += fmt.Sprintf(" | %.0f MiB, %.0f m", rss/(1<<20), cpu*1000)
	}
	line += " | "
	if command > 0 {
		line += fmt.Sprintf("%.0f MiB", float64(resident(t, command))/(1<<20))
	}
	fmt.Println(line + " |")
}

// resident returns how many bytes of a process of this machine are in memory.
func resident(t *testing.T, pid int) int64 {
	t.Helper()
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	must(t, err)
	var size, pages int64
	_, err = fmt.Sscan(string(statm), &size, &pages)
	must(t, err)
	return pages * int64(os.Getpagesize())
}

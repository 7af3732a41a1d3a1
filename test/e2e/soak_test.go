package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const soakClients, soakServices = 20, 3

// Twenty laptops open intercepts of several services at random, change their rules, close them, are killed, sleep and wake,
// under load. No bystander's request fails, no laptop gets another's, in the end everything is as it was, and neither
// memory nor anything that is counted has grown. SOAK=30m makes it that long.
func TestSoak(t *testing.T) {
	shakes(t) // its figures mean nothing with other tests beside it
	length, err := time.ParseDuration(os.Getenv("SOAK"))
	if err != nil {
		length = 45 * time.Second
	}
	s := &soak{until: time.Now().Add(length), counts: map[string]*atomic.Int64{}}
	for _, what := range []string{"opened", "rules changed", "closed", "killed", "slept and woke", "refused"} {
		s.counts[what] = &atomic.Int64{}
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("%v, seed %d", length, seed)
	var before []map[string]any
	var clients []*traffic
	for i := range soakServices {
		ns := newNamespace(t)
		deployWeb(t, ns, 2)
		deployClient(t, ns)
		s.namespaces, before = append(s.namespaces, ns), append(before, snapshot(t, ns))
		clients = append(clients, startTraffic(t, ns, 3, 1, "-timeout", "20s", "-every", "200ms", "-key", soakName(i)))
	}
	var laptops []*laptop
	var ports []int
	for i := range soakClients {
		laptops = append(laptops, newLaptop(t, s.namespaces[i%soakServices]))
		ports = append(ports, laptops[i].answer("laptop-"+soakName(i)))
	}
	at := weigh(t)
	var wg sync.WaitGroup
	for i := range soakClients {
		wg.Go(func() { s.client(t, laptops[i], soakName(i), ports[i], rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	wg.Wait()
	for _, l := range laptops {
		l.dayfly("session", "list") // ends what killed ones left
	}
	for i, ns := range s.namespaces {
		await(t, promise(20*time.Second), "no session left", func() error {
			if left := sessions(t, ns); len(left) > 0 {
				return fmt.Errorf("%d: %s", len(left), left[0].Status.Summary)
			}
			return nil
		})
		checkRestored(t, ns, before[i])
	}
	time.Sleep(3 * time.Second) // of requests
	for i, c := range clients {
		judgeSoak(t, c.stop(), soakName(i))
	}
	for what, n := range s.counts {
		t.Logf("%s: %d", what, n.Load())
	}
	judgeGrowth(t, at, weigh(t))
}

type soak struct {
	until      time.Time
	namespaces []string
	counts     map[string]*atomic.Int64
}

func soakName(i int) string { return fmt.Sprintf("s%d", i) }

// client is one laptop until the time is over.
func (s *soak) client(t *testing.T, l *laptop, name string, port int, draw *rand.Rand) {
	for rules := 0; time.Now().Before(s.until); {
		time.Sleep(time.Duration(draw.IntN(3000)) * time.Millisecond)
		p := startSoaking(t, l, name, port)
		if !p.inForce() {
			s.counts["refused"].Add(1)
			t.Errorf("%s did not come into force:\n%s", name, p.said())
			p.end(os.Kill)
			continue
		}
		s.counts["opened"].Add(1)
		for turns := 1 + draw.IntN(3); turns > 0 && time.Now().Before(s.until); turns-- {
			time.Sleep(time.Duration(500+draw.IntN(3000)) * time.Millisecond)
			switch draw.IntN(2) {
			case 0:
				must(t, p.cmd.Process.Signal(syscall.SIGSTOP))
				time.Sleep(time.Duration(draw.IntN(12000)) * time.Millisecond)
				must(t, p.cmd.Process.Signal(syscall.SIGCONT))
				s.counts["slept and woke"].Add(1)
			case 1:
				rules++ // another rule each time: with the same one the process that answers goes on
				next := startSoaking(t, l, name, port, "-x", fmt.Sprintf("x-soak: %s-%d", name, rules))
				if !next.inForce() {
					t.Errorf("%s: the rule was not changed:\n%s", name, next.said())
				}
				p.await(20 * time.Second)
				p = next
				s.counts["rules changed"].Add(1)
			}
		}
		if draw.IntN(3) == 0 {
			p.end(os.Kill)
			s.counts["killed"].Add(1)
			continue
		}
		if err := p.end(os.Interrupt); err != nil {
			t.Errorf("%s: closing: %v\n%s", name, err, p.said())
		}
		s.counts["closed"].Add(1)
	}
}

// soaking is a dayfly process.
type soaking struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}
	err  error

	mu  sync.Mutex
	out bytes.Buffer
}

func (p *soaking) Write(data []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(data)
}

func (p *soaking) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

func startSoaking(t *testing.T, l *laptop, name string, port int, more ...string) *soaking {
	p := &soaking{t: t, done: make(chan struct{})}
	args := append([]string{"intercept", "service", "web", "-r", "80", "-l", fmt.Sprint(port), "--session", name, "--drain", "1s", "--timeout", "60s"}, more...)
	p.cmd = l.command(args...)
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		t.Error(err)
		close(p.done)
		return p
	}
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	return p
}

// inForce waits until the process has printed how to reach it.
func (p *soaking) inForce() bool {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if strings.Contains(p.said(), "curl ") {
			return true
		}
		select {
		case <-p.done:
			return false
		default:
		}
	}
	return false
}

func (p *soaking) await(most time.Duration) {
	select {
	case <-p.done:
	case <-time.After(most):
		p.t.Errorf("process %d did not end:\n%s", p.cmd.Process.Pid, p.said())
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

func (p *soaking) end(by os.Signal) error {
	_ = p.cmd.Process.Signal(by)
	p.await(time.Minute)
	return p.err
}

func judgeSoak(t *testing.T, samples []sample, key string) {
	t.Helper()
	broken := offences{}
	fine, laptop, lost, slowest := 0, 0, 0, int64(0)
	for _, s := range samples {
		mine := s.Key && !s.echo()
		switch {
		case s.Error != "" && mine:
			lost++
		case s.Error != "":
			broken.add("a bystander's request failed", s)
		case strings.HasPrefix(s.By, "laptop") && !(mine && s.By == "laptop-"+key):
			broken.add("at a laptop that it is not for", s)
		case s.Ended == "reset":
			broken.add("an idle connection was reset", s)
		default:
			fine++
			if !mine {
				slowest = max(slowest, s.Done-s.Sent)
			}
			if strings.HasPrefix(s.By, "laptop") {
				laptop++
			}
		}
	}
	t.Logf("%s: %d requests succeeded, %d of them at its laptop; a bystander's slowest took %v; %d with the key were lost with a laptop that was killed or slept",
		key, fine, laptop, since(0, slowest), lost)
	broken.report(t)
}

// weight is what one of dayfly's processes takes.
type weight struct{ rss, goroutines, fds float64 }

// weigh asks every controller and router, and counts what is in the cluster.
func weigh(t *testing.T) map[string]weight {
	t.Helper()
	out := map[string]weight{}
	var pods corev1.PodList
	must(t, cluster.List(t.Context(), &pods, client.InNamespace(systemNamespace)))
	for _, p := range pods.Items {
		if !p.DeletionTimestamp.IsZero() || p.Status.Phase != corev1.PodRunning {
			continue
		}
		script := fmt.Sprintf(`exec 3<>/dev/tcp/%s/8081; printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3; cat <&3`, p.Status.PodIP)
		text, err := testcluster("exec", p.Spec.NodeName, "--", "bash", "-c", script).Output()
		must(t, err)
		w := weight{metric(text, "process_resident_memory_bytes"), metric(text, "go_goroutines"), metric(text, "process_open_fds")}
		if w.goroutines == 0 {
			t.Fatalf("%s tells nothing of itself:\n%.500s", p.Name, text)
		}
		out[p.Name] = w
	}
	objects := 0
	for _, kind := range []string{"service", "endpointslice"} {
		objects += strings.Count(kubectl(t, "get", kind, "-A", "-l", v1alpha1.LabelManaged, "-o", "name"), "\n")
	}
	out["objects"] = weight{goroutines: float64(objects)}
	return out
}

func metric(text []byte, name string) float64 {
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			f, _ := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return f
		}
	}
	return 0
}

func judgeGrowth(t *testing.T, before, after map[string]weight) {
	t.Helper()
	for name, b := range before {
		a, ok := after[name]
		if !ok {
			t.Errorf("%s is gone", name)
			continue
		}
		if name == "objects" {
			t.Logf("objects of dayfly's: %.0f before, %.0f after", b.goroutines, a.goroutines)
		} else {
			t.Logf("%s: %.1f MB before, %.1f after; goroutines %.0f, %.0f; files %.0f, %.0f", name, b.rss/1e6, a.rss/1e6, b.goroutines, a.goroutines, b.fds, a.fds)
		}
		if a.goroutines > b.goroutines+25 || a.fds > b.fds+25 || a.rss > b.rss*1.5+25e6 {
			t.Errorf("%s has grown: %+v, then %+v", name, b, a)
		}
	}
}

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// deployDNS runs testapp as Service `dns`, which has port 53 for both protocols, as kube-dns does.
func deployDNS(t *testing.T, ns string, replicas int32) {
	t.Helper()
	deploy(t, ns, "dns", replicas, []string{"serve", "-linger", "3s", "-udp", ":5353", "-echo", ":5353"})
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "dns"}}
	svc.Spec = corev1.ServiceSpec{Selector: map[string]string{"app": "dns"}, Ports: []corev1.ServicePort{
		{Name: "dns-tcp", Port: 53, TargetPort: intstr.FromInt32(5353)},
		{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP, TargetPort: intstr.FromInt32(5353)},
	}}
	must(t, cluster.Create(t.Context(), svc))
	awaitDeployment(t, ns, "dns")
}

// answerUDP starts testapp on the laptop and returns its UDP port.
func (l *laptop) answerUDP(name string) int {
	l.t.Helper()
	port := freePort(l.t) // of TCP; what is free there is mostly free here
	l.answer(name, "-udp", fmt.Sprintf("127.0.0.1:%d", port))
	return port
}

// udpLoss is what a few seconds of a change cost.
type udpLoss struct {
	sent, lost  int
	first, last time.Duration // when the first and the last that was lost was sent, since the change was asked for
}

func lossBetween(samples []sample, from, to time.Time, kind string) udpLoss {
	var l udpLoss
	for _, s := range samples {
		at := time.UnixMicro(s.Sent)
		if !strings.HasPrefix(s.Client, kind) || at.Before(from) || at.After(to) {
			continue
		}
		l.sent++
		if s.Error != "" {
			if l.lost == 0 || at.Sub(from) < l.first {
				l.first = at.Sub(from)
			}
			l.lost++
			l.last = max(l.last, at.Sub(from))
		}
	}
	return l
}

// Datagrams move to the laptop and back while clients send, those of sockets that are kept as well; what is lost is counted.
// The port of the same number for TCP is not touched.
func TestUDPInterceptUnderLoadAndCloseRestores(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployDNS(t, ns, 2)
	deployClient(t, ns)
	before := snapshot(t, ns)
	var svc corev1.Service
	must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "dns"}, &svc))
	addr := svc.Spec.ClusterIP + ":53"
	l := newLaptop(t, ns)
	port := l.answerUDP("laptop")

	load := startClients(t, ns, 8, "loadudp", "-addr", addr, "-steady", "4", "-fresh", "4", "-every", "20ms")
	time.Sleep(time.Second) // of the original alone
	asked := time.Now()
	l.dayfly("intercept", "service", "dns", "-r", "53/udp", "-l", fmt.Sprint(port), "--all", "--session", "ada", "--drain", "5s", "--detach")
	armed := time.Now()
	if out := l.dayfly("session", "list"); !strings.Contains(out, "dns:53/udp") {
		t.Errorf("no dns:53/udp in:\n%s", out)
	}
	for _, size := range []string{"0", "1400", "8000", "60000"} { // fragmented, and reassembled
		await(t, promise(3*time.Second), "the laptop answers "+size+" bytes", func() error { // a datagram may be lost
			if by, err := tryInPod(ns, "askudp", addr, size); err != nil || strings.TrimSpace(by) != "laptop" {
				return fmt.Errorf("answered by %q, %v", by, err)
			}
			return nil
		})
	}
	must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "dns"}, &svc))
	if svc.Spec.Ports[0].TargetPort != intstr.FromInt32(5353) || svc.Spec.Ports[1].TargetPort == intstr.FromInt32(5353) {
		t.Errorf("the ports are %+v", svc.Spec.Ports)
	}
	closing := time.Now()
	out := l.dayfly("session", "close", "ada")
	closed := time.Now()
	if !strings.Contains(out, "service/dns: as it was") {
		t.Errorf("no proof in:\n%s", out)
	}
	time.Sleep(2 * time.Second) // of the original alone
	samples := load.stop()
	end := time.Now()

	for _, kind := range []string{"steady", "fresh"} {
		up, down := lossBetween(samples, asked, armed, kind), lossBetween(samples, closing, closed, kind)
		t.Logf("%s sockets: armed after %s, %d of %d lost, sent %s to %s after it was asked for; closed after %s, %d of %d lost, %s to %s", kind,
			armed.Sub(asked).Round(time.Millisecond), up.lost, up.sent, up.first, up.last,
			closed.Sub(closing).Round(time.Millisecond), down.lost, down.sent, down.first, down.last)
		quiet := lossBetween(samples, armed, closing, kind)
		after := lossBetween(samples, closed, end.Add(-2*time.Second), kind)
		if quiet.lost > 0 || after.lost > 0 {
			t.Errorf("%s sockets: %d of %d lost while armed, %d of %d after the close", kind, quiet.lost, quiet.sent, after.lost, after.sent)
		}
		// A moment at most: what is on its way when conntrack forgets a socket's former endpoint.
		if share := float64(up.lost+down.lost) / float64(up.sent+down.sent); share > 0.05 {
			t.Errorf("%s sockets: %.1f %% lost while moving", kind, 100*share)
		}
	}
	wrong := offences{}
	for _, s := range samples {
		at := time.UnixMicro(s.Sent)
		switch {
		case s.Error != "":
		case at.After(armed.Add(time.Second)) && at.Before(closing) && s.By != "laptop":
			wrong.add("armed for a second, and the original answers", s)
		case at.After(closed.Add(time.Second)) && s.By == "laptop":
			wrong.add("closed for a second, and the laptop answers", s)
		}
	}
	wrong.report(t)
	checkRestored(t, ns, before)
}

// Fail open: with the laptop's process gone, and then with the laptop gone, the original answers datagrams.
func TestUDPFallsBackToTheOriginal(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployDNS(t, ns, 1)
	deployClient(t, ns)
	before := snapshot(t, ns)
	l := newLaptop(t, ns)
	port := freePort(t) // nothing listens there
	cmd := l.command("intercept", "service", "dns", "-r", "dns", "-l", fmt.Sprint(port), "--all", "--session", "ada", "--drain", "2s")
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	await(t, time.Minute, "armed", func() error {
		for _, s := range sessions(t, ns) {
			if len(s.Status.Intercepts) == 1 && s.Status.Intercepts[0].State == "Armed" {
				return nil
			}
		}
		return fmt.Errorf("not armed")
	})
	by := func(want string) func() error {
		return func() error {
			out, err := tryInPod(ns, "askudp", "dns:53")
			if got := strings.TrimSpace(out); err != nil || !strings.HasPrefix(got, want) {
				return fmt.Errorf("answered by %q, %v", got, err)
			}
			return nil
		}
	}
	await(t, promise(2*time.Second), "nothing listens: the original answers", by("dns-"))
	l.answer("laptop", "-udp", fmt.Sprintf("127.0.0.1:%d", port))
	await(t, promise(2*time.Second), "something listens: the laptop answers", by("laptop"))
	must(t, cmd.Process.Kill())
	_ = cmd.Wait()
	await(t, promise(15*time.Second), "the laptop is lost: the original answers", by("dns-"))
	l.dayfly("session", "list")
	await(t, promise(6*time.Second), "no session left", func() error {
		if left := sessions(t, ns); len(left) > 0 {
			return fmt.Errorf("%d sessions", len(left))
		}
		return nil
	})
	checkRestored(t, ns, before)
}

// One session may have both ports of one number; each is ended without the other.
func TestBothProtocolsOfOnePortNumber(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployDNS(t, ns, 1)
	deployClient(t, ns)
	before := snapshot(t, ns)
	l := newLaptop(t, ns)
	udp, tcp := l.answerUDP("laptop"), l.answer("laptop")
	if _, errOut, code := l.try("intercept", "service", "dns", "-r", "53/udp", "-l", fmt.Sprint(udp)); code != 2 || !strings.Contains(errOut, "fix: take every datagram: --all") {
		t.Errorf("datagrams by rule: exit code %d\n%s", code, errOut)
	}
	if _, errOut, code := l.try("intercept", "service", "dns", "-r", "53/sctp", "-l", fmt.Sprint(udp), "--all"); code != 6 {
		t.Errorf("no such port: exit code %d\n%s", code, errOut)
	}
	for _, args := range [][]string{{"-r", "53/udp", "-l", fmt.Sprint(udp), "--all"}, {"-r", "53", "-l", fmt.Sprint(tcp)}} {
		l.dayfly(append([]string{"intercept", "service", "dns", "--session", "ada", "--drain", "2s", "--detach"}, args...)...)
	}
	out := l.dayfly("session", "show", "ada")
	for _, want := range []string{fmt.Sprintf("dns:53/udp to laptop port %d", udp), fmt.Sprintf("dns:53 to laptop port %d", tcp)} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	ask := func(want string) {
		t.Helper()
		if got := strings.TrimSpace(inPod(t, ns, "askudp", "dns:53")); !strings.HasPrefix(got, want) {
			t.Errorf("a datagram was answered by %s, want %s", got, want)
		}
	}
	ask("laptop")
	l.dayfly("intercept", "service", "dns", "-r", "53", "--close", "--session", "ada")
	ask("laptop")
	if left := sessions(t, ns); len(left) != 1 || len(left[0].Spec.Intercepts) != 1 || left[0].Spec.Intercepts[0].Protocol != "UDP" {
		t.Errorf("left are %+v", left)
	}
	l.dayfly("intercept", "service", "dns", "-r", "53", "--close", "--session", "ada") // now it can only mean UDP
	ask("dns-")
	checkRestored(t, ns, before)
}

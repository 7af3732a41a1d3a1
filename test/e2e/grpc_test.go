package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// deployGRPC runs grpcapp as Deployment and Service `calls`, port 80, probed by the kubelet with gRPC's health check.
func deployGRPC(t *testing.T, ns string, replicas int32) string {
	t.Helper()
	d := deployment(ns, "calls", replicas, []string{"serve"})
	c := &d.Spec.Template.Spec.Containers[0]
	c.Command = []string{"/grpcapp"}
	c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 8080}}, PeriodSeconds: 1}
	must(t, cluster.Create(t.Context(), d))
	svc := &corev1.Service{}
	svc.Namespace, svc.Name = ns, "calls"
	svc.Spec = corev1.ServiceSpec{Selector: map[string]string{"app": "calls"}, Ports: []corev1.ServicePort{{Name: "grpc", Port: 80, TargetPort: intstr.FromString("http")}}}
	must(t, cluster.Create(t.Context(), svc))
	awaitDeployment(t, ns, "calls")
	must(t, cluster.Get(t.Context(), client.ObjectKeyFromObject(svc), svc))
	return net.JoinHostPort(svc.Spec.ClusterIP, "80")
}

// answerGRPC starts grpcapp on the laptop and returns its port.
func (l *laptop) answerGRPC(name string) int {
	l.t.Helper()
	port := freePort(l.t)
	cmd := exec.Command(filepath.Join(filepath.Dir(binTestapp), "grpcapp"), "serve", "-name", name, "-addr", fmt.Sprintf("127.0.0.1:%d", port))
	must(l.t, cmd.Start())
	l.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	await(l.t, 10*time.Second, "grpcapp on the laptop", func() error {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
		}
		return err
	})
	return port
}

// gRPC calls under load, short ones and streams: no call fails when an intercept starts or ends, and on connections opened while
// it is in force, calls with the key are the laptop's and all others the original's.
func TestGRPCInterceptUnderLoadFailsNoCall(t *testing.T) {
	ns := newNamespace(t)
	addr := deployGRPC(t, ns, 2)
	deployClient(t, ns)
	before := snapshot(t, ns)
	l := newLaptop(t, ns)
	port := l.answerGRPC("laptop")
	calls := startCalls(t, ns, addr)
	var all []cycle
	for range 5 {
		c := cycle{asked: now()}
		l.dayfly("intercept", "service", "calls", "-r", "grpc", "-l", fmt.Sprint(port), "--session", "ada", "--drain", "8s", "--detach")
		c.armed = armedAt(t, l, "ada")
		time.Sleep(5 * time.Second) // of calls
		c.closing = now()
		l.dayfly("session", "close", "ada")
		c.closed = now()
		all = append(all, c)
		time.Sleep(time.Second)
	}
	judgeCalls(t, calls.stop(), all)
	checkRestored(t, ns, before)
}

// startCalls runs grpcapp's clients in the client pod, and returns when all have been answered.
func startCalls(t *testing.T, ns, addr string) *traffic {
	t.Helper()
	const clients = 16
	return runClients(t, testcluster("kubectl", "-n", ns, "exec", "-i", "deploy/client", "--",
		"/grpcapp", "load", "-addr", addr, "-key", "ada", "-clients", fmt.Sprint(clients)), clients)
}

// judgeCalls fails the test for every call that failed, or was answered by whom it should not.
func judgeCalls(t *testing.T, samples []sample, cycles []cycle) {
	t.Helper()
	wrong := offences{}
	counted := map[string]int{}
	for _, s := range samples {
		kind, _, _ := strings.Cut(s.Client, "-")
		if s.Error != "" {
			wrong.add("a call failed", s)
			continue
		}
		if !s.Key && s.laptop() {
			wrong.add("a call without the key was the laptop's", s)
		}
		inForce := false
		for _, c := range cycles {
			inForce = inForce || s.Opened >= c.armed && s.Done < c.closing
			if s.laptop() && s.Sent > c.closed && s.Sent < c.closed+int64(time.Second/time.Microsecond) {
				wrong.add("a call was the laptop's after the close", s)
			}
		}
		if inForce && s.Key && s.Conn == 1 && !s.laptop() {
			wrong.add("a call with the key was not the laptop's", s)
		}
		if s.laptop() {
			kind += " at the laptop"
		}
		counted[kind]++
	}
	wrong.report(t)
	b, _ := json.Marshal(counted)
	t.Logf("calls: %s", b)
	for _, kind := range []string{"unary", "unary at the laptop", "stream", "stream at the laptop"} {
		if counted[kind] < 20 {
			t.Errorf("only %d calls: %s", counted[kind], kind)
		}
	}
}

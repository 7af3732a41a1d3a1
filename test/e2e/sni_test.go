package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// TLS connections that ask for one server name reach the laptop as they are; all others, and those without a name, reach the
// original as if dayfly were not there.
func TestTLSIsInterceptedByServerName(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deploy(t, ns, "web", 1, []string{"serve", "-linger", "3s", "-tls", ":8443"})
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "web"}}
	svc.Spec = corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{
		{Name: "https", Port: 443, TargetPort: intstr.FromInt32(8443)},
	}}
	must(t, cluster.Create(t.Context(), svc))
	deployClient(t, ns)
	awaitDeployment(t, ns, "web")
	before := snapshot(t, ns)
	l := newLaptop(t, ns)
	port := freePort(t)
	l.answer("laptop", "-tls", fmt.Sprintf("127.0.0.1:%d", port))
	out := l.dayfly("intercept", "service", "web", "-r", "443", "-l", fmt.Sprint(port), "-x", "sni: pr-7.example.test", "--session", "ada",
		"--drain", "2s", "--detach")
	if !strings.Contains(out, "curl --connect-to pr-7.example.test:443:web."+ns+":443 https://pr-7.example.test:443/") {
		t.Errorf("no curl line that reaches the laptop in:\n%s", out)
	}
	if out := l.dayfly("session", "list"); !strings.Contains(out, "sni: pr-7.example.test") {
		t.Errorf("no rule in:\n%s", out)
	}
	by := func(url string) string {
		var r reply
		out := inPod(t, ns, "get", "-connect", "web:443", url)
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("%s: %v\n%s", url, err, out)
		}
		return r.ServedBy
	}
	for range 5 { // both routers
		if got := by("https://pr-7.example.test/"); got != "laptop" {
			t.Errorf("the name of the rule: served by %s", got)
		}
	}
	for _, url := range []string{"https://pr-8.example.test/", "https://web/", "https://10.0.0.1/"} { // an address is no server name
		if got := by(url); !strings.HasPrefix(got, "web-") {
			t.Errorf("%s: served by %s", url, got)
		}
	}
	out = l.dayfly("session", "close", "ada")
	if !strings.Contains(out, "service/web: as it was") {
		t.Errorf("no proof in:\n%s", out)
	}
	if got := by("https://pr-7.example.test/"); !strings.HasPrefix(got, "web-") {
		t.Errorf("after the close: served by %s", got)
	}
	checkRestored(t, ns, before)
}

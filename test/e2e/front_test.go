package e2e

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"dayfly.dev/dayfly/internal/forward"
	"dayfly.dev/dayfly/internal/share"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// ingressClass is that of the Ingress which the test cluster's dayfly is installed with.
const ingressClass = "front"

// Where dayfly was installed with the class of an Ingress, there is one for all names of the domain, with their certificate; what it
// leads to lets nobody in without a link either, believes the proxy about whom it leads there, and wakes an environment.
func TestVisitorsComeByAProxyOfTheClusters(t *testing.T) {
	t.Parallel()
	ingress := &networkingv1.Ingress{}
	must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: systemNamespace, Name: "gateway"}, ingress))
	rule := ingress.Spec.Rules[0]
	to := rule.HTTP.Paths[0].Backend.Service
	if *ingress.Spec.IngressClassName != ingressClass || rule.Host != "*."+domain || ingress.Spec.TLS[0].Hosts[0] != rule.Host || ingress.Spec.TLS[0].SecretName != "gateway-tls" {
		t.Errorf("the Ingress is %+v", ingress.Spec)
	}

	home, l := newHome(t)
	l.dayfly("env", "create", "pr-1", "-f", webFolder(t, ""))
	token, _ := shared(t, l, "pr-1")
	f, err := forward.Open(t.Context(), cluster.Config, 0, systemNamespace, to.Name, to.Port.Name)
	must(t, err)
	ask := func(headers ...string) (int, string) { // as a proxy does
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+f.Address+"/a", nil)
		must(t, err)
		r.Host = strings.TrimPrefix(addressOf(t, home, "pr-1", "web"), "https://")
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		code, body, err := answer(http.DefaultClient, r)
		must(t, err)
		return code, body
	}
	if code, body := ask(); code != http.StatusUnauthorized {
		t.Errorf("without a link: %d\n%s", code, body)
	}
	for _, asleep := range []bool{false, true} {
		if asleep {
			l.dayfly("env", "sleep", "pr-1")
		}
		code, body := ask(share.Header, token, "X-Forwarded-For", "203.0.113.7", "X-Forwarded-Proto", "https")
		var seen struct{ Header http.Header }
		if err := json.Unmarshal([]byte(body), &seen); err != nil {
			t.Fatalf("asleep %t: %d, %v:\n%s", asleep, code, err, body)
		}
		if code != http.StatusOK || !strings.HasPrefix(seen.Header.Get("X-Forwarded-For"), "203.0.113.7, ") || seen.Header.Get("X-Forwarded-Proto") != "https" || strings.Contains(body, token) {
			t.Errorf("asleep %t: %d\n%s", asleep, code, body)
		}
	}
	l.dayfly("env", "delete", "pr-1")
}

package e2e

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// exported is OTLP's JSON, as far as the test looks at it.
type exported struct {
	ResourceSpans []struct {
		ScopeSpans []struct {
			Spans []struct {
				TraceID, SpanID, ParentSpanID, Name string
				Attributes                          []struct {
					Key   string
					Value struct{ StringValue string }
				}
			}
		}
	}
}

// With a collector named at installation, a request that matched a rule is in the trace that its caller began, its headers
// reach the laptop as the caller wrote them, and the controller's steps are spans.
func TestTracesReachTheCollector(t *testing.T) {
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	deployClient(t, ns)
	deploy(t, ns, "collector", 1, []string{"collect"})
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "collector"}}
	svc.Spec = corev1.ServiceSpec{Selector: map[string]string{"app": "collector"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromString("http")}}}
	must(t, cluster.Create(t.Context(), svc))
	awaitDeployment(t, ns, "collector")
	t.Cleanup(func() { // as it was
		if out, err := exec.Command(binDayfly, "install", "--domain", domain, "--ingress-class", ingressClass).CombinedOutput(); err != nil {
			t.Errorf("installing again: %v\n%s", err, out)
		}
	})
	l := newLaptop(t, ns)
	l.dayfly("install", "--domain", domain, "--ingress-class", ingressClass, "--otlp-endpoint", "http://collector."+ns+":80")
	l.intercept("ada", "web", l.answer("laptop"))
	const traceID, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	header := "00-" + traceID + "-" + parent + "-01"
	r := get(t, ns, "http://web/", "x-dayfly-session: ada", "traceparent: "+header)
	if got := r.Header["Traceparent"]; r.ServedBy != "laptop" || len(got) != 1 || got[0] != header {
		t.Errorf("%s got the traceparent %v", r.ServedBy, got)
	}
	get(t, ns, "http://web/", "traceparent: 00-11111111111111111111111111111111-"+parent+"-01") // does not match
	var names map[string]string
	await(t, promise(10*time.Second), "the spans", func() error { // they are sent every 5 s
		out := inPod(t, ns, "get", "http://collector/")
		names = map[string]string{}
		for line := range strings.Lines(out) {
			var e exported
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				return fmt.Errorf("%w: %.300s", err, line)
			}
			for _, rs := range e.ResourceSpans {
				for _, ss := range rs.ScopeSpans {
					for _, s := range ss.Spans {
						names[s.Name] = s.TraceID + "/" + s.ParentSpanID
						for _, a := range s.Attributes {
							names[s.Name] += " " + a.Value.StringValue
						}
					}
				}
			}
		}
		if got, want := names["intercept "+ns+"/web"], traceID+"/"+parent+" "+ns+"/web  laptop"; !strings.HasPrefix(got, want) {
			return fmt.Errorf("the request's span is %q, want %q, among %v", got, want, names)
		}
		if names["Flip"] == "" || names["reconcile"] == "" {
			return fmt.Errorf("no spans of the controller among %v", names)
		}
		return nil
	})
	if out := inPod(t, ns, "get", "http://collector/"); strings.Contains(out, "11111111111111111111111111111111") || strings.Contains(out, `"ada"`) {
		t.Error("a request that did not match, or a person, is in a span")
	}
	t.Log(names)
}

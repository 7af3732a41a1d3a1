package session

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"
)

func policyOf(t testing.TB, name, spec string) *networkingv1.NetworkPolicy {
	t.Helper()
	p := &networkingv1.NetworkPolicy{}
	p.Name, p.Namespace, p.UID = name, "shop", types.UID(name+"-uid")
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		t.Fatal(err)
	}
	return p
}

func podAt(namespace, name, ip string, pairs ...string) corev1.Pod {
	p := corev1.Pod{}
	p.Name, p.Namespace, p.Labels = name, namespace, map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		p.Labels[pairs[i]] = pairs[i+1]
	}
	for one := range strings.FieldsSeq(ip) {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: one})
	}
	return p
}

// town is a namespace shop with a Service web, its pod and callers, and other namespaces.
func town() Neighbours {
	web := podAt("shop", "web-1", "10.0.0.1", "app", "web", "tier", "back")
	web.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "dns", ContainerPort: 53, Protocol: "UDP"}}}}
	finished := podAt("shop", "job", "10.0.0.9", "app", "client")
	finished.Status.Phase = corev1.PodSucceeded
	onNode := podAt("shop", "agent", "192.0.2.1", "app", "client")
	onNode.Spec.HostNetwork = true
	return Neighbours{
		Pods: []corev1.Pod{
			web, finished, onNode, podAt("shop", "client", "10.0.0.2 fd00::2", "app", "client"), podAt("shop", "other", "10.0.0.3", "app", "other"),
			podAt("shop", "pending", "", "app", "client"), podAt("team", "client", "10.0.1.2", "app", "client"), podAt("evil", "client", "10.0.2.2", "app", "client"),
		},
		Namespaces: map[string]labels.Set{"shop": {"team": "a"}, "team": {"team": "a"}, "evil": {}},
	}
}

func TestCallersAreThoseWhomPoliciesLetIn(t *testing.T) {
	const toWeb = "podSelector: {matchLabels: {app: web}}\npolicyTypes: [Ingress]\n"
	for _, c := range []struct {
		why      string
		policies []string
		want     string // "everybody", or prefixes
	}{
		{"no policy", nil, "everybody"},
		{"one that binds other pods", []string{"podSelector: {matchLabels: {app: other}}\npolicyTypes: [Ingress]"}, "everybody"},
		{"one about egress alone", []string{"podSelector: {}\npolicyTypes: [Egress]"}, "everybody"},
		{"without types it is about ingress", []string{"podSelector: {}"}, ""},
		{"nobody is let in", []string{toWeb}, ""},
		{"a rule without peers lets in everybody", []string{toWeb + "ingress: [{}]"}, "0.0.0.0/0 ::/0"},
		{"pods of the same namespace, neither finished nor on a node's address", []string{toWeb + "ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]"}, "10.0.0.2/32 fd00::2/128"},
		{"pods of namespaces with a label", []string{toWeb + "ingress: [{from: [{namespaceSelector: {matchLabels: {team: a}}, podSelector: {matchLabels: {app: client}}}]}]"}, "10.0.0.2/32 10.0.1.2/32 fd00::2/128"},
		{"every pod of a namespace", []string{toWeb + "ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: DoesNotExist}]}}]}]"}, "10.0.2.2/32"},
		{"an empty namespace selector is every namespace", []string{toWeb + "ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: other}}}]}]"}, "10.0.0.3/32"},
		{"a range with an exception", []string{toWeb + "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/30, except: [10.0.0.2/31]}}]}]"}, "10.0.0.0/31"},
		{"an exception takes nothing from another peer", []string{toWeb + "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/30, except: [10.0.0.2/31]}}, {podSelector: {matchLabels: {app: other}}}]}]"}, "10.0.0.0/31 10.0.0.3/32"},
		{"a range that is none admits nobody", []string{toWeb + "ingress: [{from: [{ipBlock: {cidr: nonsense}}]}]"}, ""},
		{"the port by number", []string{toWeb + "ingress: [{ports: [{port: 8080}], from: [{podSelector: {matchLabels: {app: other}}}]}]"}, "10.0.0.3/32"},
		{"the port by name", []string{toWeb + "ingress: [{ports: [{port: http}], from: [{podSelector: {matchLabels: {app: other}}}]}]"}, "10.0.0.3/32"},
		{"the port in a range", []string{toWeb + "ingress: [{ports: [{port: 8000, endPort: 8080}], from: [{podSelector: {matchLabels: {app: other}}}]}]"}, "10.0.0.3/32"},
		{"beside the range", []string{toWeb + "ingress: [{ports: [{port: 8081, endPort: 9000}], from: [{podSelector: {matchLabels: {app: other}}}]}]"}, ""},
		{"another port, by name and number and protocol", []string{toWeb + "ingress: [{ports: [{port: 9090}, {port: dns}, {port: 8080, protocol: UDP}]}]"}, ""},
		{"every port of TCP", []string{toWeb + "ingress: [{ports: [{protocol: TCP}], from: [{podSelector: {matchLabels: {app: other}}}]}]"}, "10.0.0.3/32"},
		{"two policies add up", []string{toWeb + "ingress: [{from: [{podSelector: {matchLabels: {app: other}}}]}]", "podSelector: {matchLabels: {tier: back}}\ningress: [{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}]"}, "10.0.0.3/32 203.0.113.0/24"},
		{"a default that denies takes nothing away", []string{toWeb + "ingress: [{from: [{podSelector: {matchLabels: {app: other}}}]}]", "podSelector: {}\npolicyTypes: [Ingress, Egress]"}, "10.0.0.3/32"},
	} {
		t.Run(c.why, func(t *testing.T) {
			var policies []*networkingv1.NetworkPolicy
			for i, spec := range c.policies {
				policies = append(policies, policyOf(t, fmt.Sprint("p", i), spec))
			}
			near := town()
			svc := world().Services["web"]
			for _, targetPort := range []intstr.IntOrString{intstr.FromInt32(8080), intstr.FromString("http")} {
				a := Admit(svc, Destination{targetPort, corev1.ProtocolTCP}, policies, near.Pods, near)
				got := "everybody"
				if a.Callers != nil {
					got = strings.Trim(fmt.Sprint(a.Callers.Prefixes), "[]")
				}
				if got != c.want || a.Reason != "" {
					t.Errorf("target port %s: %q, want %q; refused: %s", targetPort.String(), got, c.want, a.Message)
				}
			}
		})
	}
}

func TestWhatCannotBeAskedAtARouterIsRefused(t *testing.T) {
	client := "ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]"
	near := town()
	second := podAt("shop", "web-2", "10.0.0.5", "app", "web")
	for _, c := range []struct {
		why, spec, says string
		change          func(*corev1.Service)
		pods            []corev1.Pod
	}{
		{"pods that are bound and pods that are not", "podSelector: {matchLabels: {tier: back}}\n" + client, "treats the pods of service web differently", nil, append([]corev1.Pod{second}, near.Pods...)},
		{"callers from outside come by a node", "podSelector: {}\n" + client, "has callers outside of the cluster", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }, near.Pods},
		{"likewise", "podSelector: {}\n" + client, "has callers outside of the cluster", func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"203.0.113.7"} }, near.Pods},
		{"two pods bound alike", "podSelector: {}\n" + client, "", nil, append([]corev1.Pod{second}, near.Pods...)},
		{"no pod yet: as one that the service would select", "podSelector: {matchLabels: {app: web}}\n" + client, "", nil, nil},
	} {
		svc := world().Services["web"]
		if c.change != nil {
			c.change(svc)
		}
		a := Admit(svc, Destination{intstr.FromInt32(8080), corev1.ProtocolTCP}, []*networkingv1.NetworkPolicy{policyOf(t, "strict", c.spec)}, c.pods, near)
		if (a.Reason != "") != (c.says != "") || !strings.Contains(a.Message, c.says) || a.Message != "" && !strings.Contains(a.Message, "strict") {
			t.Errorf("%s: %s %q, want %q", c.why, a.Reason, a.Message, c.says)
		}
		if a.Callers == nil {
			t.Errorf("%s: everybody may call", c.why)
		}
	}
	a := Admit(world().Services["web"], Destination{intstr.FromInt32(8080), corev1.ProtocolTCP}, []*networkingv1.NetworkPolicy{policyOf(t, "a", "podSelector: {matchLabels: {tier: back}}\n"+client),
		policyOf(t, "b", "podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}\ningress: [{from: [{podSelector: {}}]}]")}, append([]corev1.Pod{second}, near.Pods...), near)
	if diff := cmp.Diff("[10.0.0.2/32 fd00::2/128]", fmt.Sprint(a.Callers.Prefixes)); diff != "" {
		t.Errorf("until it is released only those may call whom every pod admits:\n%s", diff)
	}
}

func TestPoliciesTellProtocolsApart(t *testing.T) {
	near := town()
	const other = ", from: [{podSelector: {matchLabels: {app: other}}}]}]"
	for rule, want := range map[string]string{
		"ingress: [{ports: [{port: 53, protocol: UDP}]" + other:   "[10.0.0.3/32]",
		"ingress: [{ports: [{port: dns, protocol: UDP}]" + other:  "[10.0.0.3/32]",
		"ingress: [{ports: [{protocol: UDP}]" + other:             "[10.0.0.3/32]",
		"ingress: [{ports: [{port: 53}]" + other:                  "[]", // TCP goes without saying
		"ingress: [{ports: [{port: 53, protocol: TCP}]" + other:   "[]",
		"ingress: [{ports: [{port: http, protocol: UDP}]" + other: "[]",
	} {
		for _, port := range []intstr.IntOrString{intstr.FromInt32(53), intstr.FromString("dns")} {
			a := Admit(world().Services["web"], Destination{port, corev1.ProtocolUDP}, []*networkingv1.NetworkPolicy{policyOf(t, "p", "podSelector: {}\n"+rule)}, near.Pods, near)
			if got := fmt.Sprint(a.Callers.Prefixes); got != want {
				t.Errorf("%s: target port %s: %s, want %s", rule, port.String(), got, want)
			}
		}
	}
}

// The policy that admits routers selects no pod that is not restricted already, and goes with what restricts it.
func TestRoutersAreAdmittedWithoutRestrictingAnybody(t *testing.T) {
	o := connect(world(session("ada", 0, wantWeb)))
	o.System = System{Namespace: "dayfly-system", RouterLabels: map[string]string{"app": "router"}}
	a := record(o)
	origin := originService(a, o.Services["web"])
	o.Services[origin.Name] = origin
	listen(o)
	near := town()
	strict := policyOf(t, "strict", "podSelector: {matchExpressions: [{key: tier, operator: Exists}]}\ningress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]")
	admission := Admit(o.Services["web"], Destination{intstr.FromInt32(8080), corev1.ProtocolTCP}, []*networkingv1.NetworkPolicy{strict}, near.Pods, near)
	o.Admissions = map[portKey]Admission{{"web", Port{Number: 80}}: admission}

	if got := steps(Decide(o)); got != "" {
		t.Fatalf("before the routers know who may call: %s", got)
	}
	for i := range o.Routers {
		o.Routers[i].Listeners[0].Callers = admission.Callers
	}
	o.Routers[1].Listeners = append(o.Routers[1].Listeners[:0:0], o.Routers[1].Listeners...)
	o.Routers[1].Listeners[0].Callers = nil
	if got := steps(Decide(o)); got != "" {
		t.Fatalf("before every router knows who may call: %s", got)
	}
	o.Routers[1].Listeners[0].Callers = admission.Callers
	plan := Decide(o)
	admit, ok := plan.Steps[0].(AdmitRouters)
	if !ok || len(admit.Want) != 1 {
		t.Fatalf("steps: %s", steps(plan))
	}
	p := admit.Want[0]
	for _, pod := range near.Pods {
		if pod.Namespace == "shop" && selects(&p.Spec.PodSelector, pod.Labels) && !selects(&strict.Spec.PodSelector, pod.Labels) {
			t.Errorf("it restricts pod %s, which nobody did", pod.Name)
		}
	}
	if !selects(&p.Spec.PodSelector, near.Pods[0].Labels) || !belongsTo(&p, strict) || len(p.Spec.Egress) > 0 {
		t.Errorf("%+v", p)
	}
	a.Spec.Admits, o.Admits = []string{p.Name}, map[string][]networkingv1.NetworkPolicy{"web": {p}}
	write, ok := Decide(o).Steps[0].(WriteSlices)
	if !ok || write.Reach != 20000 {
		t.Errorf("then routers are offered, once they reach the pods: %s", steps(Decide(o)))
	}

	t.Run("another policy comes: another admits beside it", func(t *testing.T) {
		more := policyOf(t, "more", "podSelector: {}")
		o.Admissions[portKey{"web", Port{Number: 80}}] = Admission{Callers: admission.Callers, Strict: []*networkingv1.NetworkPolicy{strict, more}}
		admit, ok := Decide(o).Steps[0].(AdmitRouters)
		if !ok || len(admit.Want) != 2 || len(admit.Have) != 1 {
			t.Errorf("steps: %s", steps(Decide(o)))
		}
	})
	t.Run("the policy goes: so does ours", func(t *testing.T) {
		o.Admissions = map[portKey]Admission{}
		for i := range o.Routers {
			o.Routers[i].Listeners[0].Callers = nil
		}
		admit, ok := Decide(o).Steps[0].(AdmitRouters)
		if !ok || len(admit.Want) != 0 || len(admit.Have) != 1 {
			t.Errorf("steps: %s", steps(Decide(o)))
		}
	})
	t.Run("ours is deleted before the record goes", func(t *testing.T) {
		o.Sessions, a.Spec.Ports = nil, nil
		if got := steps(Decide(o)); got != "service-web: admit the routers by no policy" {
			t.Errorf("steps: %s", got)
		}
		o.Admits, a.Spec.Admits = nil, nil
		if got := steps(Decide(o)); got != "service-web: finish" {
			t.Errorf("steps: %s", got)
		}
	})
}

// 500 pods cost little, however often they change.
func BenchmarkCallersOfManyPods(b *testing.B) {
	near := town()
	for i := range 500 {
		near.Pods = append(near.Pods, podAt("shop", fmt.Sprint("c", i), netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}).String(), "app", "client", "n", fmt.Sprint(i)))
	}
	strict := []*networkingv1.NetworkPolicy{policyOf(b, "strict", "podSelector: {}\ningress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]")}
	svc := world().Services["web"]
	for b.Loop() {
		if a := Admit(svc, Destination{intstr.FromInt32(8080), corev1.ProtocolTCP}, strict, near.Pods, near); len(a.Callers.Prefixes) < 500/64 {
			b.Fatal(len(a.Callers.Prefixes))
		}
	}
}

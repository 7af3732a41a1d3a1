package servicegraph

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/mention"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Build makes the graph of what was observed. It is pure: the same observation gives the same graph.
func Build(o *Observed) *Graph {
	b := &builder{o: o, nodes: map[string]*Node{}, calls: map[[2]string]*Call{}, byService: map[client.ObjectKey]*Node{}, services: map[client.ObjectKey]*corev1.Service{}}
	b.group()
	b.enter()
	b.configured()
	b.declared()
	b.seen()
	b.alter()
	return b.graph()
}

type builder struct {
	o         *Observed
	nodes     map[string]*Node
	calls     map[[2]string]*Call
	byService map[client.ObjectKey]*Node
	services  map[client.ObjectKey]*corev1.Service
	ofWork    []*Node // of o.Workloads, by index
}

// group makes the nodes: Services and the workloads that they select, together. A Service in front of workloads that have
// narrower Services of their own stays by itself and calls these.
func (b *builder) group() {
	var own []*corev1.Service
	for i := range b.o.Services {
		if s := &b.o.Services[i]; s.Labels[v1alpha1.LabelManaged] == "" {
			own = append(own, s)
			b.services[client.ObjectKeyFromObject(s)] = s
		}
	}
	selected := map[*corev1.Service][]int{}
	narrowest := make([]int, len(b.o.Workloads))
	for _, s := range own {
		selected[s] = b.selectedBy(s)
		for _, w := range selected[s] {
			if n := len(selected[s]); narrowest[w] == 0 || n < narrowest[w] {
				narrowest[w] = n
			}
		}
	}
	umbrella := func(s *corev1.Service) bool {
		return slices.ContainsFunc(selected[s], func(w int) bool { return narrowest[w] < len(selected[s]) })
	}
	sets := newSets(len(own) + len(b.o.Workloads))
	for i, s := range own {
		if !umbrella(s) {
			for _, w := range selected[s] {
				sets.join(i, len(own)+w)
			}
		}
	}
	b.ofWork = make([]*Node, len(b.o.Workloads))
	members := map[int][]int{}
	for i := range len(own) + len(b.o.Workloads) {
		members[sets.of(i)] = append(members[sets.of(i)], i)
	}
	for _, m := range members {
		b.node(own, m)
	}
	for _, s := range own {
		if umbrella(s) {
			b.byService[client.ObjectKeyFromObject(s)].Front = true
			for _, w := range selected[s] {
				b.call(b.byService[client.ObjectKeyFromObject(s)], b.ofWork[w], 0, BySelector, "service "+s.Name)
			}
		}
	}
}

// selectedBy are the workloads whose pods a Service selects.
func (b *builder) selectedBy(s *corev1.Service) (out []int) {
	if len(s.Spec.Selector) == 0 {
		return nil
	}
	sel := labels.SelectorFromSet(s.Spec.Selector)
	for w := range b.o.Workloads {
		if b.o.Workloads[w].Namespace == s.Namespace && sel.Matches(labels.Set(b.o.Workloads[w].Labels)) {
			out = append(out, w)
		}
	}
	return out
}

// node makes one node of Services (numbers below len(own)) and workloads.
func (b *builder) node(own []*corev1.Service, members []int) {
	n := &Node{Services: []Service{}, Workloads: []Workload{}, Entries: []string{}, Alterations: []Alteration{}}
	var services []*corev1.Service
	for _, i := range members {
		if i < len(own) {
			services = append(services, own[i])
			continue
		}
		w := &b.o.Workloads[i-len(own)]
		n.Namespace = w.Namespace
		n.Workloads = append(n.Workloads, w.Workload)
		b.ofWork[i-len(own)] = n
	}
	slices.SortFunc(n.Workloads, func(x, y Workload) int { return cmp.Or(cmp.Compare(x.Name, y.Name), cmp.Compare(x.Kind, y.Kind)) })
	slices.SortFunc(services, func(x, y *corev1.Service) int {
		return cmp.Or(rank(x, n.Workloads)-rank(y, n.Workloads), cmp.Compare(x.Name, y.Name))
	})
	for _, s := range services {
		n.Namespace = s.Namespace
		n.Services = append(n.Services, Service{s.Name, portsOf(s)})
		b.byService[client.ObjectKeyFromObject(s)] = n
	}
	if len(services) > 0 {
		n.Name = services[0].Name
		n.ID = n.Namespace + "/" + n.Name
	} else {
		w := n.Workloads[0]
		n.Name = w.Name
		n.ID = n.Namespace + "/" + strings.ToLower(w.Kind) + "/" + w.Name
	}
	b.nodes[n.ID] = n
}

// rank puts that Service first whose name stands for the node: named like its workload, and not headless.
func rank(s *corev1.Service, ws []Workload) int {
	r := 0
	if !slices.ContainsFunc(ws, func(w Workload) bool { return w.Name == s.Name }) {
		r += 2
	}
	if s.Spec.ClusterIP == corev1.ClusterIPNone {
		r++
	}
	return r
}

func portsOf(s *corev1.Service) []int32 {
	out := []int32{}
	for _, p := range s.Spec.Ports {
		if !slices.Contains(out, p.Port) {
			out = append(out, p.Port)
		}
	}
	slices.Sort(out)
	return out
}

// call adds one reason to draw a call. Nobody calls oneself.
func (b *builder) call(from, to *Node, port int32, by Source, detail string) {
	if from == nil || to == nil || from == to {
		return
	}
	key := [2]string{from.ID, to.ID}
	c := b.calls[key]
	if c == nil {
		c = &Call{From: from.ID, To: to.ID, Ports: []int32{}}
		b.calls[key] = c
	}
	if port != 0 && !slices.Contains(c.Ports, port) {
		c.Ports = append(c.Ports, port)
		slices.Sort(c.Ports)
	}
	k := Known{by, detail}
	if !slices.Contains(c.Known, k) {
		c.Known = append(c.Known, k)
	}
}

// configured draws the calls that workloads are told to make.
func (b *builder) configured() {
	for i := range b.o.Workloads {
		w := &b.o.Workloads[i]
		configMap := func(name string) *corev1.ConfigMap { return b.o.ConfigMaps[keyOf(w.Namespace, name)] }
		for _, f := range mention.OfPod(&w.Pod, configMap) {
			to, port := b.resolve(w.Namespace, f.Mention)
			b.call(b.ofWork[i], to, port, ByConfiguration, f.Where)
		}
	}
}

// enter notes the ways in from outside the cluster.
func (b *builder) enter() {
	add := func(key client.ObjectKey, text string) {
		if n := b.byService[key]; n != nil && !slices.Contains(n.Entries, text) {
			n.Entries = append(n.Entries, text)
		}
	}
	for key, s := range b.services {
		switch s.Spec.Type {
		case corev1.ServiceTypeLoadBalancer:
			add(key, strings.TrimSpace("LoadBalancer "+balancers(s)))
		case corev1.ServiceTypeNodePort:
			add(key, "NodePort "+nodePorts(s))
		}
	}
	for i := range b.o.Ingresses {
		in := &b.o.Ingresses[i]
		if d := in.Spec.DefaultBackend; d != nil && d.Service != nil {
			add(client.ObjectKey{Namespace: in.Namespace, Name: d.Service.Name}, "Ingress "+in.Name)
		}
		for _, r := range in.Spec.Rules {
			if r.HTTP == nil {
				continue
			}
			for _, p := range r.HTTP.Paths {
				if p.Backend.Service != nil {
					add(client.ObjectKey{Namespace: in.Namespace, Name: p.Backend.Service.Name}, "Ingress "+cmp.Or(r.Host, in.Name))
				}
			}
		}
	}
	for _, r := range b.o.Routes {
		for _, key := range r.Backends {
			add(key, r.Kind+" "+cmp.Or(strings.Join(r.Hosts, ","), r.Name))
		}
	}
}

func balancers(s *corev1.Service) string {
	var out []string
	for _, i := range s.Status.LoadBalancer.Ingress {
		out = append(out, cmp.Or(i.Hostname, i.IP))
	}
	return strings.Join(out, ",")
}

func nodePorts(s *corev1.Service) string {
	var out []string
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			out = append(out, strconv.Itoa(int(p.NodePort)))
		}
	}
	return strings.Join(out, ",")
}

var strength = map[Source]int{BySight: 0, ByConfiguration: 1, BySelector: 2, ByPolicy: 3}

// graph sorts everything and tells edge, core and leaf apart.
func (b *builder) graph() *Graph {
	g := &Graph{APIVersion: Version, Kind: Kind, Namespace: b.o.Namespace, Observed: b.o.Now.UTC(), Nodes: []Node{}, Calls: []Call{}, Unseen: b.o.Unseen}
	if g.Unseen == nil {
		g.Unseen = []Unseen{}
	}
	called, calls := map[string]bool{}, map[string]bool{}
	for _, c := range b.calls {
		slices.SortFunc(c.Known, func(x, y Known) int { return cmp.Or(strength[x.By]-strength[y.By], cmp.Compare(x.Detail, y.Detail)) })
		g.Calls = append(g.Calls, *c)
		calls[c.From], called[c.To] = true, true
	}
	slices.SortFunc(g.Calls, func(x, y Call) int { return cmp.Or(cmp.Compare(x.From, y.From), cmp.Compare(x.To, y.To)) })
	for _, id := range slices.Sorted(maps.Keys(b.nodes)) {
		n := b.nodes[id]
		slices.Sort(n.Entries)
		n.Role = roleOf(len(n.Entries) > 0, called[id], calls[id])
		g.Nodes = append(g.Nodes, *n)
	}
	return g
}

func roleOf(entry, called, calls bool) Role {
	switch {
	case entry || calls && !called:
		return Edge
	case called && calls:
		return Core
	case called:
		return Leaf
	}
	return Lone
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// sets are disjoint sets of numbers.
type sets []int

func newSets(n int) sets {
	s := make(sets, n)
	for i := range s {
		s[i] = i
	}
	return s
}

func (s sets) of(i int) int {
	for s[i] != i {
		s[i] = s[s[i]]
		i = s[i]
	}
	return i
}

func (s sets) join(i, j int) { s[s.of(i)] = s.of(j) }

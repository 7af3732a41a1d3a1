// Package servicegraph draws an application as a graph: services with the workloads behind them, the calls between them and
// how each call is known, and every alteration with its owner. [Observe] reads with the caller's own rights, [Build] is pure,
// and the renderers turn a [Graph] into text, Mermaid, Graphviz or SVG.
package servicegraph

import (
	"strconv"
	"strings"
	"time"
)

// Version and Kind name the JSON form of a Graph. Within a version fields are added, not changed or removed.
const (
	Version = "cli.dayfly.dev/v1"
	Kind    = "Graph"
)

// Graph is an application as far as the caller may see it. Everything in it is sorted.
type Graph struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Namespace  string    `json:"namespace,omitempty"` // "": all
	Observed   time.Time `json:"observedAt"`
	Nodes      []Node    `json:"nodes"`
	Calls      []Call    `json:"calls"`
	Unseen     []Unseen  `json:"unseen"` // what is left out, and why
}

// Role says where a node stands in the graph.
type Role string

const (
	// Edge is reached from outside the cluster, or calls others and is called by nobody.
	Edge Role = "edge"
	// Core is called and calls.
	Core Role = "core"
	// Leaf is called and calls nobody.
	Leaf Role = "leaf"
	// Lone has no known call at all, and no way in from outside.
	Lone Role = "lone"
)

// Node is a Service with the workloads behind it, or a workload that no Service selects.
type Node struct {
	ID        string     `json:"id"` // namespace/service, or namespace/kind/name where there is no Service
	Namespace string     `json:"namespace"`
	Name      string     `json:"name"`
	Role      Role       `json:"role"`
	Services  []Service  `json:"services"`
	Workloads []Workload `json:"workloads"`
	Entries   []string   `json:"entries"` // ways in from outside the cluster, for people
	// Elsewhere is true for a Service of a namespace that was not looked at.
	Elsewhere bool `json:"elsewhere,omitempty"`
	// Front is true for a Service that selects the pods of other nodes: it calls them.
	Front       bool         `json:"front,omitempty"`
	Alterations []Alteration `json:"alterations"`
}

// Service is one Kubernetes Service of a node.
type Service struct {
	Name  string  `json:"name"`
	Ports []int32 `json:"ports"`
}

// Workload is what runs behind a Service.
type Workload struct {
	Kind  string `json:"kind"`
	Name  string `json:"name"`
	Ready int32  `json:"ready"` // pods that are ready
	Want  int32  `json:"want"`  // pods that are asked for
}

// Call says that From calls To.
type Call struct {
	From  string  `json:"from"` // ID of a node
	To    string  `json:"to"`
	Ports []int32 `json:"ports"` // of the service called, where they are known
	Known []Known `json:"known"` // how, the strongest first
}

// Source is how a call is known.
type Source string

const (
	// BySight: a router has seen it.
	BySight Source = "seen"
	// ByConfiguration: the caller's configuration names the service.
	ByConfiguration Source = "configuration"
	// ByPolicy: a network policy admits exactly these pods.
	ByPolicy Source = "policy"
	// BySelector: a Service in front of several others selects their pods.
	BySelector Source = "selector"
)

// Known is one reason to draw a call.
type Known struct {
	By     Source `json:"by"`
	Detail string `json:"detail"` // the variable, file or policy; never a value
}

// Alteration is one alteration of a node.
type Alteration struct {
	Session    string     `json:"session,omitempty"` // "": it is gone, what it altered is not restored yet
	Owner      string     `json:"owner"`
	Host       string     `json:"host,omitempty"`
	Service    string     `json:"service"`
	Port       int32      `json:"port"`
	Protocol   string     `json:"protocol,omitempty"` // left out for TCP
	LaptopPort int32      `json:"laptopPort,omitempty"`
	Rule       string     `json:"rule"`
	State      string     `json:"state"`
	Message    string     `json:"message,omitempty"`
	Since      time.Time  `json:"since"`
	Until      *time.Time `json:"until,omitempty"`
}

// Unseen is something that could not be looked at.
type Unseen struct {
	Namespace string `json:"namespace,omitempty"`
	What      string `json:"what"`
	Why       string `json:"why"`
}

// port as people write it.
func (a Alteration) port() string {
	if a.Protocol == "UDP" {
		return strconv.Itoa(int(a.Port)) + "/udp"
	}
	return strconv.Itoa(int(a.Port))
}

// to says where the requests go, for people.
func (a Alteration) to() string {
	if a.LaptopPort == 0 {
		return "dayfly's routers"
	}
	host := a.Host
	if host == "" {
		host = "laptop"
	}
	return host + ":" + strconv.Itoa(int(a.LaptopPort))
}

// troubled says whether it is neither in force nor on its way there.
func (a Alteration) troubled() bool {
	return a.State != "Armed" && a.State != "Arming" && a.State != "New"
}

// kinds shortens workloads for people: "deployment 2/2".
func (n *Node) kinds() string {
	var out []string
	for _, w := range n.Workloads {
		s := strings.ToLower(w.Kind)
		if w.Name != n.Name {
			s += " " + w.Name
		}
		if w.Want > 0 || w.Ready > 0 {
			s += " " + strconv.Itoa(int(w.Ready)) + "/" + strconv.Itoa(int(w.Want))
		}
		out = append(out, s)
	}
	switch {
	case n.Elsewhere:
		return "elsewhere"
	case n.Front:
		return "in front of others"
	case len(out) == 0:
		return "no workload"
	}
	return strings.Join(out, ", ")
}

// ports are those of a call, for people: ":80", ":80,9090".
func (c *Call) ports() string {
	if len(c.Ports) == 0 {
		return ""
	}
	var out []string
	for _, p := range c.Ports {
		out = append(out, strconv.Itoa(int(p)))
	}
	return ":" + strings.Join(out, ",")
}

// declared says whether nothing but a declaration knows the call: nobody was seen or configured to make it.
func (c *Call) declared() bool { return len(c.Known) > 0 && c.Known[0].By == ByPolicy }

// index finds nodes by ID.
func (g *Graph) index() map[string]*Node {
	out := make(map[string]*Node, len(g.Nodes))
	for i := range g.Nodes {
		out[g.Nodes[i].ID] = &g.Nodes[i]
	}
	return out
}

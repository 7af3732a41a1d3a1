package servicegraph

import (
	"fmt"
	"io"
	"strings"
)

// MermaidMaxCalls is how many lines Mermaid draws where nobody can raise its limit, as on GitHub.
const MermaidMaxCalls = 500

// Mermaid writes the graph as a Mermaid flowchart, for a code block that starts with ```mermaid.
func Mermaid(w io.Writer, g *Graph) error {
	var out strings.Builder
	out.WriteString("flowchart LR\n")
	id := map[string]string{}
	laptops, spans := 0, several(g)
	for i := range g.Nodes {
		n := &g.Nodes[i]
		id[n.ID] = fmt.Sprintf("n%d", i)
		left, right := shape(n.Role)
		fmt.Fprintf(&out, "  n%d%s\"%s<br/><small>%s</small>\"%s:::%s\n", i, left, mermaidText(label(g, n, spans)), mermaidText(n.kinds()), right, class(n))
		if len(n.Entries) > 0 {
			fmt.Fprintf(&out, "  e%d([\"%s\"]):::outside --> n%d\n", i, mermaidText(strings.Join(n.Entries, ", ")), i)
		}
	}
	for i := range g.Nodes {
		for _, a := range g.Nodes[i].Alterations {
			fmt.Fprintf(&out, "  n%d -. \"%s\" .-> l%d[/\"%s<br/><small>%s · %s</small>\"/]:::%s\n", i, mermaidText(a.Rule), laptops,
				mermaidText(a.Owner), mermaidText(a.to()), mermaidText(a.State), alterationClass(a))
			laptops++
		}
	}
	for i := range g.Calls {
		c := &g.Calls[i]
		line := "-->"
		if c.declared() {
			line = "-.->"
		}
		fmt.Fprintf(&out, "  %s %s %s\n", id[c.From], line, id[c.To])
	}
	out.WriteString(mermaidClasses)
	_, err := io.WriteString(w, out.String())
	return err
}

// Each class says its own text colour: GitHub shows the same picture on light and on dark pages.
const mermaidClasses = `  classDef edge fill:#dbeafe,stroke:#2563eb,color:#1e3a8a
  classDef core fill:#f1f5f9,stroke:#64748b,color:#0f172a
  classDef leaf fill:#ecfdf5,stroke:#059669,color:#064e3b
  classDef lone fill:#f8fafc,stroke:#cbd5e1,color:#475569
  classDef outside fill:#ffffff,stroke:#94a3b8,color:#334155
  classDef altered fill:#fae8ff,stroke:#c026d3,color:#701a75,stroke-width:3px
  classDef laptop fill:#fae8ff,stroke:#c026d3,color:#701a75
  classDef trouble fill:#fef3c7,stroke:#d97706,color:#78350f
`

func shape(r Role) (left, right string) {
	switch r {
	case Edge:
		return "[[", "]]"
	case Leaf:
		return "(", ")"
	}
	return "[", "]"
}

func class(n *Node) string {
	if len(n.Alterations) > 0 {
		return "altered"
	}
	return string(n.Role)
}

func alterationClass(a Alteration) string {
	if a.troubled() {
		return "trouble"
	}
	return "laptop"
}

// several says whether the nodes are of more than one namespace.
func several(g *Graph) bool {
	for i := range g.Nodes {
		if g.Nodes[i].Namespace != g.Nodes[0].Namespace {
			return true
		}
	}
	return false
}

func label(g *Graph, n *Node, spans bool) string {
	if spans && n.Namespace != g.Namespace {
		return n.Namespace + "/" + n.Name
	}
	return n.Name
}

// mermaidText makes a text safe between Mermaid's quotes: everything that could end the text, open a tag or begin Markdown
// becomes an entity.
func mermaidText(s string) string {
	var out strings.Builder
	for _, r := range clean(s) {
		if strings.ContainsRune("\"#;&<>`*_[]{}|\\", r) {
			fmt.Fprintf(&out, "#%d;", r)
		} else {
			out.WriteRune(r)
		}
	}
	return out.String()
}

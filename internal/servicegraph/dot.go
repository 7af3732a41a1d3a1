package servicegraph

import (
	"fmt"
	"io"
	"strings"
)

// Dot writes the graph in Graphviz' language: dayfly graph -o dot | dot -Tpdf.
func Dot(w io.Writer, g *Graph) error {
	var out strings.Builder
	out.WriteString("digraph dayfly {\n  rankdir=LR\n  node [shape=box style=\"rounded,filled\" fontname=\"Helvetica\" fillcolor=\"#f1f5f9\" color=\"#64748b\"]\n" +
		"  edge [color=\"#64748b\" fontname=\"Helvetica\" fontsize=10]\n")
	fill := map[Role]string{Edge: "#dbeafe", Core: "#f1f5f9", Leaf: "#ecfdf5", Lone: "#f8fafc"}
	spans := several(g)
	for i := range g.Nodes {
		n := &g.Nodes[i]
		color, width := "#64748b", 1
		if len(n.Alterations) > 0 {
			color, width = "#c026d3", 3
		}
		fmt.Fprintf(&out, "  %s [label=%s fillcolor=%q color=%q penwidth=%d]\n", dotText(n.ID), dotText(label(g, n, spans)+"\n"+n.kinds()), fill[n.Role], color, width)
		for k, e := range n.Entries {
			id := dotText(fmt.Sprintf("entry %s %d", n.ID, k))
			fmt.Fprintf(&out, "  %s [label=%s shape=plaintext style=\"\"]\n  %s -> %s\n", id, dotText(e), id, dotText(n.ID))
		}
		for k, a := range n.Alterations {
			id := dotText(fmt.Sprintf("alteration %s %d", n.ID, k))
			fmt.Fprintf(&out, "  %s [label=%s fillcolor=\"#fae8ff\" color=\"#c026d3\"]\n  %s -> %s [label=%s style=dashed color=\"#c026d3\"]\n",
				id, dotText(a.Owner+"\n"+a.to()+" · "+a.State), dotText(n.ID), id, dotText(a.Rule))
		}
	}
	for i := range g.Calls {
		c := &g.Calls[i]
		style := "solid"
		if c.declared() {
			style = "dotted"
		}
		fmt.Fprintf(&out, "  %s -> %s [style=%s tooltip=%s]\n", dotText(c.From), dotText(c.To), style, dotText(reasons(c)))
	}
	out.WriteString("}\n")
	_, err := io.WriteString(w, out.String())
	return err
}

// reasons says how a call is known, for people.
func reasons(c *Call) string {
	var out []string
	for _, k := range c.Known {
		out = append(out, string(k.By)+": "+k.Detail)
	}
	return strings.Join(out, "; ")
}

// dotText quotes a text; line breaks stay line breaks.
func dotText(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(clean(l))
	}
	return `"` + strings.Join(lines, `\n`) + `"`
}

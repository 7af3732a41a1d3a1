package servicegraph

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/util/duration"
)

// TextOptions say how a terminal shows a graph. The zero value is plain text without a bound.
type TextOptions struct {
	Width int // columns; longer lines end in …; 0: no bound
	Color bool
}

// Colours of the terminal.
const (
	plain   = ""
	bold    = "1"
	dim     = "2"
	red     = "31"
	green   = "32"
	yellow  = "33"
	magenta = "35"
	cyan    = "36"
)

// maxIndent is the depth at which a tree begins anew at the margin.
const maxIndent = 10

type span struct{ color, text string }

// Text writes the graph as trees: each begins at an edge, each node is told once, under the first that calls it.
func Text(w io.Writer, g *Graph, o TextOptions) error {
	t := &tree{g: g, o: o, nodes: g.index(), calls: map[string][]*Call{}, told: map[string]bool{}}
	for i := range g.Calls {
		t.calls[g.Calls[i].From] = append(t.calls[g.Calls[i].From], &g.Calls[i])
	}
	t.headline()
	for _, begins := range []func(*Node) bool{
		func(n *Node) bool { return len(n.Entries) > 0 },
		func(n *Node) bool { return n.Role == Edge },
		func(n *Node) bool { return n.Role != Lone }, // no edge leads to it: it is in a circle
	} {
		for i := range g.Nodes {
			if n := &g.Nodes[i]; begins(n) && !t.told[n.ID] {
				t.later = append(t.later, n)
				t.trees()
			}
		}
	}
	t.lone()
	t.unseen()
	_, err := io.WriteString(w, t.out.String())
	return err
}

type tree struct {
	g     *Graph
	o     TextOptions
	out   strings.Builder
	nodes map[string]*Node
	calls map[string][]*Call
	told  map[string]bool
	later []*Node // that begin at the margin
	spans bool    // several namespaces
}

func (t *tree) headline() {
	altered, namespaces, services := 0, map[string]bool{}, 0
	for i := range t.g.Nodes {
		n := &t.g.Nodes[i]
		altered += len(n.Alterations)
		services += len(n.Services)
		namespaces[n.Namespace] = true
	}
	t.spans = len(namespaces) > 1
	where := t.g.Namespace
	if where == "" {
		where = "all namespaces"
	}
	line := []span{{bold, clean(where)}, {plain, "  " + count(services, "service") + " · " + count(len(t.g.Calls), "call")}}
	if altered > 0 {
		line = append(line, span{plain, " · "}, span{magenta, count(altered, "alteration")})
	}
	t.line(line...)
	t.line(span{dim, "◆ edge  ● core  ○ leaf  ⇄ altered  ─▶ call  ┄▶ declared only  ↑ told above"})
}

func (t *tree) trees() {
	for len(t.later) > 0 {
		n := t.later[0]
		t.later = t.later[1:]
		if !t.told[n.ID] {
			t.line()
			t.node(n, "", "", nil, 0)
		}
	}
}

// node tells one node: first is before its own line, rest before those that follow.
func (t *tree) node(n *Node, first, rest string, c *Call, depth int) {
	t.told[n.ID] = true
	line := []span{{dim, first}, sign(n), {bold, t.name(n)}}
	if c != nil {
		line = append(line, span{plain, c.ports()})
	}
	line = append(line, span{dim, "  " + clean(n.kinds())})
	if len(n.Entries) > 0 {
		line = append(line, span{cyan, "  ⇐ " + clean(strings.Join(n.Entries, ", "))})
	}
	t.line(line...)
	var fresh, known []*Call
	for _, c := range t.calls[n.ID] {
		if t.told[c.To] || slices.Contains(t.later, t.nodes[c.To]) {
			known = append(known, c)
		} else {
			fresh = append(fresh, c)
		}
	}
	bar := "  "
	if len(fresh)+len(known) > 0 {
		bar = "│ "
	}
	for _, a := range n.Alterations {
		t.line(append([]span{{dim, rest + bar}}, t.alteration(a)...)...)
	}
	t.children(fresh, known, rest, depth)
}

func (t *tree) children(fresh, known []*Call, rest string, depth int) {
	for i, c := range fresh {
		if t.told[c.To] { // told below a sister meanwhile
			known = append(known, c)
			continue
		}
		to := t.nodes[c.To]
		if depth >= maxIndent {
			t.later = append(t.later, to)
			known = append(known, c)
			continue
		}
		branch, bar := "├", "│   "
		if i == len(fresh)-1 && len(known) == 0 {
			branch, bar = "└", "    "
		}
		t.node(to, rest+branch+arrow(c), rest+bar, c, depth+1)
	}
	if len(known) == 0 {
		return
	}
	var names []string
	for _, c := range known {
		names = append(names, t.name(t.nodes[c.To])+c.ports())
	}
	t.line(span{dim, rest + "└─▶ "}, span{dim, "↑ " + strings.Join(names, ", ")})
}

func arrow(c *Call) string {
	if c.declared() {
		return "┄▶ "
	}
	return "─▶ "
}

func sign(n *Node) span {
	switch {
	case len(n.Alterations) > 0:
		return span{magenta, marks[n.Role] + " "}
	case n.Role == Edge:
		return span{cyan, "◆ "}
	}
	return span{plain, marks[n.Role] + " "}
}

var marks = map[Role]string{Edge: "◆", Core: "●", Leaf: "○", Lone: "·"}

func (t *tree) alteration(a Alteration) []span {
	who := clean(a.Owner)
	if a.Session == "" {
		who += " (no session)"
	}
	state := span{green, a.State}
	switch {
	case a.State == "Refused" || a.State == "Restoring" && a.Session == "":
		state.color = red
	case a.troubled():
		state.color = yellow
	}
	line := []span{{magenta, "⇄ " + who}, {plain, fmt.Sprintf("  :%s  %s → %s  ", a.port(), clean(a.Rule), clean(a.to()))}, state,
		{dim, " " + duration.HumanDuration(t.g.Observed.Sub(a.Since))}}
	if a.Until != nil {
		line = append(line, span{dim, ", until " + a.Until.Format(time.RFC3339)})
	}
	if a.Message != "" && a.troubled() {
		line = append(line, span{dim, "  " + clean(a.Message)})
	}
	return line
}

// lone tells what stands by itself, several on a line; what is altered has lines of its own.
func (t *tree) lone() {
	var names []string
	for i := range t.g.Nodes {
		n := &t.g.Nodes[i]
		switch {
		case n.Role != Lone:
		case len(n.Alterations) > 0:
			t.line()
			t.node(n, "", "", nil, 0)
		default:
			names = append(names, t.name(n))
		}
	}
	if len(names) == 0 {
		return
	}
	t.line()
	t.wrap("no known call: ", names)
}

func (t *tree) unseen() {
	for i, u := range t.g.Unseen {
		if i == 0 {
			t.line()
		}
		where := ""
		if u.Namespace != "" {
			where = " in " + u.Namespace
		}
		t.line(span{yellow, "not seen: "}, span{plain, clean(u.What + where + ": " + u.Why)})
	}
}

// wrap writes words with commas between them on as many lines as they need.
func (t *tree) wrap(head string, words []string) {
	line, indent := head, strings.Repeat(" ", len([]rune(head)))
	for i, w := range words {
		if i < len(words)-1 {
			w += ", "
		}
		if t.o.Width > 0 && len([]rune(line+w)) > t.o.Width && line != indent {
			t.line(span{dim, strings.TrimRight(line, " ")})
			line = indent
		}
		line += w
	}
	t.line(span{dim, line})
}

func (t *tree) name(n *Node) string {
	if t.spans && (t.g.Namespace == "" || n.Namespace != t.g.Namespace) {
		return clean(n.Namespace + "/" + n.Name)
	}
	return clean(n.Name)
}

// line writes one line, cut to the width.
func (t *tree) line(spans ...span) {
	left := t.o.Width
	for _, s := range spans {
		text := []rune(s.text)
		cut := t.o.Width > 0 && len(text) > left
		if cut {
			text = append(text[:max(left-1, 0):max(left-1, 0)], '…')
		}
		left -= len(text)
		if t.o.Color && s.color != plain && len(text) > 0 {
			fmt.Fprintf(&t.out, "\x1b[%sm%s\x1b[0m", s.color, string(text))
		} else {
			t.out.WriteString(string(text))
		}
		if cut {
			break
		}
	}
	t.out.WriteByte('\n')
}

// clean takes out what would move a terminal's cursor: names of people and machines come from others.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\ufffd'
		}
		return r
	}, s)
}

func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

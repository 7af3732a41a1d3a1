package servicegraph

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"slices"
	"strings"
)

// SVG writes the graph as a picture that needs nothing else: no script, no font, no address. It follows the reader's choice
// of a light or dark screen.
func SVG(w io.Writer, g *Graph) error {
	p := newPicture(g)
	_, err := io.WriteString(w, p.draw())
	return err
}

// Measures of the picture, in pixels.
const (
	margin    = 28.0
	headH     = 58.0
	padX      = 14.0
	rowH      = 17.0
	titleSize = 14.0
	smallSize = 11.5
	maxRunes  = 46 // of one row
)

// row is one line of text in a box.
type row struct {
	text, class string
	size        float64
}

type picture struct {
	g      *Graph
	spans  bool
	placed []int // nodes that are in the layout, by box
	lone   []int
	rows   map[int][]row
	l      *layers
	out    strings.Builder
}

func newPicture(g *Graph) *picture {
	p := &picture{g: g, spans: several(g), rows: map[int][]row{}}
	at := map[string]int{}
	var sizes []box
	for i := range g.Nodes {
		n := &g.Nodes[i]
		p.rows[i] = p.rowsOf(n)
		if n.Role == Lone {
			p.lone = append(p.lone, i)
			continue
		}
		at[n.ID] = len(sizes)
		p.placed = append(p.placed, i)
		sizes = append(sizes, p.sizeOf(i))
	}
	var calls [][2]int
	for _, c := range g.Calls {
		calls = append(calls, [2]int{at[c.From], at[c.To]})
	}
	p.l = layOut(sizes, calls, func(v int) bool { return g.Nodes[p.placed[v]].Role == Edge })
	return p
}

// rowsOf is what a node's box says.
func (p *picture) rowsOf(n *Node) []row {
	out := []row{{label(p.g, n, p.spans), "name", titleSize}, {n.kinds(), "dim", smallSize}}
	for i, e := range n.Entries {
		if i == 3 && len(n.Entries) > 4 {
			out = append(out, row{fmt.Sprintf("⇐ %d more", len(n.Entries)-3), "entry", smallSize})
			break
		}
		out = append(out, row{"⇐ " + e, "entry", smallSize})
	}
	for _, a := range n.Alterations {
		state := "ok"
		if a.troubled() {
			state = "bad"
		}
		out = append(out, row{"⇄ " + a.Owner + " · " + a.State, state, smallSize}, row{a.Rule + " → " + a.to(), "rule", smallSize})
	}
	for i := range out {
		out[i].text = shorten(clean(out[i].text))
	}
	return out
}

func shorten(s string) string {
	if r := []rune(s); len(r) > maxRunes {
		return string(r[:maxRunes-1]) + "…"
	}
	return s
}

func (p *picture) sizeOf(i int) box {
	b := box{w: 96, h: 2*9 + rowH*float64(len(p.rows[i]))}
	for _, r := range p.rows[i] {
		b.w = max(b.w, width(r)+2*padX)
	}
	return b
}

// width is how wide a text is at most in the fonts that people have: they are not known here.
func width(r row) float64 {
	sum := 0.0
	for _, c := range r.text {
		switch {
		case strings.ContainsRune("iljtfr.,:;|!'()[]/- ", c):
			sum += 0.42
		case strings.ContainsRune("mwMW@%→⇄⇐…", c):
			sum += 0.98
		case c >= 'A' && c <= 'Z' || c > 0x2000:
			sum += 0.76
		default:
			sum += 0.64
		}
	}
	if r.class == "name" {
		sum *= 1.06
	}
	return sum * r.size
}

func (p *picture) draw() string {
	w, h := p.l.size()
	grid, gridH := p.grid(max(w, 720))
	for _, b := range grid {
		w = max(w, b.x+b.w)
	}
	total := headH + h
	if len(grid) > 0 {
		total += 60 + gridH
	}
	w, total = max(w, 560)+2*margin, total+margin
	fmt.Fprintf(&p.out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" role="img" aria-label="%s">`+"\n", w, total, w, total, escape(p.title()))
	p.out.WriteString(svgStyle)
	fmt.Fprintf(&p.out, `<rect class="page" width="%.0f" height="%.0f"/>`+"\n", w, total)
	p.head()
	fmt.Fprintf(&p.out, `<g transform="translate(%.0f %.0f)">`+"\n", margin, headH)
	p.links()
	for v, i := range p.placed {
		p.box(i, p.l.boxes[v])
	}
	if len(grid) > 0 {
		fmt.Fprintf(&p.out, `<text class="dim" font-size="%g" x="0" y="%.0f">no known call</text>`+"\n", smallSize, h+44)
		for k, i := range p.lone {
			b := grid[k]
			b.y += h + 60
			p.box(i, b)
		}
	}
	p.out.WriteString("</g>\n</svg>\n")
	return p.out.String()
}

func (p *picture) title() string { return cmp.Or(p.g.Namespace, "all namespaces") }

// head is the title and the legend.
func (p *picture) head() {
	fmt.Fprintf(&p.out, `<text class="name" font-size="17" x="%.0f" y="30">%s</text>`+"\n", margin, escape(clean(p.title())))
	x := margin + width(row{p.title(), "name", 17}) + 26
	for _, item := range []struct{ class, text string }{{"edge", "edge"}, {"core", "core"}, {"leaf", "leaf"}, {"altered", "altered"}} {
		fmt.Fprintf(&p.out, `<rect class="box %s" x="%.0f" y="19" width="16" height="12" rx="3"/><text class="dim" font-size="%g" x="%.0f" y="29.5">%s</text>`+"\n",
			item.class, x, smallSize, x+22, item.text)
		x += 34 + width(row{item.text, "dim", smallSize})
	}
	if slices.ContainsFunc(p.g.Calls, func(c Call) bool { return c.declared() }) {
		fmt.Fprintf(&p.out, `<path class="call declared" d="M%.0f 25h24"/><text class="dim" font-size="%g" x="%.0f" y="29.5">declared only</text>`+"\n", x, smallSize, x+30)
	}
}

func (p *picture) box(i int, b box) {
	n := &p.g.Nodes[i]
	round := 6.0
	if n.Role == Leaf {
		round = 16
	}
	fmt.Fprintf(&p.out, `<g transform="translate(%.1f %.1f)"><title>%s</title><rect class="box %s" width="%.1f" height="%.1f" rx="%g"/>`,
		b.x, b.y, escape(hover(n)), classOf(n), b.w, b.h, round)
	for k, r := range p.rows[i] {
		fmt.Fprintf(&p.out, `<text class="%s" font-size="%g" x="%g" y="%.1f">%s</text>`, r.class, r.size, padX, 9+rowH*float64(k)+12.5, escape(r.text))
	}
	p.out.WriteString("</g>\n")
}

func classOf(n *Node) string {
	if len(n.Alterations) > 0 {
		return string(n.Role) + " altered"
	}
	return string(n.Role)
}

// hover is what a pointer over a box shows.
func hover(n *Node) string {
	lines := []string{n.ID + " (" + string(n.Role) + ")"}
	for _, s := range n.Services {
		ports := (&Call{Ports: s.Ports}).ports()
		lines = append(lines, "service "+s.Name+ports)
	}
	lines = append(lines, n.Entries...)
	for _, a := range n.Alterations {
		lines = append(lines, fmt.Sprintf("%s: port %s, %s → %s, %s %s", a.Owner, a.port(), a.Rule, a.to(), a.State, a.Message))
	}
	for i := range lines {
		lines[i] = clean(lines[i])
	}
	return strings.Join(lines, "\n")
}

// grid places the boxes without calls below the others, row by row, and says how high that is.
func (p *picture) grid(most float64) (out []box, height float64) {
	x, y, rowHeight := 0.0, 0.0, 0.0
	for _, i := range p.lone {
		b := p.sizeOf(i)
		if x > 0 && x+b.w > most {
			x, y, rowHeight = 0, y+rowHeight+rowGap, 0
		}
		b.x, b.y = x, y
		x, rowHeight = x+b.w+rowGap, max(rowHeight, b.h)
		out = append(out, b)
	}
	return out, y + rowHeight
}

// links draws the calls as curves from box to box, through the lanes between.
func (p *picture) links() {
	leave, arrive := p.ends()
	for i, k := range p.l.links {
		c := &p.g.Calls[i]
		var d strings.Builder
		for s := range k.path[1:] {
			a, b := &p.l.boxes[k.path[s]], &p.l.boxes[k.path[s+1]]
			x1, y1, x2, y2 := a.x+a.w, leave[[2]int{i, s}], b.x, arrive[[2]int{i, s}]
			if s == 0 {
				fmt.Fprintf(&d, "M%.1f %.1f", x1, y1)
			} else {
				fmt.Fprintf(&d, "L%.1f %.1f", x1, y1)
			}
			bend := max((x2-x1)*0.5, 24)
			fmt.Fprintf(&d, "C%.1f %.1f %.1f %.1f %.1f %.1f", x1+bend, y1, x2-bend, y2, x2, y2)
		}
		class, marker := "call", `marker-end="url(#to)"`
		if c.declared() {
			class += " declared"
		}
		if k.back {
			marker = `marker-start="url(#from)"`
		}
		fmt.Fprintf(&p.out, `<path class="%s" d="%s" %s><title>%s</title></path>`+"\n", class, d.String(), marker,
			escape(clean(c.From+" → "+c.To+c.ports()+" ("+reasons(c)+")")))
	}
}

// ends spreads the calls over the sides of their boxes, in the order of where they go: heights by call and part of its path.
func (p *picture) ends() (leave, arrive map[[2]int]float64) {
	type end struct {
		key   [2]int
		other float64
	}
	outs, ins := map[int][]end{}, map[int][]end{}
	for i, k := range p.l.links {
		for s := range k.path[1:] {
			a, b := k.path[s], k.path[s+1]
			outs[a] = append(outs[a], end{[2]int{i, s}, p.l.boxes[b].middle()})
			ins[b] = append(ins[b], end{[2]int{i, s}, p.l.boxes[a].middle()})
		}
	}
	spread := func(all map[int][]end) map[[2]int]float64 {
		out := map[[2]int]float64{}
		for v, ends := range all {
			slices.SortStableFunc(ends, func(x, y end) int { return cmp.Compare(x.other, y.other) })
			b := &p.l.boxes[v]
			step := min(b.h/float64(len(ends)+1), 14)
			for k, e := range ends {
				out[e.key] = b.middle() + step*(float64(k)-float64(len(ends)-1)/2)
			}
		}
		return out
	}
	return spread(outs), spread(ins)
}

func escape(s string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(s))
	return out.String()
}

const svgStyle = `<style>
svg{--page:#fff;--ink:#0f172a;--dim:#64748b;--line:#94a3b8;--edge:#dbeafe;--edgeline:#3b82f6;--core:#f1f5f9;--coreline:#94a3b8;--leaf:#ecfdf5;--leafline:#10b981;--lone:#fff;--loneline:#cbd5e1;--mark:#c026d3;--ok:#15803d;--bad:#b45309;--entry:#1d4ed8}
@media (prefers-color-scheme:dark){svg{--page:#0d1117;--ink:#e6edf3;--dim:#8b949e;--line:#6e7681;--edge:#10233f;--edgeline:#3b82f6;--core:#161b22;--coreline:#6e7681;--leaf:#0b2a20;--leafline:#10b981;--lone:#0d1117;--loneline:#30363d;--mark:#e879f9;--ok:#4ade80;--bad:#fbbf24;--entry:#79c0ff}}
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:var(--ink)}
.page{fill:var(--page)}.name{font-weight:600}.dim{fill:var(--dim)}.entry{fill:var(--entry)}.ok{fill:var(--ok);font-weight:600}.bad{fill:var(--bad);font-weight:600}
.box{stroke-width:1.3}.edge{fill:var(--edge);stroke:var(--edgeline)}.core{fill:var(--core);stroke:var(--coreline)}.leaf{fill:var(--leaf);stroke:var(--leafline)}.lone{fill:var(--lone);stroke:var(--loneline)}.altered{stroke:var(--mark);stroke-width:2.6}
rect.altered:not(.edge):not(.core):not(.leaf):not(.lone){fill:var(--page)}
.call{fill:none;stroke:var(--line);stroke-width:1.5}.declared{stroke-dasharray:2 4}.arrow{fill:var(--line)}
g:hover>.box{stroke-width:3}.call:hover{stroke:var(--mark);stroke-width:2.5}
</style>
<defs><marker id="to" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path class="arrow" d="M0 0L8 4L0 8z"/></marker><marker id="from" viewBox="0 0 8 8" refX="0.5" refY="4" markerWidth="7" markerHeight="7" orient="auto"><path class="arrow" d="M8 0L0 4L8 8z"/></marker></defs>
`

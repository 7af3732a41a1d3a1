package servicegraph

import (
	"cmp"
	"slices"
)

// A layered layout (Sugiyama's): calls run from left to right through columns, long calls keep a lane of their own in each
// column that they cross, the order within a column is chosen for few crossings, and heights follow the neighbours. All
// lengths are in pixels.

// Distances of the picture.
const (
	columnGap = 90.0 // between columns: room for the curves
	rowGap    = 18.0 // between boxes of a column
	laneH     = 10.0 // of a call that crosses a column
	sweeps    = 24
)

// box is a node, or the lane of a call in a column that it crosses.
type box struct {
	w, h   float64
	x, y   float64 // left, top
	column int
	lane   bool

	in, out []int // neighbours in the columns beside it
}

func (b *box) middle() float64 { return b.y + b.h/2 }

// link is a call: the boxes that it passes, from left to right. back says that it runs from right to left.
type link struct {
	path []int
	back bool
}

// layers is a layout in the making. The first boxes are those it was given.
type layers struct {
	boxes   []box
	links   []link
	columns [][]int // boxes from top to bottom
}

// layOut places boxes of the given sizes. first says which boxes would rather stand in the first column. The result has
// no two boxes that overlap.
func layOut(sizes []box, calls [][2]int, first func(int) bool) *layers {
	l := &layers{boxes: slices.Clone(sizes)}
	l.assignColumns(calls, first)
	l.addLanes()
	l.order()
	l.place()
	return l
}

// assignColumns turns calls that close a circle around, and puts every box right of all that call it.
func (l *layers) assignColumns(calls [][2]int, first func(int) bool) {
	out := make([][]int, len(l.boxes)) // calls by caller
	for i, c := range calls {
		out[c[0]] = append(out[c[0]], i)
	}
	const fresh, open, done = 0, 1, 2
	state := make([]int, len(l.boxes))
	l.links = make([]link, len(calls))
	var finished []int
	var visit func(v int)
	visit = func(v int) {
		state[v] = open
		for _, i := range out[v] {
			to := calls[i][1]
			if state[to] == open {
				l.links[i] = link{[]int{to, v}, true}
				continue
			}
			l.links[i] = link{[]int{v, to}, false}
			if state[to] == fresh {
				visit(to)
			}
		}
		state[v] = done
		finished = append(finished, v)
	}
	for _, pass := range []bool{true, false} {
		for v := range l.boxes {
			if state[v] == fresh && (first(v) || !pass) {
				visit(v)
			}
		}
	}
	slices.Reverse(finished) // callers before callees
	ends := make([][]int, len(l.boxes))
	for _, k := range l.links {
		ends[k.path[0]] = append(ends[k.path[0]], k.path[1])
	}
	for _, v := range finished {
		for _, to := range ends[v] {
			l.boxes[to].column = max(l.boxes[to].column, l.boxes[v].column+1)
		}
	}
}

// addLanes gives long calls a lane in each column that they cross.
func (l *layers) addLanes() {
	for i := range l.links {
		from, to := l.links[i].path[0], l.links[i].path[1]
		path := []int{from}
		for c := l.boxes[from].column + 1; c < l.boxes[to].column; c++ {
			l.boxes = append(l.boxes, box{h: laneH, column: c, lane: true})
			path = append(path, len(l.boxes)-1)
		}
		path = append(path, to)
		for k := range path[1:] {
			l.boxes[path[k]].out = append(l.boxes[path[k]].out, path[k+1])
			l.boxes[path[k+1]].in = append(l.boxes[path[k+1]].in, path[k])
		}
		l.links[i].path = path
	}
	for v := range l.boxes {
		for len(l.columns) <= l.boxes[v].column {
			l.columns = append(l.columns, nil)
		}
		l.columns[l.boxes[v].column] = append(l.columns[l.boxes[v].column], v)
	}
}

// order sorts each column by where its neighbours stand, back and forth, and keeps the order with the fewest crossings.
func (l *layers) order() {
	best, fewest := l.snapshot(), l.crossings()
	for s := 0; s < sweeps && fewest > 0; s++ {
		if s%2 == 0 {
			for c := 1; c < len(l.columns); c++ {
				l.sortColumn(c, func(b *box) []int { return b.in })
			}
		} else {
			for c := len(l.columns) - 2; c >= 0; c-- {
				l.sortColumn(c, func(b *box) []int { return b.out })
			}
		}
		if n := l.crossings(); n < fewest {
			best, fewest = l.snapshot(), n
		}
	}
	l.columns = best
}

func (l *layers) snapshot() [][]int {
	out := make([][]int, len(l.columns))
	for c := range l.columns {
		out[c] = slices.Clone(l.columns[c])
	}
	return out
}

// ranks says at which place of its column each box stands.
func (l *layers) ranks() []int {
	out := make([]int, len(l.boxes))
	for _, col := range l.columns {
		for i, v := range col {
			out[v] = i
		}
	}
	return out
}

func (l *layers) sortColumn(c int, neighbours func(*box) []int) {
	rank := l.ranks()
	want := make(map[int]float64, len(l.columns[c]))
	for i, v := range l.columns[c] {
		ns := neighbours(&l.boxes[v])
		want[v] = float64(i)
		if len(ns) > 0 {
			sum := 0.0
			for _, n := range ns {
				sum += float64(rank[n])
			}
			want[v] = sum / float64(len(ns))
		}
	}
	slices.SortStableFunc(l.columns[c], func(a, b int) int { return cmp.Compare(want[a], want[b]) })
}

// crossings counts the pairs of calls that cross.
func (l *layers) crossings() int {
	rank, n := l.ranks(), 0
	for _, col := range l.columns {
		var ends [][2]int
		for _, v := range col {
			for _, to := range l.boxes[v].out {
				ends = append(ends, [2]int{rank[v], rank[to]})
			}
		}
		for i := range ends {
			for j := range i {
				if (ends[i][0]-ends[j][0])*(ends[i][1]-ends[j][1]) < 0 {
					n++
				}
			}
		}
	}
	return n
}

// place sets every box's place: columns side by side, heights as near to the neighbours' as the order allows.
func (l *layers) place() {
	x := 0.0
	for _, col := range l.columns {
		w := 0.0
		for _, v := range col {
			w = max(w, l.boxes[v].w)
		}
		y := 0.0
		for _, v := range col {
			b := &l.boxes[v]
			b.x, b.y, b.w = x, y, w
			y += b.h + rowGap
		}
		x += w + columnGap
	}
	for s := range sweeps {
		for c := range l.columns {
			if s%2 == 1 {
				c = len(l.columns) - 1 - c
			}
			l.settle(l.columns[c], s)
		}
	}
	top := 0.0
	for i := range l.boxes {
		top = min(top, l.boxes[i].y)
	}
	for i := range l.boxes {
		l.boxes[i].y -= top
	}
}

// settle moves the boxes of a column to where their neighbours are. Boxes that want the same place share it out: the
// squares of what each is away from its wish are fewest (pool adjacent violators).
func (l *layers) settle(col []int, sweep int) {
	type pool struct {
		sum, n float64
		boxes  int
	}
	var pools []pool
	offset := make([]float64, len(col)) // of a box's top from the column's, if all stood without gaps
	for i := range col {
		if i > 0 {
			offset[i] = offset[i-1] + l.boxes[col[i-1]].h + rowGap
		}
		pools = append(pools, pool{l.wish(col[i], sweep) - offset[i], 1, 1})
		for n := len(pools); n > 1 && pools[n-2].sum/pools[n-2].n > pools[n-1].sum/pools[n-1].n; n = len(pools) {
			pools[n-2] = pool{pools[n-2].sum + pools[n-1].sum, pools[n-2].n + pools[n-1].n, pools[n-2].boxes + pools[n-1].boxes}
			pools = pools[:n-1]
		}
	}
	i := 0
	for _, p := range pools {
		for range p.boxes {
			l.boxes[col[i]].y = p.sum/p.n + offset[i]
			i++
		}
	}
}

// wish is the top that a box would like to have.
func (l *layers) wish(v, sweep int) float64 {
	b := &l.boxes[v]
	ns := b.in
	if sweep%2 == 1 {
		ns = b.out
	}
	if sweep >= sweeps-2 || len(ns) == 0 {
		ns = slices.Concat(b.in, b.out)
	}
	if len(ns) == 0 {
		return b.y
	}
	sum := 0.0
	for _, n := range ns {
		sum += l.boxes[n].middle()
	}
	return sum/float64(len(ns)) - b.h/2
}

// size is the width and height of everything.
func (l *layers) size() (w, h float64) {
	for i := range l.boxes {
		w, h = max(w, l.boxes[i].x+l.boxes[i].w), max(h, l.boxes[i].y+l.boxes[i].h)
	}
	return w, h
}

package environment

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// entry is what the queue knows of an environment.
type entry struct {
	at       client.ObjectKey
	uid      types.UID
	owner    string
	priority int32
	since    time.Time // when it began to wait

	holds bool // it has a place, and runs or may run
	held  size // that counts while it has
	wants bool // a place, or that it may be larger than what it holds
	size  size // that it wants
}

// waits says whether an entry is in line.
func (e *entry) waits() bool {
	return e.wants && (!e.holds || e.size.cpu > e.held.cpu || e.size.memory > e.held.memory)
}

// Turn is where an environment stands in line.
type Turn struct {
	Position int       // among those that wait for the same, from 1
	Says     string    // what it waits for
	Never    bool      // it will not come
	Since    time.Time // when it began to wait
}

// patience is how long others may go before one that came earlier, for their priority or because their owners have less.
const patience = 30 * time.Minute

// admit says who of the environments under one policy gets a place now, and where the others stand. It is pure.
//
// Who has waited for long comes first, by age; then priority; then owners take turns, those first who have the fewest awake; then
// age. Who waits for an owner's or a home's limit holds up nobody else. Who waits for CPU or memory is passed by nobody, or small
// ones would keep a large one waiting for ever.
func admit(entries []entry, l v1alpha1.PolicyLimits, now time.Time) (admitted []int, turns map[types.UID]Turn) {
	in := usage{owners: map[string]int32{}, homes: map[string]int32{}}
	for i := range entries {
		if e := &entries[i]; e.holds {
			in.add(e, 1, e.held)
		}
	}
	turns = map[types.UID]Turn{}
	lines := map[string]int{} // by what they wait for, how many do
	stuck := false
	for _, i := range order(entries, l.MaxPriority, in.owners, now) {
		e := &entries[i]
		what, why := in.full(e, l)
		switch {
		case tooLarge(e, l) != "":
			turns[e.uid] = Turn{Says: tooLarge(e, l), Never: true}
			continue
		case what == "" && !stuck:
			var more int32 = 1
			if e.holds {
				more = 0
			}
			in.add(e, more, e.held.larger(e.size).plus(e.held, -1))
			admitted = append(admitted, i)
			continue
		case what == "":
			what, why = "all", "those before it wait for CPU or memory"
		case what == "all":
			stuck = true
		}
		lines[what]++
		turns[e.uid] = Turn{Position: lines[what], Says: fmt.Sprintf("%s in line: %s", Ordinal(lines[what]), why)}
	}
	return admitted, turns
}

// order is that in which those who wait get a place.
func order(entries []entry, most int32, awake map[string]int32, now time.Time) []int {
	var line []int
	for i := range entries {
		if entries[i].waits() {
			line = append(line, i)
		}
	}
	old := func(e *entry) int { // 0 sorts before 1
		if now.Sub(e.since) >= patience {
			return 0
		}
		return 1
	}
	age := func(a, b *entry) int {
		return cmp.Or(a.since.Compare(b.since), strings.Compare(string(a.uid), string(b.uid)))
	}
	prior := func(a, b *entry) int {
		if byAge := cmp.Compare(old(a), old(b)); byAge != 0 || old(a) == 0 {
			return byAge
		}
		return cmp.Compare(min(b.priority, most), min(a.priority, most))
	}
	slices.SortFunc(line, func(i, j int) int {
		return cmp.Or(prior(&entries[i], &entries[j]), age(&entries[i], &entries[j]))
	})
	turn := make(map[int]int32, len(line)) // how many the owner has before this one
	ahead := map[string]int32{}
	for _, i := range line {
		owner := entries[i].owner
		turn[i] = awake[owner] + ahead[owner]
		if old(&entries[i]) == 0 {
			turn[i] = 0
		}
		ahead[owner]++
	}
	slices.SortStableFunc(line, func(i, j int) int {
		return cmp.Or(prior(&entries[i], &entries[j]), cmp.Compare(turn[i], turn[j]), age(&entries[i], &entries[j]))
	})
	return line
}

// usage is what those who have a place take.
type usage struct {
	owners, homes map[string]int32
	all           int32
	size          size
}

func (t *usage) add(e *entry, n int32, s size) {
	t.owners[e.owner] += n
	t.homes[e.at.Namespace] += n
	t.all += n
	t.size = t.size.plus(s, 1)
}

// full says which limit an entry would exceed, by whose it is, and why; "" is none.
func (t *usage) full(e *entry, l v1alpha1.PolicyLimits) (what, why string) {
	if !e.holds {
		switch {
		case reached(t.owners[e.owner], l.AwakePerOwner):
			return "owner " + e.owner, fmt.Sprintf("%d of %d environments of %s are awake", t.owners[e.owner], *l.AwakePerOwner, e.owner)
		case reached(t.homes[e.at.Namespace], l.AwakePerHome):
			return "home " + e.at.Namespace, fmt.Sprintf("%d of %d environments of %s are awake", t.homes[e.at.Namespace], *l.AwakePerHome, e.at.Namespace)
		case reached(t.all, l.Awake):
			return "all", fmt.Sprintf("%d of %d environments are awake", t.all, *l.Awake)
		}
	}
	more, word := e.size.plus(e.held, -1), ""
	if e.holds {
		word = " more"
	}
	switch {
	case l.CPU != nil && more.cpu > 0 && t.size.cpu+more.cpu > l.CPU.MilliValue():
		return "all", fmt.Sprintf("%s of %s CPU are asked for, and it asks for %s%s", cpuText(t.size.cpu), l.CPU, cpuText(more.cpu), word)
	case l.Memory != nil && more.memory > 0 && t.size.memory+more.memory > l.Memory.Value():
		return "all", fmt.Sprintf("%s of %s of memory are asked for, and it asks for %s%s", memoryText(t.size.memory), l.Memory, memoryText(more.memory), word)
	}
	return "", ""
}

func reached(n int32, limit *int32) bool { return limit != nil && n >= *limit }

// tooLarge says why an entry would not have a place if it were alone.
func tooLarge(e *entry, l v1alpha1.PolicyLimits) string {
	switch {
	case l.CPU != nil && e.size.cpu > l.CPU.MilliValue():
		return fmt.Sprintf("it asks for %s CPU, and all environments together may have %s", cpuText(e.size.cpu), l.CPU)
	case l.Memory != nil && e.size.memory > l.Memory.Value():
		return fmt.Sprintf("it asks for %s of memory, and all environments together may have %s", memoryText(e.size.memory), l.Memory)
	}
	return ""
}

func cpuText(n int64) string    { return resource.NewMilliQuantity(n, resource.DecimalSI).String() }
func memoryText(n int64) string { return resource.NewQuantity(n, resource.BinarySI).String() }

// Ordinal is 1st, 2nd, 3rd, and so on.
func Ordinal(n int) string {
	end := "th"
	if n%100 < 11 || n%100 > 13 {
		end = map[int]string{1: "st", 2: "nd", 3: "rd"}[n%10]
	}
	return fmt.Sprint(n, cmp.Or(end, "th"))
}

// queue is every environment, as far as places go. What is in it is in their status as well: whoever leads next has the same.
type queue struct {
	policy func(home string) rules
	now    func() time.Time
	wake   func(at client.ObjectKey, after time.Duration)

	mu      sync.Mutex
	filled  bool
	entries map[client.ObjectKey]entry
	turns   map[types.UID]Turn
}

func newQueue(policy func(string) rules, now func() time.Time, wake func(client.ObjectKey, time.Duration)) *queue {
	if wake == nil {
		wake = func(client.ObjectKey, time.Duration) {}
	}
	return &queue{policy: policy, now: now, wake: wake, entries: map[client.ObjectKey]entry{}, turns: map[types.UID]Turn{}}
}

// fill puts in what there was before this controller led, all at once: the first to be looked at must not be taken for the only one.
func (q *queue) fill(list func() ([]entry, error)) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.filled {
		return nil
	}
	all, err := list()
	if err != nil {
		return err
	}
	for _, e := range all {
		q.entries[e.at] = e
	}
	q.filled = true
	q.settle()
	return nil
}

// put says what is known of an environment now, and tells where it stands; nil is a place.
func (q *queue) put(e entry) *Turn {
	q.mu.Lock()
	defer q.mu.Unlock()
	was := q.entries[e.at]
	if was.uid == e.uid && was.wants && e.wants {
		if was.holds && !e.holds { // it got its place, and nobody has written it down yet
			e.holds, e.held = true, was.held
		}
		if e.since.IsZero() {
			e.since = was.since
		}
	}
	if e.wants && e.since.IsZero() {
		e.since = q.now().UTC().Truncate(time.Microsecond)
	}
	if was != e {
		q.entries[e.at] = e
		q.settle(q.policy(e.at.Namespace).name())
	}
	e = q.entries[e.at]
	if t, ok := q.turns[e.uid]; ok && e.waits() {
		t.Since = e.since
		return &t
	}
	return nil
}

// drop forgets an environment that is gone.
func (q *queue) drop(at client.ObjectKey) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e, ok := q.entries[at]; ok {
		delete(q.entries, at)
		delete(q.turns, e.uid)
		q.settle(q.policy(at.Namespace).name())
	}
}

// again looks at all lines: policies have changed.
func (q *queue) again() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.settle()
}

// settle gives places to those whose turn it is under some policies, or under each, and has those looked at for whom something changed.
func (q *queue) settle(only ...string) {
	if !q.filled {
		return
	}
	by, policies := map[string][]entry{}, map[string]rules{}
	homes := map[string]rules{}
	for _, e := range q.entries {
		r, ok := homes[e.at.Namespace]
		if !ok {
			r = q.policy(e.at.Namespace)
			homes[e.at.Namespace] = r
		}
		if len(only) == 0 || slices.Contains(only, r.name()) {
			by[r.name()], policies[r.name()] = append(by[r.name()], e), r
		}
	}
	for name, entries := range by {
		admitted, turns := admit(entries, policies[name].limits(), q.now())
		for _, i := range admitted {
			e := entries[i]
			e.holds, e.held = true, e.held.larger(e.size)
			q.entries[e.at] = e
			if _, waited := q.turns[e.uid]; waited {
				q.wake(e.at, 0)
			}
		}
		for _, e := range entries {
			now, waits := turns[e.uid]
			if waits && q.turns[e.uid] != now { // the further behind, the more seldom: each step would be news for all
				q.wake(e.at, time.Duration(now.Position)*time.Second)
			}
			if delete(q.turns, e.uid); waits {
				q.turns[e.uid] = now
			}
		}
	}
}

func (r rules) name() string {
	if r.EnvironmentPolicy == nil {
		return ""
	}
	return r.Name
}

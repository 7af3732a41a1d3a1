package environment

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// anEntry is one of an owner's, in a home, that began to wait so many minutes before t0. In "ada/1@5 2c" that is 5, and it asks for 2 CPUs;
// "+" has a place, "!" is its priority.
func anEntry(t *testing.T, text string) entry {
	t.Helper()
	e := entry{at: client.ObjectKey{Namespace: "team"}, size: size{pods: 1}, wants: true, since: t0}
	words := strings.Fields(text)
	e.owner, e.at.Name, _ = strings.Cut(words[0], "/")
	e.uid = types.UID(e.at.Name)
	for _, w := range words[1:] {
		n := 0
		switch {
		case w == "+":
			e.holds = true
		case scan(w, "@%d", &n):
			e.since = t0.Add(-time.Duration(n) * time.Minute)
		case scan(w, "%dc", &n):
			e.size.cpu = int64(n) * 1000
		case scan(w, "!%d", &n):
			e.priority = int32(n)
		case strings.HasPrefix(w, "in:"):
			e.at.Namespace = w[3:]
		default:
			t.Fatalf("%q in %q", w, text)
		}
	}
	if e.holds {
		e.held = e.size
	}
	return e
}

func scan(text, format string, n *int) bool {
	_, err := fmt.Sscanf(text, format, n)
	return err == nil && fmt.Sprintf(format, *n) == text
}

func cpus(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.DecimalSI) }

func TestWhoGetsAPlace(t *testing.T) {
	for name, c := range map[string]struct {
		limits v1alpha1.PolicyLimits
		line   string // comma between entries
		in     string // who gets a place, in order
		waits  string // name: what is said
	}{
		"without limits everybody": {line: "ada/1 100c, ada/2", in: "1 2"},
		"the oldest first":         {v1alpha1.PolicyLimits{Awake: new(int32(1))}, "ada/1 @1, ada/2 @3, ada/3 @2", "2", "3: 1st in line: 1 of 1 environments are awake; 1: 2nd in line: 1 of 1 environments are awake"},
		"priority before age": {v1alpha1.PolicyLimits{Awake: new(int32(1)), MaxPriority: 5}, "ada/1 @3, ada/2 !2 @1, ada/3 !-1 @9", "2",
			"1: 1st in line: 1 of 1 environments are awake; 3: 2nd in line: 1 of 1 environments are awake"},
		"priority only as far as the policy lets it": {v1alpha1.PolicyLimits{Awake: new(int32(1))}, "ada/1 @3, ada/2 !9 @1", "1", "2: 1st in line: 1 of 1 environments are awake"},
		"owners take turns": {v1alpha1.PolicyLimits{Awake: new(int32(4))}, "ada/0 +, ada/1 @9, ada/2 @8, bob/3 @7, bob/4 @6, eve/5 @5", "3 5 1",
			"4: 1st in line: 4 of 4 environments are awake; 2: 2nd in line: 4 of 4 environments are awake"},
		"who has waited for long goes before all of that": {v1alpha1.PolicyLimits{Awake: new(int32(3)), MaxPriority: 9}, "ada/0 +, ada/1 +, ada/2 @31, bob/3 !9 @1", "2",
			"3: 1st in line: 3 of 3 environments are awake"},
		"an owner who has enough holds up nobody": {v1alpha1.PolicyLimits{Awake: new(int32(3)), AwakePerOwner: new(int32(1))}, "ada/0 +, ada/1 @9, ada/2 @8, bob/3 @1", "3",
			"1: 1st in line: 1 of 1 environments of ada are awake; 2: 2nd in line: 1 of 1 environments of ada are awake"},
		"nor does a home": {v1alpha1.PolicyLimits{AwakePerHome: new(int32(1))}, "ada/0 +, ada/1 @9, ada/2 @8 in:other", "2",
			"1: 1st in line: 1 of 1 environments of team are awake"},
		"a small one does not pass a large one that waits for CPU": {v1alpha1.PolicyLimits{CPU: cpus(4)}, "ada/0 + 2c, bob/1 3c @9, eve/2 1c @8", "",
			"1: 1st in line: 2 of 4 CPU are asked for, and it asks for 3; 2: 2nd in line: those before it wait for CPU or memory"},
		"what never fits is said to, and holds up nobody": {v1alpha1.PolicyLimits{CPU: cpus(4)}, "bob/1 5c @9, eve/2 1c @8", "2",
			"1: it asks for 5 CPU, and all environments together may have 4"},
		"none at all": {v1alpha1.PolicyLimits{Awake: new(int32(0))}, "bob/1", "", "1: 1st in line: 0 of 0 environments are awake"},
	} {
		var entries []entry
		for text := range strings.SplitSeq(c.line, ", ") {
			entries = append(entries, anEntry(t, text))
		}
		admitted, turns := admit(entries, c.limits, t0)
		var in, waits []string
		for _, i := range admitted {
			in = append(in, entries[i].at.Name)
		}
		for _, i := range order(entries, 0, nil, t0) {
			if turn, ok := turns[entries[i].uid]; ok {
				waits = append(waits, entries[i].at.Name+": "+turn.Says)
			}
		}
		if got := strings.Join(in, " "); got != c.in {
			t.Errorf("%s: %q got a place, want %q", name, got, c.in)
		}
		want := strings.Split(c.waits, "; ")
		if c.waits == "" {
			want = nil
		}
		slices.Sort(waits)
		slices.Sort(want)
		if !slices.Equal(waits, want) {
			t.Errorf("%s: waits %q, want %q", name, waits, want)
		}
	}
}

// One that grows keeps its place, and waits only for what it wants more.
func TestGrowthWaitsAsWell(t *testing.T) {
	grows := anEntry(t, "ada/1 + 1c")
	grows.size.cpu = 3000
	entries := []entry{grows, anEntry(t, "bob/2 + 2c")}
	l := v1alpha1.PolicyLimits{CPU: cpus(4), Awake: new(int32(2))}
	if admitted, turns := admit(entries, l, t0); len(admitted) != 0 || turns["1"].Says != "1st in line: 3 of 4 CPU are asked for, and it asks for 2 more" {
		t.Errorf("with 3 of 4 CPUs taken: %v, %+v", admitted, turns)
	}
	if admitted, _ := admit(entries[:1], l, t0); !slices.Equal(admitted, []int{0}) {
		t.Errorf("with 1 of 4 CPUs taken: %v", admitted)
	}
}

// Whatever comes and goes: the limits hold at every moment, nobody waits for nothing, nobody who has waited for long is passed by
// one that came later, and when some go, everybody who fits has a turn in the end.
func TestQueueStarvesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := func(name string, most int32) *int32 {
			if n := rapid.Int32Range(0, most).Draw(t, name); n > 0 {
				return &n
			}
			return nil
		}
		l := v1alpha1.PolicyLimits{Awake: limit("awake", 6), AwakePerHome: limit("home", 4), AwakePerOwner: limit("owner", 3), MaxPriority: 3}
		if n := limit("cpu", 8); n != nil {
			l.CPU = cpus(int64(*n))
		}
		now, next := t0, 0
		var entries []entry
		step := func() {
			in, _ := admit(entries, l, now)
			checkOrder(t, entries, in, l, now)
			for _, i := range in {
				entries[i].holds, entries[i].held = true, entries[i].size
			}
			checkLimits(t, entries, l)
		}
		leave := func() {
			var awake []int
			for i := range entries {
				if entries[i].holds {
					awake = append(awake, i)
				}
			}
			if len(awake) > 0 {
				i := awake[rapid.IntRange(0, len(awake)-1).Draw(t, "leaves")]
				entries = slices.Delete(entries, i, i+1)
			}
		}
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.IntRange(0, 10).Draw(t, "minutes")) * time.Minute)
			if rapid.Bool().Draw(t, "comes") {
				next++
				name := fmt.Sprint(next)
				entries = append(entries, entry{at: client.ObjectKey{Namespace: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "home"), Name: name}, uid: types.UID(name),
					owner: rapid.SampledFrom([]string{"ada", "bob", "eve"}).Draw(t, "of"), priority: rapid.Int32Range(-3, 9).Draw(t, "priority"), since: now, wants: true,
					size: size{pods: 1, cpu: rapid.Int64Range(0, 9).Draw(t, "cpus") * 1000}})
			} else {
				leave()
			}
			step()
		}
		for range 3 * next {
			leave()
			step()
		}
		for _, e := range entries {
			if e.waits() && tooLarge(&e, l) == "" {
				t.Fatalf("%s of %s never had a turn", e.at, e.owner)
			}
		}
	})
}

func checkLimits(t *rapid.T, entries []entry, l v1alpha1.PolicyLimits) {
	in := usage{owners: map[string]int32{}, homes: map[string]int32{}}
	for i := range entries {
		if entries[i].holds {
			in.add(&entries[i], 1, entries[i].held)
		}
	}
	over := func(n int32, limit *int32) bool { return limit != nil && n > *limit }
	if over(in.all, l.Awake) || l.CPU != nil && in.size.cpu > l.CPU.MilliValue() {
		t.Fatalf("more than the limit: %+v", in)
	}
	for _, n := range in.owners {
		if over(n, l.AwakePerOwner) {
			t.Fatalf("more than the limit of an owner: %+v", in)
		}
	}
	for _, n := range in.homes {
		if over(n, l.AwakePerHome) {
			t.Fatalf("more than the limit of a home: %+v", in)
		}
	}
}

// checkOrder checks that nobody was passed who has waited for long, but for a limit of an owner or a home.
func checkOrder(t *rapid.T, entries []entry, in []int, l v1alpha1.PolicyLimits, now time.Time) {
	_, turns := admit(entries, l, now)
	for i := range entries {
		e := &entries[i]
		own := strings.Contains(turns[e.uid].Says, "environments of ")
		if !e.waits() || slices.Contains(in, i) || own || turns[e.uid].Never || now.Sub(e.since) < patience {
			continue
		}
		for _, j := range in {
			if entries[j].since.After(e.since) {
				t.Fatalf("%s has waited for %s, and %s got a place, which came later", e.at, now.Sub(e.since), entries[j].at)
			}
		}
	}
}

// The queue gives a place once, in the order in which they ask, keeps it until it is given back, and wakes those who are next.
func TestQueueWakesTheNext(t *testing.T) {
	var woken []string
	p := v1alpha1.EnvironmentPolicy{Spec: v1alpha1.EnvironmentPolicySpec{Limits: &v1alpha1.PolicyLimits{Awake: new(int32(1))}}}
	p.Name = "small"
	now := t0
	q := newQueue(func(string) rules { return rules{&p} }, func() time.Time { now = now.Add(time.Second); return now }, func(at client.ObjectKey, after time.Duration) {
		if after == 0 {
			woken = append(woken, at.Name)
		}
	})
	there := anEntry(t, "ada/0 +")
	if err := q.fill(func() ([]entry, error) { return []entry{there}, nil }); err != nil {
		t.Fatal(err)
	}
	asks := func(name string) *Turn {
		e := anEntry(t, "ada/"+name)
		e.since = time.Time{}
		return q.put(e)
	}
	if turn := asks("1"); turn == nil || turn.Position != 1 || turn.Since.IsZero() {
		t.Errorf("the first: %+v", turn)
	}
	if turn := asks("2"); turn == nil || turn.Position != 2 {
		t.Errorf("the second: %+v", turn)
	}
	q.drop(there.at)
	if !slices.Equal(woken, []string{"1"}) {
		t.Errorf("woken: %v", woken)
	}
	if asks("1") != nil || asks("2") == nil {
		t.Error("the place is not the first one's")
	}
	p.Spec.Limits.Awake = new(int32(2))
	q.again()
	if asks("2") != nil {
		t.Error("another policy, and no place")
	}
	gives := anEntry(t, "ada/1")
	gives.wants = false
	q.put(gives)
	if asks("3") != nil {
		t.Error("a place was given back, and nobody has it")
	}
}

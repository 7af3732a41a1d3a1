package environment

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/source"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

func aPolicy(t *testing.T, name, spec string) v1alpha1.EnvironmentPolicy {
	t.Helper()
	p := v1alpha1.EnvironmentPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestOnePolicyHolds(t *testing.T) {
	all, labelled := aPolicy(t, "all", `{}`), aPolicy(t, "labelled", `{homes: {labels: {tier: ci}}}`)
	named, other := aPolicy(t, "named", `{homes: {names: [team]}}`), aPolicy(t, "other", `{homes: {names: [other], labels: {tier: prod}}}`)
	first := aPolicy(t, "first", `{priority: 1}`)
	ci := map[string]string{"tier": "ci"}
	for want, ps := range map[string][]v1alpha1.EnvironmentPolicy{
		"":         {other},
		"all":      {other, all},
		"labelled": {all, labelled},
		"named":    {labelled, named, all},
		"first":    {named, first, labelled},
		"a":        {aPolicy(t, "b", `{}`), aPolicy(t, "a", `{}`)},
	} {
		for range 2 {
			if got := (rules{PolicyFor(ps, "team", ci)}).name(); got != want {
				t.Errorf("%q holds, want %q", got, want)
			}
			for i, j := 0, len(ps)-1; i < j; i, j = i+1, j-1 { // in whatever order they come
				ps[i], ps[j] = ps[j], ps[i]
			}
		}
	}
}

func TestSleepWindows(t *testing.T) {
	nights := &v1alpha1.SleepSchedule{TimeZone: "Europe/Berlin", Windows: []v1alpha1.SleepWindow{
		{Days: []v1alpha1.Weekday{"Mon", "Tue", "Wed", "Thu", "Fri"}, From: "20:00", To: "07:00"}, {Days: []v1alpha1.Weekday{"Sat", "Sun"}, From: "00:00", To: "00:00"},
	}}
	for now, want := range map[string]string{ // in UTC; Berlin is an hour ahead, two in summer
		"Thu 2026-01-01 18:59": " Thu 19:00", "Thu 2026-01-01 19:00": "Thu 19:00 Fri 19:00", "Fri 2026-01-02 05:59": "Thu 19:00 Fri 19:00", "Fri 2026-01-02 06:00": " Fri 19:00",
		"Fri 2026-01-02 23:30": "Fri 23:00 Sat 23:00", "Sun 2026-01-04 22:59": "Sat 23:00 Mon 19:00", "Sun 2026-01-04 23:00": " Mon 19:00", "Wed 2026-07-01 18:30": "Wed 18:00 Thu 18:00",
	} {
		at, err := time.Parse("Mon 2006-01-02 15:04", now)
		if err != nil {
			t.Fatal(err)
		}
		began, next := window(nights, at)
		got := ""
		if !began.IsZero() {
			got = began.UTC().Format("Mon 15:04")
		}
		if got += " " + next.UTC().Format("Mon 15:04"); got != want {
			t.Errorf("%s: %q, want %q", now, got, want)
		}
	}
	nights.TimeZone = "Nowhere/None"
	if began, next := window(nights, t0); !began.IsZero() || !next.IsZero() {
		t.Error("a zone that nobody knows")
	}
}

func TestWhatAnEnvironmentAsksFor(t *testing.T) {
	object := func(text string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
			t.Fatal(err)
		}
		data, err := u.MarshalJSON() // with the numbers that the API server's have
		if err != nil {
			t.Fatal(err)
		}
		if err := u.UnmarshalJSON(data); err != nil {
			t.Fatal(err)
		}
		return u
	}
	defaults := corev1.ResourceList{"cpu": resource.MustParse("50m"), "memory": resource.MustParse("64Mi")}
	const mi = 1 << 20
	for text, want := range map[string]size{
		`{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {a: b}}`:                                                                             {},
		`{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {replicas: 3, template: {spec: {containers: [{name: a}, {name: b}]}}}}`:        {6 / 2, 300, 384 * mi, 0},
		`{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {template: {spec: {containers: [{name: a, resources: {limits: {cpu: 1}}}]}}}}`: {1, 1000, 64 * mi, 0},
		`{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: x}, spec: {replicas: 2, volumeClaimTemplates: [{spec: {resources: {requests: {storage: 1Mi}}}}],
			template: {spec: {containers: [{name: a, resources: {requests: {cpu: 250m, memory: 1Mi}}}]}}}}`: {2, 500, 2 * mi, 2 * mi},
		`{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {initContainers: [{name: i, resources: {requests: {cpu: 2}}},
			{name: s, restartPolicy: Always, resources: {requests: {cpu: 100m, memory: 1Mi}}}], containers: [{name: a, resources: {requests: {cpu: 1, memory: 1Mi}}}]}}`: {1, 2000, 64 * mi, 0},
		`{apiVersion: batch/v1, kind: CronJob, metadata: {name: x}, spec: {jobTemplate: {spec: {parallelism: 2, template: {spec: {containers: [{name: a}]}}}}}}`: {2, 100, 128 * mi, 0},
		`{apiVersion: batch/v1, kind: Job, metadata: {name: x}, spec: {template: {spec: {containers: [{name: a}]}}}}`:                                            {1, 50, 64 * mi, 0},
		`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: x}, spec: {resources: {requests: {storage: 5Mi}}}}`:                                      {0, 0, 0, 5 * mi},
		`{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {containers: nonsense}}`:                                                                         {pods: 1},
	} {
		o := object(text)
		if got := measure([]source.Component{{Objects: []*unstructured.Unstructured{o}}}, defaults, false); got != want {
			t.Errorf("%s: %+v, want %+v", text, got, want)
		}
		if got := sizeOf(want.resources()); got != want {
			t.Errorf("written down and read, %+v is %+v", want, got)
		}
		putToSleep([]source.Component{{Objects: []*unstructured.Unstructured{o}}})
		if got := measure([]source.Component{{Objects: []*unstructured.Unstructured{o}}}, defaults, true); sleeps(o.GetKind()) && got.pods != 0 {
			t.Errorf("%s asleep: %+v", text, got)
		}
	}
}

// Nothing is made for an environment that waits; a place is written down once it has one, and given back when it sleeps.
func TestNothingIsMadeBeforeItsTurn(t *testing.T) {
	w := newWorld(shop()...)
	w.Size = &size{pods: 2, cpu: 100}
	w.Wait = &Turn{Position: 3, Says: "3rd in line: 2 of 2 environments are awake", Since: t0}
	if got := strings.Join(w.passes(), " "); got != "Hold" {
		t.Errorf("steps while it waits: %s", got)
	}
	a := w.Env.Status.Admission
	if reason(w.Env) != ReasonQueued || a.At != nil || a.Position != 3 || !a.Since.Time.Equal(t0) || !inLine(w.Env) || w.Namespace != nil {
		t.Errorf("%s, %+v", reason(w.Env), a)
	}
	if s, ok := measured(w.Env); !ok || s != *w.Size {
		t.Errorf("measured: %+v, %t", s, ok)
	}
	w.Wait, w.Now = nil, w.Now.Add(30*time.Minute)
	w.passes()
	a = w.Env.Status.Admission
	if reason(w.Env) != ReasonReady || a.At == nil || a.Position != 0 || a.Since != nil || !holds(w.Env) {
		t.Errorf("%s, %+v", reason(w.Env), a)
	}
	if e := entryOf(w.Env, w.Size); !e.holds || !e.wants || e.waits() || e.held != *w.Size {
		t.Errorf("entry: %+v", e)
	}
	// A change that wants more waits, and what was before runs on.
	first := w.Env.Status.Revisions
	w.Env.Spec.Blueprint, w.Size, w.Wait = "pr-1-111111111111", &size{pods: 2, cpu: 900}, &Turn{Position: 1, Says: "1st in line: …"}
	w.passes()
	if st := w.Env.Status; reason(w.Env) != ReasonQueued || st.Revisions.Ready != first.Ready || st.Replicas != 1 || !holds(w.Env) || sizeOf(st.Admission.Requests).cpu != 100 {
		t.Errorf("growing: %s, %+v", reason(w.Env), st)
	}
	w.Domain, w.Env.Spec.SleepAfter = "env.test", &metav1.Duration{Duration: time.Minute}
	w.Now = w.Now.Add(2 * time.Minute)
	if got := w.pass(); got != "Sleep" {
		t.Errorf("growing, and nobody asks for it: %q", got)
	}
	w.Domain, w.Env.Spec.SleepAfter, w.Wait = "", nil, nil
	w.passes()
	if st := w.Env.Status; reason(w.Env) != ReasonReady || sizeOf(st.Admission.Requests).cpu != 900 {
		t.Errorf("grown: %s, %+v", reason(w.Env), st.Admission)
	}
	w.Env.Spec.Replicas, w.Size = new(int32(0)), &size{}
	w.content = shop()
	putToSleep(w.content)
	if e := entryOf(w.Env, w.Size); !e.holds || e.wants {
		t.Errorf("entry while it falls asleep: %+v", e)
	}
	w.passes()
	if reason(w.Env) != ReasonAsleep || holds(w.Env) {
		t.Errorf("asleep: %s, %+v", reason(w.Env), w.Env.Status.Admission)
	}
	// Woken while all places are taken, it stays asleep.
	w.Env.Spec.Replicas, w.Size, w.Wait, w.content = nil, &size{pods: 2, cpu: 100}, &Turn{Position: 1, Says: "1st in line: …"}, shop()
	w.passes()
	if n, _, _ := unstructured.NestedInt64(w.Live[key{"apps", "Deployment", "stock"}].Object, "spec", "replicas"); n != 0 || reason(w.Env) != ReasonQueued || holds(w.Env) {
		t.Errorf("woken in vain: %s with %d replicas", reason(w.Env), n)
	}
}

// What was there before there were places has one; an update from before dayfly knew of them asks for nothing anew.
func TestWhatRunsHasAPlace(t *testing.T) {
	w := newWorld(shop()...)
	w.passes()
	w.Env.Status.Admission = nil
	if !holds(w.Env) {
		t.Error("it runs and has no place")
	}
	if e := entryOf(w.Env, &size{cpu: 500}); !e.holds || e.held.cpu != 500 || e.waits() {
		t.Errorf("it is to wait for what it has: %+v", e)
	}
	w.passes()
	if !holds(w.Env) || w.Env.Status.Admission == nil {
		t.Errorf("%+v", w.Env.Status.Admission)
	}
}

func TestWhenAnEnvironmentEnds(t *testing.T) {
	later := func(d time.Duration) *metav1.Time { return new(metav1.NewTime(t0.Add(d))) }
	for name, c := range map[string]struct {
		change func(*v1alpha1.Environment)
		policy string
		after  time.Duration
		ends   time.Duration // after t0; 0: never
		soon   bool
	}{
		"as it says":                    {ends: time.Hour},
		"said to be soon":               {after: 46 * time.Minute, ends: time.Hour, soon: true},
		"without a time of its own":     {change: func(e *v1alpha1.Environment) { e.Spec.TTL.Duration = 0 }, ends: 8 * time.Hour},
		"as the policy says":            {change: func(e *v1alpha1.Environment) { e.Spec.TTL.Duration = 0 }, policy: `{lifetime: {ttl: 3h}}`, ends: 3 * time.Hour},
		"no later than the policy says": {policy: `{lifetime: {maxTTL: 30m, warnBefore: 20m}}`, after: 11 * time.Minute, ends: 30 * time.Minute, soon: true},
		"from the last change": {change: func(e *v1alpha1.Environment) {
			e.Spec.TTLFrom, e.Status.ChangedAt = v1alpha1.TTLFromRevision, later(time.Hour)
			e.Status.Revisions.Requested, e.Status.RequestedAt = RevisionOf(&e.Spec), later(0)
		}, ends: 2 * time.Hour},
		"from the last request": {change: func(e *v1alpha1.Environment) {
			e.Spec.TTLFrom, e.Status.LastRequest = v1alpha1.TTLFromActivity, later(90*time.Minute)
		}, ends: 150 * time.Minute},
		"pinned":                 {change: func(e *v1alpha1.Environment) { e.Spec.Pinned = true }, after: 900 * time.Hour},
		"pinned, and refused":    {change: func(e *v1alpha1.Environment) { e.Spec.Pinned = true }, policy: `{lifetime: {maxTTL: 40m}}`, ends: 40 * time.Minute},
		"pinned, and allowed":    {change: func(e *v1alpha1.Environment) { e.Spec.Pinned = true }, policy: `{lifetime: {maxTTL: 40m, allowPin: true}}`},
		"unpinned after its end": {change: func(e *v1alpha1.Environment) { e.Status.ObservedGeneration = 1 }, after: 5 * time.Hour, ends: 6 * time.Hour},
	} {
		w := newWorld(shop()...)
		w.Now = t0.Add(c.after)
		if c.change != nil {
			c.change(w.Env)
		}
		if c.policy != "" {
			p := aPolicy(t, "small", c.policy)
			w.Policy = &p
		}
		w.pass()
		got := time.Duration(0)
		if at := w.Env.Status.ExpiresAt; at != nil {
			got = at.Sub(t0)
		}
		soon := meta.IsStatusConditionTrue(w.Env.Status.Conditions, v1alpha1.ConditionExpiresSoon)
		if got != c.ends || soon != c.soon {
			t.Errorf("%s: ends %s after it was made, soon: %t", name, got, soon)
		}
	}
}

// By the clock falls asleep what was awake before the window and is not used; who wakes it meanwhile has it.
func TestSleepsByTheClock(t *testing.T) {
	p := aPolicy(t, "nights", `{lifetime: {ttl: 500h, sleep: {timeZone: UTC, windows: [{from: "20:00", to: "06:00"}]}}}`)
	evening := time.Date(t0.Year(), t0.Month(), t0.Day(), 20, 0, 0, 0, time.UTC)
	w := newWorld(shop()...)
	w.Policy, w.Env.Spec.TTL.Duration = &p, 0
	w.passes()
	for _, c := range []struct {
		now   time.Time
		asked time.Duration // before that; 0: never
		steps string
	}{
		{evening.Add(-time.Second), 0, ""}, {evening.Add(time.Minute), time.Minute, ""}, {evening.Add(20 * time.Minute), 4 * time.Minute, ""},
		{evening.Add(20 * time.Minute), 6 * time.Minute, "Sleep"}, {evening, 0, "Sleep"}, {evening.Add(9 * time.Hour), 0, "Sleep"}, {evening.Add(11 * time.Hour), 0, ""},
	} {
		w.Now, w.Env.Status.LastRequest = c.now, nil
		if c.asked > 0 {
			w.Env.Status.LastRequest = new(metav1.NewTime(c.now.Add(-c.asked)))
		}
		if got := w.pass(); got != c.steps {
			t.Errorf("at %s, asked %s before: %q, want %q", c.now.Format("15:04"), c.asked, got, c.steps)
		}
	}
	w.Now, w.Env.Spec.Pinned = evening, true
	if got := w.pass(); got != "" {
		t.Errorf("pinned: %s", got)
	}
	w.Env.Spec.Pinned = false
	w.Now = evening.Add(time.Hour)
	w.Env.Status.RequestedAt = new(metav1.NewTime(evening.Add(10 * time.Minute))) // woken
	if got := w.pass(); got != "" {
		t.Errorf("woken in the window: %s", got)
	}
}

// The cost is what was requested, for as long as it was; nothing is written between changes.
func TestCost(t *testing.T) {
	p := aPolicy(t, "prices", `{prices: {currency: EUR, cpuHour: "0.1", memoryGiBHour: "0.01", storageGiBMonth: "0.73"}}`)
	w := newWorld(shop()...)
	w.Policy, w.Size, w.Env.Spec.TTL.Duration = &p, &size{pods: 2, cpu: 2000, memory: 4 << 30, storage: 10 << 30}, 100*time.Hour
	w.passes()
	c := *w.Env.Status.Cost
	if c.PerHour != "0.250000" || c.Amount != "0.000000" {
		t.Fatalf("awake: %+v", c)
	}
	w.Now = w.Now.Add(10 * time.Hour)
	w.pass()
	if *w.Env.Status.Cost != c {
		t.Errorf("written without need: %+v", w.Env.Status.Cost)
	}
	if got := CostAt(&c, w.Now); got != "2.500000" {
		t.Errorf("after 10 hours: %s", got)
	}
	w.Env.Spec.Replicas, w.Size = new(int32(0)), &size{}
	w.content = shop()
	putToSleep(w.content)
	w.passes()
	if c := w.Env.Status.Cost; c.PerHour != "0.010000" || c.Amount != "2.500000" {
		t.Errorf("asleep, with its claims: %+v", c)
	}
	w.Policy, w.Now = nil, w.Now.Add(100*time.Hour)
	w.pass()
	if c := w.Env.Status.Cost; c.PerHour != "0.000000" || c.Amount != "3.500000" {
		t.Errorf("without prices: %+v", c)
	}
}

// A policy changes the guards that it names, and no others; never below Pod Security's baseline.
func TestGuardsAsThePolicySays(t *testing.T) {
	g := *aPolicy(t, "x", `{guards: {quota: {pods: "5"}, podSecurity: restricted, defaults: {limits: {memory: 1Gi}},
		egress: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16], ports: [{port: 5432}]}, {namespaces: {kind: db}, ports: [{port: 53, protocol: UDP}]}]}}`).Spec.Guards
	e := anEnvironment()
	ns := namespaceFor(e, g, "dayfly-system")
	if ns.Labels[labelEnforce] != "restricted" || namespaceFor(e, v1alpha1.PolicyGuards{}, "dayfly-system").Labels[labelEnforce] != "baseline" {
		t.Errorf("labels: %v", ns.Labels)
	}
	if guarded(ns, v1alpha1.PolicyGuards{}, "dayfly-system") || !guarded(ns, g, "dayfly-system") {
		t.Error("the hash does not tell guards apart")
	}
	made := map[string]any{}
	for _, o := range guards(e, g, "dayfly-system") {
		data, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		made[strings.TrimPrefix(fmt.Sprintf("%T", o), "*v1.")] = string(data)
	}
	for kind, wants := range map[string][]string{
		"ResourceQuota": {`pods: "5"`, `requests.cpu: "4"`, `services.loadbalancers: "0"`},
		"LimitRange":    {"memory: 1Gi", "cpu: 50m", "memory: 64Mi"},
		"NetworkPolicy": {"cidr: 10.0.0.0/8", "- 10.1.0.0/16", "port: 5432", "kind: db", "protocol: UDP", "kubernetes.io/metadata.name: kube-system"},
	} {
		for _, want := range wants {
			if text, _ := made[kind].(string); !strings.Contains(text, want) {
				t.Errorf("%s lacks %s:\n%s", kind, want, text)
			}
		}
	}
	if quota["pods"] != resource.MustParse("50") {
		t.Error("the policy changed what holds without it")
	}
}

// A policy that Kubernetes does not take keeps new environments waiting, with the reason, and those that are there go on.
func TestPolicyThatCannotBeFollowed(t *testing.T) {
	p := aPolicy(t, "odd", `{guards: {quota: {nonsense: "1"}}}`)
	w := newWorld(shop()...)
	w.Policy = &p
	for range 2 {
		w.pass()
	}
	w.Refused[guardsKey] = refusal{why: "spec.hard[nonsense]: Invalid value", when: w.Now}
	if got := w.passes(); len(got) > 0 || reason(w.Env) != ReasonInvalid || !strings.Contains(w.Env.Status.Conditions[0].Message, "policy odd cannot be followed: spec.hard[nonsense]") {
		t.Errorf("%v, %+v", got, w.Env.Status.Conditions)
	}
	w.Now = w.Now.Add(retryRefused)
	if got := w.pass(); got != "Guard" {
		t.Errorf("later: %q", got)
	}
	w.passes()
	w.Outdated, w.Refused[guardsKey] = true, refusal{why: "no", when: w.Now}
	if got := w.pass(); got != "" || reason(w.Env) != ReasonReady {
		t.Errorf("one that is there: %q, %s", got, reason(w.Env))
	}
	w.Now = w.Now.Add(retryRefused)
	if got := w.pass(); got != "Guard" {
		t.Errorf("tried again: %q", got)
	}
	w.Refused[guardsKey], w.Guards = refusal{why: "no", when: w.Now}, "another"
	if got := w.pass(); got != "Guard" {
		t.Errorf("the policy has changed: %q", got)
	}
}

// Numbers that are not to be believed give nobody more than there is, nor take it from anybody.
func TestSizesStayNumbers(t *testing.T) {
	t.Parallel()
	workload := func(replicas int64, requests map[string]any) *unstructured.Unstructured {
		u := anObject("apps/v1", "Deployment", "web")
		_ = unstructured.SetNestedField(u.Object, replicas, "spec", "replicas")
		_ = unstructured.SetNestedSlice(u.Object, []any{map[string]any{"name": "a", "resources": map[string]any{"requests": requests}}}, "spec", "template", "spec", "containers")
		return u
	}
	claim := anObject("v1", "PersistentVolumeClaim", "disk")
	_ = unstructured.SetNestedField(claim.Object, "-5Ti", "spec", "resources", "requests", "storage")
	for name, c := range map[string]struct {
		object *unstructured.Unstructured
		want   size
	}{
		"memory":   {workload(3, map[string]any{"cpu": "1", "memory": "4Ei"}), size{pods: 3, cpu: 3000, memory: mostAsked}},
		"replicas": {workload(1<<31-1, map[string]any{"cpu": "5000000", "memory": "1"}), size{pods: 1<<31 - 1, cpu: mostAsked, memory: 1<<31 - 1}},
		"negative": {workload(1, map[string]any{"cpu": "-1", "memory": "-1Gi"}), size{pods: 1}},
		"a claim":  {claim, size{}},
	} {
		if got := sizeOfObject(c.object, nil); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	all := size{mostAsked, mostAsked, mostAsked, mostAsked}
	if got := all.plus(all, 1); got != all {
		t.Errorf("a sum: %+v", got)
	}
	if got := all.within(quota); got != (size{50, 4000, 8 << 30, 50 << 30}) {
		t.Errorf("what its quota lets be there: %+v", got)
	}
	whole := anObject("v1", "Pod", "p")
	_ = unstructured.SetNestedStringMap(whole.Object, map[string]string{"cpu": "3", "memory": "1Gi"}, "spec", "resources", "requests")
	_ = unstructured.SetNestedSlice(whole.Object, []any{map[string]any{"name": "a"}}, "spec", "containers")
	if got := sizeOfObject(whole, requests); got != (size{pods: 1, cpu: 3000, memory: 1 << 30}) {
		t.Errorf("a pod that asks as a whole: %+v", got)
	}
}

// What cannot be read of an environment does not keep it from ending.
func TestAnEnvironmentIsOverByTheClock(t *testing.T) {
	t.Parallel()
	o := &Observed{Now: t0.Add(59 * time.Minute), Env: anEnvironment()}
	if over(o) {
		t.Error("it has a minute left")
	}
	o.Now = t0.Add(time.Hour)
	if !over(o) {
		t.Error("its hour is over")
	}
	if _, ok := Decide(o).Step.(Expire); !ok {
		t.Errorf("nothing is known of it but its time: %T", Decide(o).Step)
	}
	o.Env.DeletionTimestamp = new(metav1.NewTime(t0))
	if over(o) {
		t.Error("it is ending already: how, is to be looked at")
	}
}

package session

import (
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestTheNewestSessionsBeyondTheBoundsAreRefused(t *testing.T) {
	web := func(i int) v1alpha1.Intercept {
		return v1alpha1.Intercept{Service: "web", Port: 80, LaptopPort: int32(3000 + i)}
	}
	named := func(name, owner string, age time.Duration) v1alpha1.Session {
		s := session(name, -age, web(0))
		s.Spec.Owner.Username = owner
		return s
	}
	three := []v1alpha1.Session{named("c", "ada", time.Minute), named("a", "ada", 3*time.Minute), named("b", "bob", 2*time.Minute)}
	closing := named("z", "ada", time.Hour)
	closing.DeletionTimestamp = &three[0].CreationTimestamp
	for _, c := range []struct {
		why      string
		bounds   Bounds
		sessions []v1alpha1.Session
		refused  string // names
		says     string
	}{
		{"without bounds all stand", Bounds{}, three, "", ""},
		{"the newest of the namespace goes", Bounds{Namespace: 2}, three, "c", "namespace shop holds 2 sessions already, and may hold 2"},
		{"the newest of its owner goes", Bounds{Owner: 1}, three, "c", "ada has 1 sessions in namespace shop already, and may have 1"},
		{"what is refused for its owner takes no place of others", Bounds{Namespace: 2, Owner: 1}, three, "c", "ada has 1"},
		{"what is closing takes no place", Bounds{Namespace: 3}, append(three, closing), "", ""},
		{"exactly as many as may be", Bounds{Namespace: 3, Owner: 2}, three, "", ""},
	} {
		o := connect(world(c.sessions...))
		o.Bounds = c.bounds
		plan := Decide(o)
		var refused []string
		for i := range o.Sessions {
			s := &o.Sessions[i]
			v := plan.Sessions[ID(s)]
			if len(v.Intercepts) == 1 && v.Intercepts[0].Reason == ReasonTooMany {
				refused = append(refused, s.Name)
				if !strings.Contains(v.Intercepts[0].Message, c.says) || v.TooMany == "" {
					t.Errorf("%s: %s says %q, want %q", c.why, s.Name, v.Intercepts[0].Message, c.says)
				}
			}
		}
		if got := strings.Join(refused, " "); got != c.refused {
			t.Errorf("%s: refused %q, want %q", c.why, got, c.refused)
		}
	}
}

// A session that is one too many alters nothing, and the routers do not know its laptop.
func TestASessionTooManyAltersNothing(t *testing.T) {
	old := session("old", 0, v1alpha1.Intercept{Service: "other", Port: 80, LaptopPort: 1})
	o := connect(world(old, session("new", time.Minute, wantWeb)))
	o.Bounds = Bounds{Namespace: 1}
	plan := Decide(o)
	if got := steps(plan); got != "" {
		t.Errorf("steps: %s", got)
	}
	for i := range o.Sessions {
		o.Sessions[i].Status.Conditions = conditions(&o.Sessions[i], plan.Sessions[ID(&o.Sessions[i])])
	}
	if _, laptops := Compile(nil, o.Sessions); len(laptops) != 1 || laptops[0].Name != "shop/old" {
		t.Errorf("laptops: %+v", laptops)
	}
}

// The label of a namespace refuses what is new and ends what is in force.
func TestAClosedNamespaceIsLetGo(t *testing.T) {
	o := connect(world(session("ada", 0, wantWeb)))
	a := record(o)
	listen(o)
	a.Status.Ports = []v1alpha1.PortStatus{{Port: 80}}
	origin := originService(a, o.Services["web"])
	o.Services[origin.Name] = origin
	o.Services["web"].Spec.Ports[0].TargetPort = intstr.FromString("dayfly-x")
	o.NamespaceLabels = map[string]string{v1alpha1.LabelIntercept: v1alpha1.InterceptDisabled}
	plan := Decide(o)
	if got := steps(plan); got != "service web port 80: targetPort dayfly-x to 8080" {
		t.Errorf("steps: %s", got)
	}
	got := plan.Sessions["ada-uid"].Intercepts[0]
	if got.Reason != "NamespaceClosed" || !strings.Contains(got.Message, "label dayfly.dev/intercept=disabled: whoever may update the namespace") {
		t.Errorf("%+v", got)
	}
	o.NamespaceLabels[v1alpha1.LabelIntercept] = "enabled"
	if got := Decide(o).Sessions["ada-uid"].Intercepts[0]; got.State == v1alpha1.StateRefused {
		t.Errorf("with another value: %+v", got)
	}
}

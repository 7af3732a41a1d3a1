package session

import (
	"testing"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/intercept"
	"github.com/google/go-cmp/cmp"
)

// A rule for a server name reaches the routers as one, is told as one, and is held by one session only.
func TestServerNameIsARuleLikeAnyOther(t *testing.T) {
	t.Parallel()
	want := v1alpha1.Intercept{Service: "web", Port: 80, LaptopPort: 8443, Rule: &v1alpha1.Rule{SNI: "pr-7.example.test"}}
	ada := session("ada", 0, want)
	if diff := cmp.Diff(intercept.Match{SNI: "pr-7.example.test"}, routeOf(&ada, want).Match); diff != "" {
		t.Errorf("route (-want +got):\n%s", diff)
	}
	if got := RuleShown("ada", want); got != "sni: pr-7.example.test" {
		t.Errorf("told as %q", got)
	}
	o := connect(world(ada, session("bob", 1, want)))
	if st := Decide(o).Sessions["bob-uid"].Intercepts[0]; st.Reason != "Conflict" {
		t.Errorf("the second of two equal rules is %s %s", st.State, st.Reason)
	}
}

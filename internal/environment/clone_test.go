package environment

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/source"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// clone is done at once, unless it is known already that it fails.
func (w *world) clone(c v1alpha1.DatabaseClone) {
	if w.Clones[c.Name].err != nil {
		return
	}
	if w.server == nil {
		w.server = map[string]string{}
	}
	s := cloning{server: "db:5432", class: w.class}
	if c.Server != "" {
		password := fmt.Sprint("secret-", len(w.server))
		w.server[c.Name], s.login = password, map[string]string{"PGPASSWORD": password}
	}
	w.Clones[c.Name] = s
}

func (w *world) drop(c v1alpha1.DatabaseClone) {
	if w.Clones[c.Name].err != nil {
		return
	}
	delete(w.server, c.Name)
	w.Clones[c.Name] = cloning{drop: true, dropped: true}
}

func cloneOf(database string) *unstructured.Unstructured {
	u := anObject("v1", "Secret", "db")
	u.SetAnnotations(map[string]string{source.CloneKey: `{"database":"` + database + `","secret":"goldens"}`})
	return u
}

func withClone() *world {
	w := newWorld(
		source.Component{Name: "db", Data: source.Synthetic, Objects: []*unstructured.Unstructured{cloneOf("shop"), aStep(source.Migrate)}},
		source.Component{Name: "orders", Needs: []string{"db"}, Objects: []*unstructured.Unstructured{anObject("apps/v1", "Deployment", "orders")}},
	)
	w.Clones, w.class = map[string]cloning{}, source.Synthetic
	w.Env.Spec.DataSecrets = []string{"goldens"}
	return w
}

func (w *world) databases() (out []string) {
	for _, c := range w.Env.Status.Clones {
		out = append(out, c.Of)
	}
	return out
}

// A database is written down before it is begun, what needs it waits for it, and it is gone before the environment is.
func TestClonesAreWrittenDownAndTakenAway(t *testing.T) {
	t.Parallel()
	w := withClone()
	for range 20 {
		step := w.pass()
		if len(w.server) > 0 && (len(w.Env.Status.Clones) == 0 || w.Env.Status.Clones[0].Server == "") {
			t.Fatal("a database is made that is not written down, or not where")
		}
		if step == "" {
			break
		}
	}
	if w.Live[key{"apps", "Deployment", "orders"}] != nil {
		t.Error("orders is started before its data are migrated")
	}
	w.expect(t, "at first", source.Migrate)
	secret := w.Live[key{"", "Secret", "db"}]
	if data, _, _ := unstructured.NestedStringMap(secret.Object, "data"); data["PGPASSWORD"] != "c2VjcmV0LTA=" {
		t.Errorf("the Secret holds %v", data)
	}
	if c := w.Env.Status.Clones[0]; c.Server != "db:5432" || c.Class != source.Synthetic || !strings.HasPrefix(c.Name, "env_team_pr_1_") {
		t.Errorf("its database is written down as %+v", c)
	}

	w.Env.DeletionTimestamp = new(metav1.NewTime(w.Now))
	for len(w.Env.Finalizers) > 0 {
		if w.pass() == "Release" && len(w.server) > 0 {
			t.Fatal("it is gone, and its database is not")
		}
	}
}

// A controller that knows nothing but the cluster goes on where another has stopped, after any of its passes.
func TestClonesGoOnAfterAnyPass(t *testing.T) {
	t.Parallel()
	for k := 2; k <= 12; k++ { // what is known for no pass at all is of no use
		w := withClone()
		for n := 1; reason2(w.Env) != ReasonReady; n++ {
			if n > 60 {
				t.Fatalf("k=%d: it is %s", k, reason(w.Env))
			}
			w.pass()
			if n%k == 0 {
				w.Clones = map[string]cloning{}
			}
			if job := w.Live[key{"batch", "Job", source.Migrate}]; job != nil && !complete(job) {
				job.Object["status"] = map[string]any{"succeeded": int64(1), "conditions": []any{map[string]any{"type": "Complete", "status": "True"}}}
			}
		}
		if n := len(w.server); n != 1 {
			t.Errorf("k=%d: there are %d databases", k, n)
		}
	}
}

func reason2(e *v1alpha1.Environment) string {
	if len(e.Status.Conditions) == 0 {
		return ""
	}
	return reason(e)
}

// Another database is another clone; the one before goes once the new revision is ready.
func TestAnotherCloneTakesThePlaceOfTheOneBefore(t *testing.T) {
	t.Parallel()
	w := withClone()
	w.expect(t, "at first", source.Migrate)
	w.content[0].Objects[0] = cloneOf("shop-2")
	w.Env.Spec.Components = []v1alpha1.ComponentSpec{{Name: "orders", Image: "v2"}}
	w.expect(t, "with another database", source.Migrate)
	if got := w.databases(); !slices.Equal(got, []string{"shop-2"}) || len(w.server) != 1 {
		t.Errorf("its databases are copies of %v, and there are %d", got, len(w.server))
	}
}

// What is lost, or changed by hand, is made good.
func TestTheSecretOfACloneIsMadeAgain(t *testing.T) {
	t.Parallel()
	w := withClone()
	w.expect(t, "at first", source.Migrate)
	w.Clones = map[string]cloning{}
	delete(w.Live, key{"", "Secret", "db"})
	w.expect(t, "without its Secret")
	if w.Live[key{"", "Secret", "db"}] == nil || len(w.server) != 1 {
		t.Error("it has no Secret, or another database")
	}
}

// Nothing is made with a Secret that the environment does not name, and what fails is told, at its end as well.
func TestClonesThatFailAreTold(t *testing.T) {
	t.Parallel()
	w := withClone()
	w.Env.Spec.DataSecrets = nil
	if got := w.passes(); slices.Contains(got, "Clone") || len(w.Env.Status.Clones) > 0 {
		t.Errorf("it did %v", got)
	}
	if says := w.Env.Status.Components[0].Message; !strings.Contains(says, "dayfly env update pr-1 --data-secret goldens") {
		t.Errorf("it says %q", says)
	}
	name := cloneFor(w.Env, "db", &source.Clone{Database: "shop", Secret: "goldens"}).Name
	w.Env.Spec.DataSecrets = []string{"goldens"}
	w.Clones[name] = cloning{err: errors.New("nobody answers"), again: w.Now.Add(5)}
	w.passes()
	if c := w.Env.Status.Components[0]; c.State != v1alpha1.ComponentFailing || c.Message != "cloning database shop: nobody answers" {
		t.Errorf("it says %+v", c)
	}
	delete(w.Clones, name)
	w.expect(t, "once somebody answers", source.Migrate)

	w.Env.DeletionTimestamp = new(metav1.NewTime(w.Now))
	w.Clones[name] = cloning{drop: true, err: errors.New("nobody answers"), again: w.Now.Add(5)}
	w.passes()
	if b := w.Env.Status.Blocked; len(b) != 1 || b[0].Object != "database "+name+" on db:5432: nobody answers" || len(w.Env.Finalizers) == 0 {
		t.Errorf("its end is held up by %+v", b)
	}
	delete(w.Clones, name)
	if w.passes(); len(w.Env.Finalizers) > 0 || len(w.server) > 0 {
		t.Errorf("it is not gone, or its database is not")
	}
}

// What was never let in by a server has left nothing there, and holds up no end.
func TestACloneThatNeverBeganHoldsUpNothing(t *testing.T) {
	t.Parallel()
	w := withClone()
	w.Clones[cloneFor(w.Env, "db", &source.Clone{Database: "shop", Secret: "goldens"}).Name] = cloning{err: errors.New("there is no Secret goldens")}
	w.passes()
	if len(w.Env.Status.Clones) != 1 {
		t.Fatalf("it is not tried: %+v", w.Env.Status.Clones)
	}
	w.Env.DeletionTimestamp = new(metav1.NewTime(w.Now))
	if w.passes(); len(w.Env.Finalizers) > 0 {
		t.Errorf("its end is held up: %+v", w.Env.Status.Blocked)
	}
}

// A clone is what its server says of it, whatever dayfly.yaml says, and personal as long as nobody knows.
func TestTheClassOfACloneIsThatOfItsServer(t *testing.T) {
	t.Parallel()
	w := withClone()
	w.class, w.Env.Spec.Public = source.Personal, true
	for range 20 {
		if w.pass(); w.Env.Status.Public {
			t.Fatal("personal data are public")
		}
	}
	w.expect(t, "at first", source.Migrate)
	if w.Env.Public() || w.Env.Status.Components[0].Data != source.Personal {
		t.Errorf("personal data are public, or called %s", w.Env.Status.Components[0].Data)
	}
	w.content[0].Objects = append(w.content[0].Objects, aStep(source.Mask))
	w.content[0].Data = source.Masked
	w.Env.Spec.Components = []v1alpha1.ComponentSpec{{Name: "orders", Image: "v2"}}
	w.expect(t, "masked", source.Mask, source.Migrate)
	if !w.Env.Public() {
		t.Error("masked data are not public")
	}
}

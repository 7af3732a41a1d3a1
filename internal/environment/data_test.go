package environment

import (
	"slices"
	"testing"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/source"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

func aStep(name string) *unstructured.Unstructured {
	u := anObject("batch/v1", "Job", name)
	u.SetAnnotations(map[string]string{source.StepKey: name})
	_ = unstructured.SetNestedField(u.Object, "v1", "spec", "template", "spec", "image")
	return u
}

// withData is an environment of a database, whose data come in three steps, and of a service that needs it.
func withData() *world {
	w := newWorld(
		source.Component{Name: "db", Data: source.Masked, Objects: []*unstructured.Unstructured{anObject("apps/v1", "Deployment", "db"), aStep(source.Seed), aStep(source.Mask), aStep(source.Migrate)}},
		source.Component{Name: "orders", Needs: []string{"db"}, Objects: []*unstructured.Unstructured{anObject("apps/v1", "Deployment", "orders")}},
	)
	w.databasePod("p1", "")
	return w
}

// databasePod is the one pod there is of the database.
func (w *world) databasePod(uid types.UID, claim string) {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-" + string(uid), UID: uid, Labels: map[string]string{"app": "db"}}}
	if claim != "" {
		p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
	}
	w.Pods = []corev1.Pod{p}
}

// steps passes until nothing changes, has what runs come to its end, and so on. It returns the steps in the order in which they
// were begun.
func (w *world) steps(t *testing.T) []string {
	t.Helper()
	var begun []string
	for range 10 {
		w.passes()
		running := ""
		for _, name := range source.Steps {
			job := w.Live[key{"batch", "Job", name}]
			if job == nil || complete(job) {
				continue
			}
			if running != "" {
				t.Fatalf("%s and %s run at once", running, name)
			}
			running = name
			job.Object["status"] = map[string]any{"succeeded": int64(1), "conditions": []any{map[string]any{"type": "Complete", "status": "True"}}}
		}
		if running == "" {
			return begun
		}
		if reason(w.Env) == ReasonReady {
			t.Errorf("it is ready while %s runs", running)
		}
		begun = append(begun, running)
	}
	t.Fatalf("there is no end: %v", begun)
	return nil
}

func (w *world) expect(t *testing.T, when string, want ...string) {
	t.Helper()
	if got := w.steps(t); !slices.Equal(got, want) {
		t.Errorf("%s: %v was done, want %v", when, got, want)
	}
	if r := reason(w.Env); r != ReasonReady {
		t.Errorf("%s: it is %s", when, r)
	}
}

// Seeds are sown once in the life of the data, migrations follow the revision, and what needs the data waits for both.
func TestDataComeInStepsAsOftenAsTheyMust(t *testing.T) {
	t.Parallel()
	w := withData()
	w.passes()
	if w.Live[key{"apps", "Deployment", "orders"}] != nil {
		t.Error("orders is started before its data are there")
	}
	w.expect(t, "at first", source.Seed, source.Mask, source.Migrate)
	w.expect(t, "looked at again")

	seed := w.content[0].Objects[1]
	_ = unstructured.SetNestedField(seed.Object, "v2", "spec", "template", "spec", "image")
	w.Env.Spec.Components = []v1alpha1.ComponentSpec{{Name: "orders", Image: "v2"}}
	w.expect(t, "with another revision", source.Migrate)

	w.databasePod("p2", "")
	w.expect(t, "when the pod that held the data is another", source.Seed, source.Mask, source.Migrate)

	delete(w.Live, key{"batch", "Job", source.Seed})
	w.passes()
	if e := exposed(&w.Observed, parts(&w.Observed)); e != "db" {
		t.Errorf("what is sown anew is not masked yet, and exposed is %q", e)
	}
	w.expect(t, "when its job is deleted", source.Seed, source.Mask, source.Migrate)
}

// What was personal stays so whatever a later revision says, until it is masked where it is.
func TestPersonalDataStayPersonal(t *testing.T) {
	t.Parallel()
	w := newWorld(source.Component{Name: "db", Data: source.Personal, Objects: []*unstructured.Unstructured{anObject("apps/v1", "Deployment", "db"), aStep(source.Seed)}})
	w.databasePod("p1", "")
	w.expect(t, "at first", source.Seed)
	check := func(want, when string) {
		t.Helper()
		if got := exposed(&w.Observed, parts(&w.Observed)); got != want {
			t.Errorf("%s: exposed is %q, want %q", when, got, want)
		}
	}
	revise := func(image string, c source.Component) {
		w.content[0] = c
		w.Env.Spec.Components = []v1alpha1.ComponentSpec{{Name: "db", Image: image}}
	}
	check("db", "at first")
	revise("v2", source.Component{Name: "db", Data: source.Synthetic, Objects: []*unstructured.Unstructured{anObject("apps/v1", "Deployment", "db")}})
	w.expect(t, "called synthetic")
	check("db", "called synthetic")
	revise("v3", source.Component{Name: "db", Data: source.Masked, Objects: []*unstructured.Unstructured{anObject("apps/v1", "Deployment", "db"), aStep(source.Mask)}})
	w.passes()
	check("db", "while it is masked")
	if got := w.Env.Status.Components[0].Data; got != source.Personal {
		t.Errorf("while it is masked it is called %s", got)
	}
	w.expect(t, "masked", source.Mask)
	check("", "masked")
	revise("v4", source.Component{Name: "db", Data: source.Synthetic, Objects: []*unstructured.Unstructured{anObject("apps/v1", "Deployment", "db")}})
	w.expect(t, "called synthetic, after it was masked")
	check("", "called synthetic, after it was masked")
}

// Data in a claim outlive the pod, and a sleep.
func TestDataInAClaimAreNotSeededAgain(t *testing.T) {
	t.Parallel()
	w := withData()
	claim := anObject("v1", "PersistentVolumeClaim", "disk")
	claim.SetUID("c1")
	w.Live[keyOf(claim)] = claim
	w.databasePod("p1", "disk")
	w.expect(t, "at first", source.Seed, source.Mask, source.Migrate)

	w.databasePod("p2", "disk")
	w.expect(t, "with another pod")

	w.Env.Spec.Replicas = new(int32(0))
	w.Pods = nil
	if w.passes(); reason(w.Env) != ReasonAsleep {
		t.Errorf("it is %s, and was to sleep", reason(w.Env))
	}
	w.Env.Spec.Replicas = new(int32(1))
	w.databasePod("p3", "disk")
	w.expect(t, "after a sleep")
}

// What is under way when the environment falls asleep would be found failed.
func TestAStepThatASleepInterruptsIsDoneAgain(t *testing.T) {
	t.Parallel()
	w := withData()
	w.passes()
	if job := w.Live[key{"batch", "Job", source.Seed}]; job == nil || complete(job) {
		t.Fatalf("the seed does not run: %v", job)
	}
	w.Env.Spec.Replicas = new(int32(0))
	w.passes()
	if w.Live[key{"batch", "Job", source.Seed}] != nil || reason(w.Env) != ReasonAsleep {
		t.Errorf("the seed is left, or it is not asleep but %s", reason(w.Env))
	}
	w.Env.Spec.Replicas = new(int32(1))
	w.expect(t, "awake", source.Seed, source.Mask, source.Migrate)
}

// Kubernetes changes no Job: one that differs is made anew.
func TestAJobThatHasChangedIsMadeAnew(t *testing.T) {
	t.Parallel()
	job := aStep("job")
	job.SetAnnotations(nil)
	w := newWorld(source.Component{Name: "job", Objects: []*unstructured.Unstructured{job}})
	w.passes()
	w.content[0].Objects[0] = job.DeepCopy()
	_ = unstructured.SetNestedField(w.content[0].Objects[0].Object, "v2", "spec", "template", "spec", "image")
	w.Env.Spec.Components = []v1alpha1.ComponentSpec{{Name: "job", Image: "v2"}}
	if got := w.passes(); !slices.Equal(got, []string{"Remove", "Apply"}) {
		t.Errorf("it did %v", got)
	}
	if image, _, _ := unstructured.NestedString(w.Live[key{"batch", "Job", "job"}].Object, "spec", "template", "spec", "image"); image != "v2" {
		t.Errorf("its image is %s", image)
	}
}

// What is personal is never public, and what is to be masked not before it is.
func TestPersonalDataAreNotPublic(t *testing.T) {
	t.Parallel()
	w := withData()
	w.Env.Spec.Public = true
	for range 20 {
		w.pass()
		mask := w.Live[key{"batch", "Job", source.Mask}]
		if w.Env.Status.Public && (mask == nil || !complete(mask)) {
			t.Fatal("it is public before its data are masked")
		}
	}
	w.expect(t, "at first", source.Seed, source.Mask, source.Migrate)
	if !w.Env.Public() {
		t.Error("it is not public though its data are masked")
	}
	w.content[0].Data = source.Personal
	w.content[0].Objects = slices.Delete(w.content[0].Objects, 2, 3)
	w.Env.Spec.Components = []v1alpha1.ComponentSpec{{Name: "orders", Image: "v2"}}
	w.steps(t)
	if w.Env.Public() {
		t.Error("personal data are public")
	}
}

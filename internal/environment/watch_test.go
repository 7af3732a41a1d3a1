package environment

import (
	"fmt"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// What a watch shows is left to it; of the rest, whatever becomes of it is noticed, and that nothing has is no reason to look at the whole.
func TestThePatrolLooksAtWhatNoWatchShows(t *testing.T) {
	w := newWorld(shop()...)
	w.passes()
	if b := beatOf(&w.Observed); len(b.kinds) != 3 {
		t.Errorf("what was applied by an older dayfly has no label, and is to be looked at: %+v", b)
	}
	for _, live := range w.Live {
		mark(live, w.Env)
	}
	secret := anObject("v1", "Secret", "password")
	secret.SetAnnotations(map[string]string{annotationHash: "1"})
	w.Live[keyOf(secret)] = secret
	w.Env.Status.Inventory = append(w.Env.Status.Inventory, v1alpha1.InventoryItem{APIVersion: "v1", Kind: "Secret", Name: "password"})
	b := beatOf(&w.Observed)
	settings := key{"", "ConfigMap", "settings"}
	if len(b.kinds) != 2 || b.kinds[0].Kind != "ConfigMap" || b.kinds[1].Kind != "Secret" || len(b.traces) != 2 {
		t.Fatalf("it looks at %+v", b)
	}
	for what, c := range map[string]struct {
		live *unstructured.Unstructured
		want bool
	}{
		"as it was":          {secret, false},
		"gone":               {nil, true},
		"going":              {with(secret, func(u *unstructured.Unstructured) { u.SetDeletionTimestamp(new(metav1.NewTime(t0))) }), true},
		"changed":            {with(secret, func(u *unstructured.Unstructured) { u.SetAnnotations(nil) }), true},
		"of another version": {with(secret, func(u *unstructured.Unstructured) { u.SetResourceVersion("7") }), false}, // something that is not the environment's own
	} {
		live := map[key]*unstructured.Unstructured{settings: w.Live[settings]}
		if c.live != nil {
			live[keyOf(secret)] = c.live
		}
		if got := b.changed(live); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}

// Each environment has its turn once in patrolEvery since it was looked at last, and none that is gone.
func TestThePatrolTakesTurns(t *testing.T) {
	now := t0
	p := newPatrol(nil, nil, nil, func() time.Time { return now })
	w := newWorld(shop()...)
	w.passes()
	for i := range 3 {
		p.put(client.ObjectKey{Name: fmt.Sprint(i)}, &w.Observed)
	}
	now = now.Add(patrolEvery / 2)
	p.put(client.ObjectKey{Name: "0"}, &w.Observed)
	p.drop(client.ObjectKey{Name: "1"})
	now = now.Add(patrolEvery/2 + time.Second)
	if due := p.take(); len(due) != 1 || due[0].Name != "2" {
		t.Errorf("due: %v", due)
	}
	if due := p.take(); len(due) != 0 {
		t.Errorf("due once more: %v", due)
	}
	now = now.Add(patrolEvery / 2)
	if due := p.take(); len(due) != 1 || due[0].Name != "0" {
		t.Errorf("due later: %v", due)
	}
}

// Who changes an object whenever it is put back is no reason for a loop.
func TestWhatIsChangedAgainAndAgainIsPutBackNowAndThen(t *testing.T) {
	w := newWorld(shop()...)
	w.passes()
	k := key{"apps", "Deployment", "stock"}
	for i := range w.Env.Status.Inventory {
		if itemKey(w.Env.Status.Inventory[i]) == k {
			w.Env.Status.Inventory[i].Fields = "others"
		}
	}
	w.Content = w.content
	w.PutBack = map[key]time.Time{k: w.Now.Add(-putBackAgain / 2)}
	if p := Decide(&w.Observed); p.Step != nil || len(p.Healed) != 0 || p.Recheck > putBackAgain {
		t.Errorf("it was put back a moment ago: %T, %v, again in %v", p.Step, p.Healed, p.Recheck)
	}
	w.PutBack[k] = w.Now.Add(-2 * putBackAgain)
	if _, ok := Decide(&w.Observed).Step.(Apply); !ok {
		t.Error("it is not put back")
	}
}

func with(u *unstructured.Unstructured, change func(*unstructured.Unstructured)) *unstructured.Unstructured {
	u = u.DeepCopy()
	change(u)
	return u
}

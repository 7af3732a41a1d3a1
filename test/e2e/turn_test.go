package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/environment"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// newPolicy makes a policy for a home that goes with the test.
func newPolicy(t *testing.T, home string, spec v1alpha1.EnvironmentPolicySpec) *v1alpha1.EnvironmentPolicy {
	t.Helper()
	p := &v1alpha1.EnvironmentPolicy{ObjectMeta: metav1.ObjectMeta{Name: home}, Spec: spec}
	p.Spec.Homes = &v1alpha1.PolicyHomes{Names: []string{home}}
	must(t, cluster.Create(t.Context(), p))
	t.Cleanup(func() { _ = cluster.Delete(context.Background(), p) })
	return p
}

func openTo(ns string) []v1alpha1.EgressRule {
	return []v1alpha1.EgressRule{{Namespaces: map[string]string{corev1.LabelMetadataName: ns}, Ports: []v1alpha1.EgressPort{{Port: 8080}}}}
}

// awaitState waits until an environment stands so, with a message that says this.
func awaitState(t *testing.T, home, name, state, says string) {
	t.Helper()
	await(t, promise(30*time.Second), name+" is "+state+" "+says, func() error {
		c := meta.FindStatusCondition(getEnv(t, home, name).Status.Conditions, v1alpha1.ConditionReady)
		if c == nil || c.Reason != state || !strings.Contains(c.Message, says) {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
}

// A policy lets two environments of a home be awake. Others wait for their turn, and nothing is made for them: who has fewer awake
// goes first, and one that is deleted or falls asleep makes room. What the policy opens is reached, and nothing else, also after it
// has changed.
func TestEnvironmentsWaitForTheirTurn(t *testing.T) {
	t.Parallel()
	home, ada := newHome(t)
	bobs := newUser(t, "bob")
	bind(t, home, "dayfly-environments", bobs)
	bob := newLaptop(t, home).as(bobs.kubeconfig)
	near, far := newNamespace(t), newNamespace(t)
	deployWeb(t, near, 1)
	deployWeb(t, far, 1)
	p := newPolicy(t, home, v1alpha1.EnvironmentPolicySpec{
		Limits: &v1alpha1.PolicyLimits{AwakePerHome: new(int32(2))}, Guards: &v1alpha1.PolicyGuards{Egress: openTo(near), PodSecurity: "baseline"},
		Lifetime: &v1alpha1.PolicyLifetime{MaxTTL: &metav1.Duration{Duration: 2 * time.Hour}},
		Prices:   &v1alpha1.PolicyPrices{Currency: "EUR", CPUHour: "1"},
	})
	dir := webFolder(t, "")
	for _, name := range []string{"a1", "a2"} {
		ada.dayfly("env", "create", name, "-f", dir, "--public")
	}
	waits := ada.command("env", "create", "a3", "-f", dir)
	var said strings.Builder
	waits.Stderr = &said
	must(t, waits.Start())
	awaitMade(t, home, "a3")
	awaitState(t, home, "a3", environment.ReasonQueued, "1st in line: 2 of 2 environments of "+home+" are awake")
	bob.dayfly("env", "create", "b1", "-f", dir, "--wait=false")
	awaitState(t, home, "b1", environment.ReasonQueued, "1st in line")
	awaitState(t, home, "a3", environment.ReasonQueued, "2nd in line")
	if out := bob.dayfly("env", "list"); !strings.Contains(out, "Queued (1st)") || !strings.Contains(out, "Queued (2nd)") {
		t.Errorf("list:\n%s", out)
	}
	for _, name := range []string{"a3", "b1"} {
		if err := cluster.Get(t.Context(), client.ObjectKey{Name: "env-" + home + "-" + name}, &corev1.Namespace{}); !apierrors.IsNotFound(err) {
			t.Errorf("%s waits, and there is a namespace of it: %v", name, err)
		}
	}

	lives := "env-" + home + "-a2"
	deployClient(t, lives) // past the environment's account
	reaches(t, lives, near, far)
	p.Spec.Guards.Egress = openTo(far)
	must(t, cluster.Update(t.Context(), p))
	reaches(t, lives, far, near)

	if _, says, code := ada.try("env", "pin", "a2"); code != 7 || !strings.Contains(says, "pins none") {
		t.Errorf("pin: exit code %d\n%s", code, says)
	}
	if _, says, code := ada.try("env", "extend", "a2", "--by", "1h", "--reason", "the review is late"); code != 0 || !strings.Contains(says, "policy "+home+" lets it live for no more than 2h") {
		t.Errorf("extend: exit code %d\n%s", code, says)
	}
	if out := ada.dayfly("env", "show", "a2"); !strings.Contains(out, "the review is late") || !strings.Contains(out, "EUR until now, 0.0500 an hour") {
		t.Errorf("show:\n%s", out)
	}

	ada.dayfly("env", "delete", "a1")
	awaitState(t, home, "b1", environment.ReasonReady, "")
	awaitState(t, home, "a3", environment.ReasonQueued, "1st in line")
	ada.dayfly("env", "sleep", "a2")
	if err := waits.Wait(); err != nil || !strings.Contains(said.String(), "queued: 2nd in line") || !strings.Contains(said.String(), "environment a3 is ready") {
		t.Errorf("create of one that had to wait: %v\n%s", err, &said)
	}
	v := newVisitor(t) // whose request wakes a2, for which there is no room
	at := addressOf(t, home, "a2", "web")
	await(t, promise(10*time.Second), "a page that says that it waits", func() error {
		code, body := v.get(at, "Accept", "text/html")
		if code != http.StatusServiceUnavailable || !strings.Contains(body, "this one is 1st in line") {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	var pods corev1.PodList
	must(t, cluster.List(t.Context(), &pods, client.InNamespace(lives), client.MatchingLabels{"app": "web"}))
	if len(pods.Items) > 0 {
		t.Error("it was woken though there is no room")
	}
	bob.dayfly("env", "delete", "b1")
	await(t, promise(10*time.Second), "it answers", func() error {
		if code, body := v.get(at, "Accept", "text/html"); code != http.StatusOK {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
}

func awaitMade(t *testing.T, home, name string) {
	t.Helper()
	await(t, promise(5*time.Second), "environment "+name, func() error {
		return cluster.Get(t.Context(), client.ObjectKey{Namespace: home, Name: name}, &v1alpha1.Environment{})
	})
}

// reaches waits until pods of a namespace reach the web of another one, and then not that of a third.
func reaches(t *testing.T, from, to, not string) {
	t.Helper()
	await(t, promise(10*time.Second), from+" reaches "+to, func() error {
		_, err := tryInPod(from, "get", "-timeout", "2s", "http://web."+to)
		return err
	})
	for _, url := range []string{"http://web." + not, "http://web." + to + ":9090"} { // another namespace, and a port that is not named
		if out, err := tryInPod(from, "get", "-timeout", "2s", url); err == nil {
			t.Errorf("%s reaches %s: %s", from, url, out)
		}
	}
}

// The example of a policy in the docs is one.
func TestExampleOfAPolicyIsAccepted(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile("../../docs/environments.md")
	must(t, err)
	_, text, _ := strings.Cut(string(docs), "```yaml\napiVersion: dayfly.dev/v1alpha1\nkind: EnvironmentPolicy\n")
	text, _, ok := strings.Cut(text, "```")
	if !ok {
		t.Fatal("there is none")
	}
	p := &v1alpha1.EnvironmentPolicy{}
	must(t, yaml.UnmarshalStrict([]byte(text), p))
	must(t, cluster.Create(t.Context(), p, client.DryRunAll))
}

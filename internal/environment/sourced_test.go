package environment

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/fetch"
	"dayfly.dev/dayfly/internal/usererr"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	commitA = "1111111111111111111111111111111111111111"
	commitB = "2222222222222222222222222222222222222222"
)

func aSourced() *world {
	w := newWorld(shop()...)
	w.Env.Spec.Blueprint = ""
	w.Env.Spec.Source = &v1alpha1.Source{Git: &v1alpha1.GitSource{URL: "https://git.example.com/shop", Ref: "main"}}
	return w
}

// sourced is what observeSource makes of a world, for a lookup that has come so far.
func (w *world) sourced(s *Sourcing) {
	w.Source = s
	w.Env.Spec.Blueprint = ""
	switch {
	case s.Found != nil:
		w.Env.Spec.Blueprint = s.Found.Blueprint
	case onlyRefreshed(w.Env):
		w.Env.Spec.Blueprint = w.Env.Status.Source.Blueprint
	}
}

func (w *world) found(commit, blueprint string) {
	w.sourced(&Sourcing{Found: &v1alpha1.SourceStatus{For: lookup(w.Env), Commit: commit, Blueprint: blueprint, FetchedAt: &metav1.Time{Time: w.Now}}})
}

func message(e *v1alpha1.Environment) string {
	return meta.FindStatusCondition(e.Status.Conditions, v1alpha1.ConditionReady).Message
}

func stalled(e *v1alpha1.Environment) bool {
	return meta.IsStatusConditionTrue(e.Status.Conditions, v1alpha1.ConditionStalled)
}

// Nothing is made until the source is there; then it is made as any other, and the history says from which commit.
func TestASourceIsFetchedBeforeAnythingIsMade(t *testing.T) {
	w := aSourced()
	w.sourced(&Sourcing{})
	if got := strings.Join(w.passes(), " "); got != "Hold" || reason(w.Env) != ReasonFetching || w.Env.Status.Revisions.Requested != "" {
		t.Errorf("while it is fetched: %s, %s, %+v", got, reason(w.Env), w.Env.Status.Revisions)
	}
	w.sourced(&Sourcing{Keep: &v1alpha1.Blueprint{}})
	if got := w.pass(); got != "Keep" {
		t.Errorf("once it was: %s", got)
	}
	w.found(commitA, "pr-1-000000000000")
	if got := strings.Join(w.passes(), " "); got != "MakeNamespace Guard Apply Apply Apply" || reason(w.Env) != ReasonReady {
		t.Errorf("once it is kept: %s, %s", got, reason(w.Env))
	}
	if h := w.Env.Status.History; len(h) != 1 || h[0].Source.Git.Ref != commitA || h[0].Blueprint != "pr-1-000000000000" {
		t.Errorf("history: %+v", h)
	}
	if BlueprintOf(w.Env) != "pr-1-000000000000" || !Current(w.Env) {
		t.Errorf("source: %+v", w.Env.Status.Source)
	}
}

// A refresh that fails leaves what runs alone, heals it, and says so; another source that fails has the environment stay as it is.
func TestWhatRunsGoesOnWhileASourceIsAway(t *testing.T) {
	w := aSourced()
	w.found(commitA, "pr-1-000000000000")
	w.passes()
	first := w.Env.Status.Revisions
	away := usererr.New(usererr.Failed, "", "Git source unreachable: no such host")
	w.Env.Annotations = map[string]string{v1alpha1.AnnotationRefresh: "1"}
	if Current(w.Env) {
		t.Error("a refresh that nobody has seen is done")
	}
	w.sourced(&Sourcing{Err: away, Since: w.Now, Again: w.Now.Add(time.Minute)})
	delete(w.Live, key{"apps", "Deployment", "stock"})
	if got := strings.Join(w.passes(), " "); got != "Apply" || w.Env.Status.Revisions != first {
		t.Errorf("what is deleted meanwhile: %s, %+v", got, w.Env.Status.Revisions)
	}
	if reason(w.Env) != ReasonSourceUnavailable || message(w.Env) != away.Error() || stalled(w.Env) || !Current(w.Env) {
		t.Errorf("%s %s", reason(w.Env), message(w.Env))
	}
	w.Now = w.Now.Add(mayPassFor)
	if w.pass(); !stalled(w.Env) {
		t.Error("it is away for long, and nobody is told")
	}
	w.sourced(&Sourcing{Err: usererr.New(usererr.Forbidden, "mend it", "the server refuses"), Since: w.Now})
	if w.pass(); !stalled(w.Env) || message(w.Env) != "the server refuses: mend it" {
		t.Errorf("what does not go by itself: %s", message(w.Env))
	}
	w.sourced(&Sourcing{Err: usererr.New(usererr.Refused, "", "there is no kustomization"), Since: w.Now})
	if w.pass(); reason(w.Env) != ReasonInvalid {
		t.Errorf("what is no source: %s", reason(w.Env))
	}
	w.Env.Spec.Source.Git.Ref = "v2"
	w.sourced(&Sourcing{Err: away, Since: w.Now, Again: w.Now.Add(time.Minute)})
	delete(w.Live, key{"apps", "Deployment", "stock"})
	if got := w.passes(); len(got) > 0 || w.Env.Status.Revisions != first || w.Env.Status.Source.Commit != commitA {
		t.Errorf("another source: %s, %+v", got, w.Env.Status.Revisions)
	}
	w.content = shop()[:1]
	w.found(commitB, "pr-1-111111111111")
	w.passes()
	if r := w.Env.Status.Revisions; r.Ready == first.Ready || reason(w.Env) != ReasonReady || len(w.Env.Status.History) != 2 {
		t.Errorf("once it is there: %+v", w.Env.Status)
	}
	w.Env.Spec.Source = w.Env.Status.History[1].Source.DeepCopy() // rollback
	if before := foundBefore(w.Env); before == nil || before.Commit != commitA || before.Blueprint != "pr-1-000000000000" {
		t.Errorf("what it was made from before: %+v", before)
	}
	w.Env.Spec.Source.Git.Ref = "main"
	if before := foundBefore(w.Env); before != nil {
		t.Errorf("a branch is not what it was: %+v", before)
	}
	w.Env.Spec.Source, w.Env.Spec.Blueprint, w.Source = nil, "pr-1-000000000000", nil
	if w.pass(); w.Env.Status.Source != nil {
		t.Error("one that has no source says where it was fetched")
	}
}

func TestPinnedSourcesNameWhatWasFound(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0", 64)
	for ref, want := range map[string]string{
		"registry.example.com:5000/team/shop:v1":        "registry.example.com:5000/team/shop@" + digest,
		"registry.example.com/team/shop@" + digest:      "registry.example.com/team/shop@" + digest,
		"registry.example.com:5000/team/shop@" + digest: "registry.example.com:5000/team/shop@" + digest,
	} {
		s := pinned(&v1alpha1.Source{OCI: &v1alpha1.OCISource{Ref: ref}}, &v1alpha1.SourceStatus{Digest: digest})
		if s.OCI.Ref != want {
			t.Errorf("%s: %s, want %s", ref, s.OCI.Ref, want)
		}
	}
}

// Sources that cannot be reached, and slow ones of one home, keep nobody else's waiting; what failed is tried again later each time,
// and at once when it is asked for again.
func TestOneSourceNeverWaitsForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		slow := make(chan struct{})
		f := newFetches(nil, Fetcher{
			Refused: func(context.Context) ([]netip.Addr, error) { return nil, nil },
			Reach: func(ctx context.Context, r fetch.Request) error {
				if strings.Contains(r.Source.Git.URL, "away") {
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			},
			Fetch: func(ctx context.Context, r fetch.Request) (*fetch.Fetched, error) {
				if strings.Contains(r.Source.Git.URL, "slow") {
					select {
					case <-slow:
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				}
				if strings.Contains(r.Source.Git.URL, "wrong") {
					return nil, errors.New("wrong")
				}
				return &fetch.Fetched{Revision: commitA, Digest: "sha256:" + strings.Repeat("0", 64)}, nil
			},
		})
		done := make(chan struct{})
		go func() { f.run(ctx); close(done) }()
		synctest.Wait()
		env := func(home, host string) (client.ObjectKey, *v1alpha1.Environment) {
			w := aSourced()
			w.Env.Namespace, w.Env.Name = home, host
			w.Env.Spec.Source.Git.URL = "https://" + host + "/x"
			return client.ObjectKeyFromObject(w.Env), w.Env
		}
		look := func(home, host string) job {
			at, e := env(home, host)
			synctest.Wait()
			j := f.look(at, e, time.Now())
			synctest.Wait()
			return j
		}
		for i := range 20 {
			look("bad", "away"+string(rune('a'+i)))
		}
		for _, host := range []string{"slow1", "slow2", "slow3", "slow1", "slow2", "slow3"} {
			look("bad", host)
		}
		for range 3 {
			look("good", "git")
		}
		if j := look("good", "git"); j.got == nil {
			t.Errorf("the source of another home waits: %+v", j)
		}
		close(slow)
		for range 4 {
			look("bad", "slow3")
		}
		if j := look("bad", "slow3"); j.got == nil {
			t.Errorf("a source waits that nobody is in the way of: %+v", j)
		}
		look("good", "wrong")
		look("good", "wrong")
		waits := []time.Duration{}
		for range 9 {
			j := look("good", "wrong")
			if j.err == nil || j.again.IsZero() {
				t.Fatalf("%+v", j)
			}
			waits = append(waits, time.Until(j.again))
			time.Sleep(time.Until(j.again))
			look("good", "wrong")
			look("good", "wrong")
		}
		if waits[0] != firstRetry || waits[1] != 2*firstRetry || waits[8] != lastRetry {
			t.Errorf("it is tried again after %s", waits)
		}
		at, e := env("good", "wrong")
		e.Annotations = map[string]string{v1alpha1.AnnotationRefresh: "1"}
		if j := f.look(at, e, time.Now()); j.err != nil || !j.again.IsZero() {
			t.Errorf("asked for again, it waits: %+v", j)
		}
		f.forget(at)
		cancel()
		<-done
	})
}

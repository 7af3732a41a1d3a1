package environment

import (
	"context"
	"fmt"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/fetch"
	"dayfly.dev/dayfly/internal/usererr"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Sourcing is how an environment stands that is made from a source.
type Sourcing struct {
	Found *v1alpha1.SourceStatus // for what is asked now, kept in a Blueprint; nil: not yet
	Keep  *v1alpha1.Blueprint    // what was fetched and is not kept yet
	Err   error                  // why the last attempt came to nothing
	Since time.Time              // of the first of the attempts that came to nothing
	Again time.Time              // when it is tried again; zero: it goes on
}

// BlueprintOf names the Blueprint that an environment is made from; "" where its source was never fetched.
func BlueprintOf(e *v1alpha1.Environment) string {
	if e.Spec.Source != nil && e.Status.Source != nil {
		return e.Status.Source.Blueprint
	}
	return e.Spec.Blueprint
}

// Current says whether the status speaks of what is asked for now.
func Current(e *v1alpha1.Environment) bool {
	seen := e.Spec.Source == nil || e.Status.Source != nil && e.Status.Source.Refresh == refreshOf(e)
	return e.Status.ObservedGeneration >= e.Generation && seen
}

func refreshOf(e *v1alpha1.Environment) string {
	said := e.Annotations[v1alpha1.AnnotationRefresh]
	return said[:min(len(said), 64)]
}

// lookup is what a source is looked up for: it, and a refresh.
func lookup(e *v1alpha1.Environment) string {
	return hash(e.Spec.Source) + "-" + hash(refreshOf(e))
}

// onlyRefreshed says whether it was for the same source that something was found before.
func onlyRefreshed(e *v1alpha1.Environment) bool {
	return e.Status.Source != nil && strings.HasPrefix(e.Status.Source.For, hash(e.Spec.Source)+"-")
}

// pinned is a source with what was found in place of its ref.
func pinned(s *v1alpha1.Source, found *v1alpha1.SourceStatus) *v1alpha1.Source {
	if s == nil || found == nil {
		return nil
	}
	s = s.DeepCopy()
	if s.Git != nil {
		s.Git.Ref = found.Commit
	} else if name, _, ok := strings.Cut(s.OCI.Ref, "@"); !ok {
		if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
			name = name[:i]
		}
		s.OCI.Ref = name + "@" + found.Digest
	}
	return s
}

// foundBefore is what was found for a source that names a commit, or a digest, which the environment was made from before: it
// is the same for ever.
func foundBefore(e *v1alpha1.Environment) *v1alpha1.SourceStatus {
	for _, p := range e.Status.History {
		if p.Source == nil || !equality.Semantic.DeepEqual(p.Source, e.Spec.Source) {
			continue
		}
		found := &v1alpha1.SourceStatus{For: lookup(e), Blueprint: p.Blueprint}
		if g := p.Source.Git; g != nil {
			found.Commit = g.Ref
		} else {
			_, found.Digest, _ = strings.Cut(p.Source.OCI.Ref, "@")
		}
		return found
	}
	return nil
}

// observeSource finds out what an environment is made from that has a source, and has it fetched if need be. It puts the Blueprint
// that it is to be made of meanwhile into env: what was found for the same source before, or none.
func (e *Engine) observeSource(ctx context.Context, env *v1alpha1.Environment) (*Sourcing, error) {
	at := client.ObjectKeyFromObject(env)
	if env.Spec.Source == nil {
		e.fetches.forget(at)
		return nil, nil
	}
	s, err := e.sourcing(ctx, at, env)
	switch {
	case err != nil:
		return nil, err
	case s.Found != nil:
		e.fetches.forget(at)
		env.Spec.Blueprint = s.Found.Blueprint
	case onlyRefreshed(env):
		env.Spec.Blueprint = env.Status.Source.Blueprint
	}
	return s, nil
}

func (e *Engine) sourcing(ctx context.Context, at client.ObjectKey, env *v1alpha1.Environment) (*Sourcing, error) {
	if have := env.Status.Source; have != nil && have.For == lookup(env) {
		return &Sourcing{Found: have}, nil
	}
	if before := foundBefore(env); before != nil {
		err := e.reader.Get(ctx, client.ObjectKey{Namespace: env.Namespace, Name: before.Blueprint}, &v1alpha1.Blueprint{})
		if client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("reading blueprint %s: %w", before.Blueprint, err)
		}
		if err == nil {
			return &Sourcing{Found: before}, nil
		}
	}
	j := e.fetches.look(at, env, e.now())
	s := &Sourcing{Err: j.err, Since: j.since, Again: j.again}
	switch {
	case j.got == nil:
	case j.kept:
		s.Found = &v1alpha1.SourceStatus{For: j.lookup, FetchedAt: new(metav1.NewTime(j.at.Truncate(time.Second))), Blueprint: blueprintFor(env, j.got).Name}
		if env.Spec.Source.Git != nil {
			s.Found.Commit = j.got.Revision
		} else {
			s.Found.Digest = j.got.Revision
		}
	case j.again.IsZero():
		s.Keep = blueprintFor(env, j.got)
	}
	return s, nil
}

// blueprintFor is the Blueprint of what was fetched: a part of the environment, with which it goes.
func blueprintFor(env *v1alpha1.Environment, got *fetch.Fetched) *v1alpha1.Blueprint {
	return &v1alpha1.Blueprint{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: env.Namespace, Name: env.Name + "-" + strings.TrimPrefix(got.Digest, "sha256:")[:12],
			Labels:          map[string]string{v1alpha1.LabelManaged: "dayfly"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Environment", Name: env.Name, UID: env.UID}},
		},
		Spec: v1alpha1.BlueprintSpec{Digest: got.Digest, Folder: got.Packed},
	}
}

// keep stores what was fetched. Why that is refused is told like anything else that keeps a source from being used.
func (e *Engine) keep(ctx context.Context, env *v1alpha1.Environment, b *v1alpha1.Blueprint) error {
	err := e.client.Create(ctx, b)
	if apierrors.IsAlreadyExists(err) {
		err = e.same(ctx, env, b)
	}
	if err != nil && ctx.Err() != nil {
		return named("keeping the source of", env, err)
	}
	e.fetches.stored(client.ObjectKeyFromObject(env), err, e.now())
	return nil
}

// same says whether the Blueprint of that name is what was fetched, and stays.
func (e *Engine) same(ctx context.Context, env *v1alpha1.Environment, b *v1alpha1.Blueprint) error {
	have := &v1alpha1.Blueprint{}
	if err := e.reader.Get(ctx, client.ObjectKeyFromObject(b), have); err != nil {
		return fmt.Errorf("reading blueprint %s: %w", b.Name, err)
	}
	if have.Spec.Digest != b.Spec.Digest {
		return usererr.New(usererr.Refused, "delete it", "there is another blueprint %s", b.Name)
	}
	for _, r := range have.OwnerReferences {
		if r.UID == env.UID {
			return nil
		}
	}
	if !have.DeletionTimestamp.IsZero() || len(have.OwnerReferences) > 0 {
		return fmt.Errorf("blueprint %s is left over from another environment of this name, and about to go", b.Name)
	}
	return nil
}

// mayPassFor is how long it may be that a source cannot be reached until the environment is called stalled. It goes on trying.
const mayPassFor = 30 * time.Second

// lookForFetched is when to look again while a source is being fetched.
const lookForFetched = 250 * time.Millisecond

// held says whether nothing is known that the environment could be made of: it stays as it is.
func held(o *Observed) bool { return o.Env.Spec.Blueprint == "" }

// source writes down what was found where the environment's source is.
func (d *decision) source() {
	if d.Source == nil {
		d.st.Source = nil
		return
	}
	switch {
	case d.Source.Found != nil:
		d.st.Source = d.Source.Found.DeepCopy()
	case d.st.Source == nil:
		d.st.Source = &v1alpha1.SourceStatus{}
	}
	d.st.Source.Refresh = refreshOf(d.Env)
}

// fetching says in the conditions how it stands with a source that is not found yet.
func (d *decision) fetching() {
	s := d.Source
	if s == nil || s.Found != nil {
		return
	}
	others := d.recheck
	passes := usererr.CodeOf(s.Err) == usererr.Failed && d.Now.Sub(s.Since) < mayPassFor
	switch {
	case s.Err == nil:
		d.working(ReasonFetching, fetch.Name(d.Env.Spec.Source))
	case usererr.CodeOf(s.Err) == usererr.Refused:
		d.stalled(ReasonInvalid, saysOf(s.Err))
	case passes:
		d.working(ReasonSourceUnavailable, saysOf(s.Err))
	default:
		d.stalled(ReasonSourceUnavailable, saysOf(s.Err))
	}
	d.recheck = max(lookForFetched, s.Again.Sub(d.Now))
	if !held(d.Observed) {
		d.recheck = min(d.recheck, others)
	}
}

// saysOf is an error with its fix.
func saysOf(err error) string {
	says := clean(err.Error())
	if fix := usererr.FixOf(err); fix != "" {
		says += ": " + clean(fix)
	}
	return says
}

package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/session"
	"dayfly.dev/dayfly/internal/usererr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// join writes the intercept into this laptop's session in the namespace, creating the session if need be. Processes of one
// laptop do so one after the other, so that they agree on the session and its key. It returns nil if the laptop answers
// just that already.
func (o *interceptOptions) join(ctx context.Context, c *kube.Cluster, l *laptop, want v1alpha1.Intercept) (*held, error) {
	me, err := c.Whoami(ctx)
	if err != nil {
		return nil, err
	}
	unlock, err := l.lock(ctx, "join")
	if err != nil {
		return nil, err
	}
	defer unlock()
	kept, there, err := o.choose(ctx, c, l, me)
	if err != nil {
		return nil, err
	}
	h := &held{interceptOptions: o, c: c, kept: kept, want: want}
	h.remember(there)
	if h.before != nil && sameIntercept(*h.before, want) {
		o.app.say("service %s port %s is already answered by this laptop in session %s (process %d)", want.Service, session.PortOf(want), kept.Name, h.by.PID)
		h.hint(there)
		return nil, nil
	}
	// Noted before it is asked for: whatever kills this process, the next dayfly command knows what to end.
	if err := kept.serve(session.Route(want), want.LaptopPort, os.Getpid()); err != nil {
		return nil, err
	}
	if err := h.ask(ctx, me); err != nil {
		return nil, h.giveUp(err)
	}
	return h, nil
}

// remember notes the intercept that this one is to replace, if a process of this laptop answers it.
func (h *held) remember(there *v1alpha1.Session) {
	by := h.kept.serving(session.Route(h.want))
	if there == nil || by == nil {
		return
	}
	for _, i := range there.Spec.Intercepts {
		if session.Route(i) == session.Route(h.want) {
			h.before, h.by = &i, new(*by)
		}
	}
}

func sameIntercept(a, b v1alpha1.Intercept) bool {
	return session.RuleText("", a) == session.RuleText("", b) && a.LaptopPort == b.LaptopPort
}

// choose finds the session to use and what the cluster has of it: the named one, or the one that this laptop has in the
// namespace; or it keeps a key for a new one.
func (o *interceptOptions) choose(ctx context.Context, c *kube.Cluster, l *laptop, me v1alpha1.Owner) (*laptopSession, *v1alpha1.Session, error) {
	host, _ := os.Hostname()
	name := cmp.Or(o.session, defaultName(me.Username, host))
	for try := range 5 {
		kept, err := l.get(c.Namespace, name)
		if err != nil {
			return nil, nil, err
		}
		there, err := o.settled(ctx, c, name, kept)
		switch {
		case err != nil:
			return nil, nil, err
		case there == nil: // a key that is left of a session that is gone must not be used again
			kept, err = l.create(c.Namespace, name)
			return kept, nil, err
		case kept != nil && sameKey(kept, there):
			return kept, there, nil
		case o.session != "":
			return nil, nil, usererr.New(usererr.Conflict, "choose another name with --session",
				"session %s belongs to %s at %s", name, there.Spec.Owner.Username, cmp.Or(there.Spec.Host, "another laptop"))
		}
		name = fmt.Sprintf("%s-%d", defaultName(me.Username, host), try+2) // another laptop of the same name has it
	}
	return nil, nil, usererr.New(usererr.Conflict, "choose a name with --session", "the session names for this laptop are all taken")
}

// settled returns the session of that name, or nil if there is none. One of this laptop that is being closed is awaited.
func (o *interceptOptions) settled(ctx context.Context, c *kube.Cluster, name string, kept *laptopSession) (*v1alpha1.Session, error) {
	there := &v1alpha1.Session{}
	err := c.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: name}, there)
	if apierrors.IsNotFound(err) && usererr.CodeOf(kube.Explain(err)) != usererr.NotInstalled {
		return nil, nil
	}
	if err != nil {
		return nil, kube.Explain(err)
	}
	if kept == nil || there.DeletionTimestamp.IsZero() || !sameKey(kept, there) {
		return there, nil
	}
	o.app.say("session %s is being closed; waiting for that", name)
	_, err = awaitGone(ctx, c, there, nil, o.timeout)
	return nil, err
}

// defaultName is user-host, as a DNS label.
func defaultName(username, host string) string {
	if at := strings.LastIndexAny(username, ":/"); at >= 0 {
		username = username[at+1:]
	}
	username, _, _ = strings.Cut(username, "@")
	host, _, _ = strings.Cut(host, ".")
	clean := func(s string, most int) string {
		s = strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
				return r
			}
			return '-'
		}, strings.ToLower(s))
		return strings.Trim(s[:min(len(s), most)], "-")
	}
	return cmp.Or(strings.Trim(clean(username, 30)+"-"+clean(host, 20), "-"), "laptop")
}

// requestTime bounds what is asked of the cluster even after ^C: a request that was broken off may still be carried out.
const requestTime = 10 * time.Second

func uncancelled(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), requestTime)
}

// ask writes the intercept into the session, creating it if need be.
func (h *held) ask(ctx context.Context, me v1alpha1.Owner) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	ctx, cancel := uncancelled(ctx)
	defer cancel()
	for {
		s := &v1alpha1.Session{}
		err := h.c.Get(ctx, h.kept.objectKey(), s)
		if apierrors.IsNotFound(err) {
			if s, err = h.newSession(me); err != nil {
				return err
			}
			err = h.c.Create(ctx, s)
		} else if err == nil {
			if !s.DeletionTimestamp.IsZero() {
				return usererr.New(usererr.Conflict, "try again in a moment", "session %s is being closed", s.Name)
			}
			s.Spec.Owner = me
			s.Spec.Intercepts = append(without(s.Spec.Intercepts, h.want), h.want)
			err = h.c.Update(ctx, s)
		}
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
			continue
		}
		return kube.Explain(err)
	}
}

func without(list []v1alpha1.Intercept, i v1alpha1.Intercept) []v1alpha1.Intercept {
	return slices.DeleteFunc(slices.Clone(list), func(o v1alpha1.Intercept) bool { return session.Route(o) == session.Route(i) })
}

func (h *held) newSession(me v1alpha1.Owner) (*v1alpha1.Session, error) {
	key, err := h.kept.key()
	if err != nil {
		return nil, err
	}
	public, err := key.Public()
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	s := &v1alpha1.Session{ObjectMeta: metav1.ObjectMeta{Namespace: h.kept.Namespace, Name: h.kept.Name}}
	s.Spec = v1alpha1.SessionSpec{
		Owner: me, PublicKey: public, RoutingKey: h.kept.Name, Host: host,
		Lease: metav1.Duration{Duration: h.lease}, Drain: metav1.Duration{Duration: h.drain}, Intercepts: []v1alpha1.Intercept{h.want},
	}
	return s, nil
}

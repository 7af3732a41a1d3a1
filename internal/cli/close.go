package cli

import (
	"context"
	"io"
	"slices"
	"strings"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/session"
	"dayfly.dev/dayfly/internal/usererr"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// close ends an intercept of this laptop, whichever of its processes answers it: that process notices and ends.
func (o *interceptOptions) close(ctx context.Context, c *kube.Cluster, l *laptop) error {
	defer o.app.after("waiting for the cluster (%s)", c.Config.Host)()
	mine, err := o.ofThisLaptop(ctx, c, l)
	if err != nil {
		return err
	}
	match, err := o.matching(ctx, c, mine)
	if err != nil {
		return err
	}
	switch len(match) {
	case 0:
		return usererr.New(usererr.NotFound, "see: dayfly session list -n "+c.Namespace,
			"this laptop has no intercept of service %s in namespace %s", strings.TrimSuffix(o.service+":"+o.servicePort, ":"), c.Namespace)
	case 1:
	default:
		var routes []string
		for _, h := range match {
			routes = append(routes, h.kept.Name+" "+session.Route(h.want))
		}
		return usererr.New(usererr.Usage, "choose one with --service-port or --session: "+strings.Join(routes, ", "),
			"this laptop has %d intercepts of service %s", len(match), o.service)
	}
	closed, err := match[0].takeOut(ctx, nil)
	if err != nil || closed == nil {
		return err
	}
	return o.app.print("table", closed, func(w io.Writer) error { printProof(w, *closed); return nil })
}

// ofThisLaptop returns the sessions that this laptop has the keys of in the namespace; or the named one.
func (o *interceptOptions) ofThisLaptop(ctx context.Context, c *kube.Cluster, l *laptop) (map[*laptopSession]*v1alpha1.Session, error) {
	out := map[*laptopSession]*v1alpha1.Session{}
	if o.session != "" {
		there, err := getSession(ctx, c, o.session)
		if err != nil {
			return nil, err
		}
		kept, err := l.get(c.Namespace, o.session)
		if kept == nil {
			kept = &laptopSession{Namespace: c.Namespace, Name: o.session}
		}
		out[kept] = there
		return out, err
	}
	all, err := l.all()
	if err != nil {
		return nil, err
	}
	sessions, err := sessionsIn(ctx, c, false)
	if err != nil {
		return nil, err
	}
	for i := range sessions {
		for _, kept := range all {
			if kept.Namespace == sessions[i].Namespace && kept.Name == sessions[i].Name && sameKey(kept, &sessions[i]) {
				out[kept] = &sessions[i]
			}
		}
	}
	return out, nil
}

// matching returns the intercepts of the sessions that the command line means.
func (o *interceptOptions) matching(ctx context.Context, c *kube.Cluster, sessions map[*laptopSession]*v1alpha1.Session) ([]*held, error) {
	any := o.servicePort == ""
	port, err := o.portMeant(ctx, c, sessions)
	if err != nil {
		return nil, err
	}
	var out []*held
	for kept, s := range sessions {
		for _, i := range s.Spec.Intercepts {
			if i.Service == o.service && (any || session.PortOf(i) == port) {
				out = append(out, &held{interceptOptions: o, c: c, kept: kept, want: i})
			}
		}
	}
	return out, nil
}

// portMeant is the port that --service-port means. A number needs no service, which may be gone by now: without a protocol
// it means UDP only if nothing of TCP is intercepted there.
func (o *interceptOptions) portMeant(ctx context.Context, c *kube.Cluster, sessions map[*laptopSession]*v1alpha1.Session) (session.Port, error) {
	if o.servicePort == "" {
		return session.Port{}, nil
	}
	if p, ok := session.ParsePort(o.servicePort); ok {
		if !strings.Contains(o.servicePort, "/") {
			p.UDP = !o.intercepted(sessions, p) && o.intercepted(sessions, session.Port{Number: p.Number, UDP: true})
		}
		return p, nil
	}
	svc := &corev1.Service{}
	if err := c.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: o.service}, svc); err != nil {
		return session.Port{}, kube.Explain(err)
	}
	p, err := choosePort(svc, o.servicePort)
	if err != nil {
		return session.Port{}, err
	}
	id, _ := session.ServicePort(p)
	return id, nil
}

func (o *interceptOptions) intercepted(sessions map[*laptopSession]*v1alpha1.Session, p session.Port) bool {
	for _, s := range sessions {
		if slices.ContainsFunc(s.Spec.Intercepts, func(i v1alpha1.Intercept) bool { return i.Service == o.service && session.PortOf(i) == p }) {
			return true
		}
	}
	return false
}

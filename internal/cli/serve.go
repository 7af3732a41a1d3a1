package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/identity"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/session"
	"dayfly.dev/dayfly/internal/tunnel"
	"dayfly.dev/dayfly/internal/usererr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func (s *laptopSession) key() (*identity.SessionKey, error) {
	return identity.ParseSessionKey([]byte(s.Key))
}

func sameKey(kept *laptopSession, there *v1alpha1.Session) bool {
	key, err := kept.key()
	if err != nil {
		return false
	}
	public, err := key.Public()
	return err == nil && public == there.Spec.PublicKey
}

// serving is a process of this laptop that answers routes of a session for as long as the session lasts.
type serving struct {
	app   *App
	c     *kube.Cluster
	kept  *laptopSession
	ports map[string]int32 // laptop port by route
	ended chan error       // says once that the session, or the intercept, was ended by someone else
	done  chan struct{}    // closed when run has returned

	since time.Time     // nothing seems to be left to answer; zero: something is
	seen  time.Time     // when the session was last read, by the laptop's clock
	lease time.Duration // that it had then

	udp udpHosts

	mu   sync.Mutex
	down map[string]error // routers that are not connected, and why
	told map[string]bool  // routes whose refusal was told
}

func newServing(app *App, c *kube.Cluster, kept *laptopSession, intercepts []v1alpha1.Intercept) *serving {
	s := &serving{app: app, c: c, kept: kept, ports: map[string]int32{}, ended: make(chan error, 1),
		done: make(chan struct{}), down: map[string]error{}, told: map[string]bool{}}
	for _, i := range intercepts {
		s.ports[session.Route(i)] = i.LaptopPort
	}
	return s
}

// run keeps the tunnels until ctx ends, or until someone else ends what they are for. It returns when the last request
// that came through them is answered, or its time to drain is over.
func (s *serving) run(ctx context.Context) {
	defer close(s.done)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var uid types.UID
	var using *v1alpha1.Tunnel
	stop := func() {}
	for {
		now, err := s.follow(ctx, uid, using)
		var client *tunnel.Client
		if err == nil {
			client, err = s.client(now)
		}
		if err != nil {
			stop()
			if ctx.Err() == nil {
				s.ended <- err
			}
			return
		}
		stop()
		using, uid = now.Status.Tunnel, now.UID
		tctx, tcancel := context.WithCancel(ctx)
		stop = tcancel
		wg.Go(func() { client.Run(tctx) })
	}
}

func sameTunnel(a, b *v1alpha1.Tunnel) bool {
	return a != nil && a.CA == b.CA && a.Namespace == b.Namespace && strings.Join(a.Routers, ",") == strings.Join(b.Routers, ",")
}

// follow returns when the session says another tunnel than using, or with an error when it is gone, or when none of what
// this process answers is in it any more.
func (s *serving) follow(ctx context.Context, uid types.UID, using *v1alpha1.Tunnel) (*v1alpha1.Session, error) {
	for {
		now := &v1alpha1.Session{}
		err := s.c.Get(ctx, s.kept.objectKey(), now)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case apierrors.IsNotFound(err), err == nil && !now.DeletionTimestamp.IsZero(), err == nil && uid != "" && now.UID != uid:
			return nil, s.closed()
		}
		if err == nil {
			s.seen, s.lease = time.Now().Round(0), now.Spec.Lease.Duration
		}
		if why := s.unwelcome(now, err); s.lasts(why) {
			return nil, why
		}
		if err == nil && now.Status.Tunnel != nil && !sameTunnel(using, now.Status.Tunnel) {
			return now, nil
		}
		s.awaitChange(ctx, now.ResourceVersion)
	}
}

// closed says that the session is gone, and why if that is known. The laptop's clock goes on while it sleeps.
func (s *serving) closed() error {
	if away := time.Since(s.seen); !s.seen.IsZero() && away > s.lease {
		return usererr.New(usererr.NotFound, "start the intercept again if you still need it; --lease makes it last longer",
			"session %s was closed: this laptop was away for %s, its lease is %s", s.kept.Name, away.Round(time.Second), s.lease)
	}
	return closedError(s.kept.Name)
}

func closedError(name string) error {
	return usererr.New(usererr.NotFound, "start the intercept again if you still need it", "session %s was closed", name)
}

// unwelcome says why nothing is left to answer, as it looks now, or nil.
func (s *serving) unwelcome(now *v1alpha1.Session, err error) error {
	if apierrors.IsForbidden(err) {
		return kube.Explain(err)
	}
	if err != nil {
		return nil // the cluster is away; it will be back
	}
	for _, st := range now.Status.Intercepts {
		route := session.StatusRoute(st)
		if _, mine := s.ports[route]; mine && st.State == v1alpha1.StateRefused && now.Status.ObservedGeneration == now.Generation {
			return refusal(st)
		}
	}
	for _, i := range now.Spec.Intercepts {
		if _, mine := s.ports[session.Route(i)]; mine {
			return nil
		}
	}
	return usererr.New(usererr.NotFound, "start it again if you still need it", "the intercept was taken out of session %s", now.Name)
}

// unwelcomeTime is how long it must look as if there were nothing left to answer. Another process of this laptop may be
// trying a rule in the place of this one's, which it puts back if it is refused.
const unwelcomeTime = 5 * time.Second

// lasts says whether why has been the case for long enough to be believed.
func (s *serving) lasts(why error) bool {
	switch {
	case why == nil:
		s.since = time.Time{}
	case s.since.IsZero():
		s.since = time.Now()
	}
	return why != nil && time.Since(s.since) >= unwelcomeTime
}

// awaitChange returns when the session may be another than the one of that resourceVersion, at the latest after a minute.
func (s *serving) awaitChange(ctx context.Context, resourceVersion string) {
	most := time.Minute
	if !s.since.IsZero() {
		most = unwelcomeTime
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	w, err := watchSession(ctx, s.c, s.kept.Namespace, s.kept.Name)
	pause := 20 * time.Millisecond // whatever changes all the time, or ends every watch at once, costs no more than this
	if err != nil {
		pause = time.Second
	} else {
		defer w.Stop()
		for e := range w.ResultChan() {
			if now, ok := e.Object.(*v1alpha1.Session); !ok || e.Type == watch.Deleted || now.ResourceVersion != resourceVersion {
				break
			}
		}
	}
	select {
	case <-ctx.Done():
	case <-time.After(pause):
	}
}

func (s *serving) client(now *v1alpha1.Session) (*tunnel.Client, error) {
	key, err := s.kept.key()
	if err != nil {
		return nil, err
	}
	cfg, err := key.ClientTLS([]byte(now.Status.Tunnel.CA))
	if err != nil {
		return nil, err
	}
	var routes []string
	for r := range s.ports {
		routes = append(routes, r)
	}
	t := *now.Status.Tunnel
	return tunnel.NewClient(tunnel.ClientOptions{
		Version: s.app.Version, Session: session.ID(now), TLS: cfg, Routers: t.Routers, Serves: routes, Answer: s.answer, Notify: s.notify,
		Drain: now.Spec.Drain.Duration,
		Dial: func(ctx context.Context, router string) (net.Conn, error) {
			return s.c.DialRouter(ctx, t.Namespace, router)
		},
	}), nil
}

// answer connects to the process of this laptop that answers a route.
func (s *serving) answer(ctx context.Context, route string) (net.Conn, error) {
	port, ok := s.ports[route]
	if !ok {
		return nil, fmt.Errorf("this laptop does not answer %s", route)
	}
	if session.IsDatagrams(route) {
		return s.udp.dial(port)
	}
	return dialLaptop(ctx, port)
}

// dialLaptop connects to a port of this laptop, in either family of addresses.
func dialLaptop(ctx context.Context, port int32) (net.Conn, error) {
	var d net.Dialer
	for _, host := range []string{"127.0.0.1", "::1"} {
		if conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port)))); err == nil {
			return conn, nil
		}
	}
	return nil, fmt.Errorf("nothing listens on the laptop's port %d", port)
}

// notify tells the user what changed, once for each change.
func (s *serving) notify(e tunnel.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case e.Refused != "":
		if !s.told[e.Refused] {
			s.told[e.Refused] = true
			s.app.warn("%s: the original answered instead (%s)", e.Refused, e.Err)
		}
	case e.Connected:
		if err := s.down[e.Router]; err != nil {
			s.app.say("connected to %s again", e.Router)
		}
		delete(s.down, e.Router)
	default:
		if _, known := s.down[e.Router]; !known && isNews(e.Err) {
			s.app.warn("%s: %s; trying again", e.Router, e.Err)
			s.down[e.Router] = e.Err
		}
	}
}

// isNews leaves out what happens in every start: a router that has not heard of the session yet.
func isNews(err error) bool {
	return err != nil && !strings.Contains(err.Error(), "bad certificate") && !strings.Contains(err.Error(), "closed the session")
}

// awaitArmed waits until an intercept is in force on every router.
func (h *held) awaitArmed(ctx context.Context) (*v1alpha1.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	defer h.app.after("waiting until every node follows")()
	var last v1alpha1.InterceptStatus
	for {
		w, err := watchSession(ctx, h.c, h.kept.Namespace, h.kept.Name)
		if err == nil {
			var s *v1alpha1.Session
			s, err = h.firstArmed(w, &last)
			w.Stop()
			if s != nil {
				return s, nil
			}
		}
		switch {
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return nil, h.tooLate(last)
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case kube.Away(err):
			pause(ctx, whileAway)
		case err != nil:
			return nil, err
		}
	}
}

func (h *held) tooLate(last v1alpha1.InterceptStatus) error {
	why := last.Message
	if last.State == "" {
		why = "dayfly's controller has not looked at it"
	}
	return usererr.New(usererr.TimedOut, "see: kubectl -n dayfly-system get pods", "the intercept was not in force within %s: %s", h.timeout, why)
}

func (h *held) firstArmed(w watch.Interface, last *v1alpha1.InterceptStatus) (*v1alpha1.Session, error) {
	for e := range w.ResultChan() {
		s, ok := e.Object.(*v1alpha1.Session)
		if !ok {
			continue
		}
		if e.Type == watch.Deleted || !s.DeletionTimestamp.IsZero() {
			return nil, closedError(s.Name)
		}
		if err := h.checkVersion(s); err != nil {
			return nil, err
		}
		if s.Status.ObservedGeneration != s.Generation {
			continue
		}
		for _, st := range s.Status.Intercepts {
			if session.StatusRoute(st) != session.Route(h.want) {
				continue
			}
			*last = st
			switch st.State {
			case v1alpha1.StateArmed:
				return s, nil
			case v1alpha1.StateRefused:
				return nil, refusal(st)
			}
		}
	}
	return nil, nil
}

func refusal(st v1alpha1.InterceptStatus) error {
	code := map[string]usererr.Code{"Forbidden": usererr.Forbidden, "NotFound": usererr.NotFound, "NoSuchPort": usererr.NotFound,
		"Conflict": usererr.Conflict}[st.Reason]
	if code == 0 {
		code = usererr.Refused
	}
	fix := refusalFix[st.Reason]
	if st.Reason == "Conflict" {
		fix = "use a rule of your own with -x, or leave -x out: your session has a routing key of its own"
	}
	return usererr.New(code, fix, "%s", st.Message)
}

// checkVersion refuses a cluster whose dayfly is of another minor version than this laptop's.
func (o *interceptOptions) checkVersion(s *v1alpha1.Session) error {
	theirs := s.Status.Version
	if theirs == "" || minor(theirs) == minor(o.app.Version) {
		return nil
	}
	return usererr.New(usererr.NotInstalled, "install the same minor version on both sides: upgrade this laptop's, or run dayfly install",
		"dayfly is %s on this laptop and %s in the cluster", o.app.Version, theirs)
}

func minor(version string) string {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return version
	}
	return parts[0] + "." + parts[1]
}

// sweep ends what a dayfly process of this laptop left behind that was killed. It does what it can and says what it did.
func sweep(ctx context.Context, app *App, c *kube.Cluster) {
	sweepStages()
	l, err := openLaptop(c)
	if err != nil {
		return
	}
	all, _ := l.all() // one file that cannot be read (doctor tells) keeps nothing else from being ended
	for _, kept := range all {
		again := wait.Backoff{Steps: 10, Duration: 20 * time.Millisecond, Factor: 1.5} // the controller writes its status meanwhile
		err := retry.RetryOnConflict(again, func() error { return sweepSession(ctx, app, c, kept) })
		if err != nil && ctx.Err() == nil {
			app.warn("session %s of a dayfly process that was killed: %s", kept.Name, kube.Explain(err))
		}
	}
}

func sweepSession(ctx context.Context, app *App, c *kube.Cluster, kept *laptopSession) error {
	s := &v1alpha1.Session{}
	err := c.Get(ctx, kept.objectKey(), s)
	if apierrors.IsNotFound(err) || err == nil && !sameKey(kept, s) {
		return kept.removeUnlessServing() // closed while nobody looked
	}
	if err != nil || !s.DeletionTimestamp.IsZero() {
		return err
	}
	var dead []v1alpha1.Intercept
	for _, i := range s.Spec.Intercepts {
		if kept.known(session.Route(i)) && kept.serving(session.Route(i)) == nil {
			dead = append(dead, i)
		}
	}
	if len(dead) == 0 {
		return nil
	}
	unchanged := client.Preconditions{UID: &s.UID, ResourceVersion: &s.ResourceVersion}
	if len(dead) == len(s.Spec.Intercepts) {
		err := c.Delete(ctx, s, unchanged)
		if err == nil {
			app.say("session %s in namespace %s: ending what a killed dayfly process left behind", kept.Name, kept.Namespace)
		}
		return client.IgnoreNotFound(err)
	}
	for _, i := range dead {
		s.Spec.Intercepts = without(s.Spec.Intercepts, i)
	}
	if s.Spec.Owner, err = c.Whoami(ctx); err != nil { // groups change; admission wants today's
		return err
	}
	if err := c.Update(ctx, s); err != nil {
		return client.IgnoreNotFound(err)
	}
	app.say("session %s in namespace %s: ending what a killed dayfly process left behind", kept.Name, kept.Namespace)
	return kept.change(func(k *laptopSession) {
		for _, i := range dead {
			if k.serving(session.Route(i)) == nil {
				k.drop(session.Route(i))
			}
		}
	})
}

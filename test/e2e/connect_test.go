package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/identity"
	"dayfly.dev/dayfly/internal/session"
	"dayfly.dev/dayfly/internal/tunnel"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// knock tries to become the laptop of a session at one router, as dayfly does it, and returns why not.
func knock(t *testing.T, dial func(context.Context) (net.Conn, error), cfg *tls.Config, sessionID string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	events := make(chan tunnel.Event, 16)
	c := tunnel.NewClient(tunnel.ClientOptions{
		Version: "test", Session: sessionID, TLS: cfg, Routers: []string{"router-0"}, Serves: []string{"web:80", "other:80"},
		Dial:   func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) },
		Answer: func(context.Context, string) (net.Conn, error) { return nil, errors.New("nothing here") },
		Notify: func(e tunnel.Event) {
			select {
			case events <- e:
			default:
			}
		},
	})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { c.Run(ctx) })
	select {
	case e := <-events:
		if e.Connected {
			return nil
		}
		return e.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// recorded keeps what was sent.
type recorded struct {
	net.Conn
	mu   sync.Mutex
	sent bytes.Buffer
}

func (r *recorded) Write(p []byte) (int, error) {
	r.mu.Lock()
	r.sent.Write(p)
	r.mu.Unlock()
	return r.Conn.Write(p)
}

// Reach is not identity: whoever may knock at the routers becomes the laptop of a session by its private key alone.
func TestOnlyTheSessionsKeyConnects(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	alice, mallory := newUser(t, "alice"), newUser(t, "mallory")
	bind(t, ns, "dayfly-developer", alice)
	bind(t, ns, "dayfly-developer", mallory)
	hers, herKey := newSession(t, ns, "hers", alice)
	must(t, alice.api.Create(t.Context(), hers))
	his, hisKey := newSession(t, ns, "his", mallory)
	must(t, mallory.api.Create(t.Context(), his))
	ca := tunnelOf(t, his).CA
	dial := func(ctx context.Context) (net.Conn, error) { return mallory.api.DialRouter(ctx, system, "router-0") }
	with := func(key *identity.SessionKey) *tls.Config {
		cfg, err := key.ClientTLS([]byte(ca))
		must(t, err)
		return cfg
	}
	var last *recorded
	await(t, promise(5*time.Second), "alice's own key connects", func() error {
		return knock(t, func(ctx context.Context) (net.Conn, error) {
			c, err := alice.api.DialRouter(ctx, system, "router-0")
			last = &recorded{Conn: c}
			return last, err
		}, with(herKey), session.ID(hers))
	})

	stranger, err := identity.NewSessionKey()
	must(t, err)
	none := with(hisKey)
	none.Certificates = nil
	evil := with(hisKey)
	evil.Certificates = []tls.Certificate{selfMade(t, identity.RoleRouter)}
	for what, c := range map[string]struct {
		cfg     *tls.Config
		session string
	}{
		"a key of no session":                     {with(stranger), session.ID(hers)},
		"no certificate":                          {none, session.ID(hers)},
		"a router's certificate of another CA":    {evil, session.ID(hers)},
		"his key, her session":                    {with(hisKey), session.ID(hers)},
		"his key, a session that is not there":    {with(hisKey), "00000000-0000-0000-0000-000000000000"},
		"his key, no session":                     {with(hisKey), ""},
		"his key, her session by its name":        {with(hisKey), ns + "/hers"},
		"a session ID that is an enormous string": {with(hisKey), strings.Repeat("x", 20<<10)},
	} {
		if err := knock(t, dial, c.cfg, c.session); err == nil {
			t.Errorf("connected with %s", what)
		} else {
			t.Logf("%s: %v", what, err)
		}
	}
	// What alice's laptop sent, sent again, is worth nothing.
	conn, err := dial(t.Context())
	must(t, err)
	defer conn.Close()
	last.mu.Lock()
	_, err = conn.Write(last.sent.Bytes())
	last.mu.Unlock()
	must(t, err)
	_ = conn.SetDeadline(time.Now().Add(15 * time.Second))
	answer, err := io.ReadAll(conn)
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		t.Errorf("the router kept a replayed connection open, after %d bytes", len(answer))
	}

	must(t, alice.api.Delete(t.Context(), hers))
	await(t, promise(5*time.Second), "closed", func() error {
		if err := cluster.Get(t.Context(), client.ObjectKeyFromObject(hers), &v1alpha1.Session{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %v", err)
		}
		return nil
	})
	await(t, promise(3*time.Second), "the key of a closed session is worth nothing", func() error {
		if err := knock(t, dial, with(herKey), session.ID(hers)); err == nil {
			return errors.New("connected")
		}
		return nil
	})
}

// What is far larger than any handshake is cut off: a frame of 64 MB in place of a greeting, and a header of a megabyte.
func TestOversizedHandshakesAreCutOff(t *testing.T) {
	t.Parallel()
	u := newUser(t, "nobody")
	conn, err := u.api.DialRouter(t.Context(), system, "router-0")
	must(t, err)
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(promise(15 * time.Second)))
	go func() { _, _ = conn.Write(bytes.Repeat([]byte{0x16, 3, 1, 0x40}, 16<<20)) }()
	_, err = io.Copy(io.Discard, conn)
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		t.Error("the router goes on reading what is no handshake")
	}
	cs := impersonate(t, u.name, "system:authenticated")
	err = cs.CoreV1().RESTClient().Get().Namespace(system).Resource("services").Name("https:router-0:connect").SubResource("proxy").Suffix("tunnel").
		SetHeader("x-large", strings.Repeat("x", 1<<20)).Do(t.Context()).Error()
	if err == nil {
		t.Error("a header of a megabyte was served")
	}
	ns := newNamespace(t)
	bind(t, ns, "dayfly-developer", u)
	s, _ := newSession(t, ns, "large", u)
	s.Annotations = map[string]string{"a": strings.Repeat("x", 4<<20)}
	if err := u.api.Create(t.Context(), s); err == nil {
		t.Error("an object of 4 MB was stored")
	}
}

// A public key is public. Written into a session of somebody else's it neither cuts off the laptop that has the private
// key, nor brings it requests that it did not ask for.
func TestKeyInTheSessionOfAnotherChangesNothing(t *testing.T) {
	t.Parallel()
	ns := newNamespace(t)
	deployWeb(t, ns, 1)
	deployClient(t, ns)
	must(t, cluster.Create(t.Context(), serviceFor(ns, "other", "web")))
	alice, mallory := newUser(t, "alice"), newUser(t, "mallory")
	bind(t, ns, "dayfly-developer", alice)
	bind(t, ns, "dayfly-developer", mallory)
	l := newLaptop(t, ns).as(alice.kubeconfig)
	l.intercept("hers", "web", l.answer("laptop"))
	var hers v1alpha1.Session
	must(t, cluster.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "hers"}, &hers))
	all := v1alpha1.Intercept{Service: "web", Port: 80, LaptopPort: 1, All: true}
	his, _ := newSession(t, ns, "a-his", mallory, all) // sorts before hers
	his.Spec.PublicKey = hers.Spec.PublicKey
	must(t, mallory.api.Create(t.Context(), his))
	tunnelOf(t, his)                                   // the controller has seen it
	l.intercept("hers", "other", l.answer("laptop-2")) // makes new connections with the key
	for range 5 {
		for url, want := range map[string]string{"http://web/": "laptop", "http://other/": "laptop-2"} {
			if r := get(t, ns, url, "x-dayfly-session: hers"); r.ServedBy != want {
				t.Errorf("alice's request for %s is served by %s", url, r.ServedBy)
			}
			if r := get(t, ns, url); strings.HasPrefix(r.ServedBy, "laptop") {
				t.Errorf("alice's laptop is sent what mallory asked for")
			}
		}
		must(t, cluster.Get(t.Context(), client.ObjectKeyFromObject(his), his))
		if his.Status.Connected {
			t.Fatal("alice's laptop counts as mallory's")
		}
	}
}

// tunnelOf waits until the controller has told a session where to connect.
func tunnelOf(t *testing.T, s *v1alpha1.Session) *v1alpha1.Tunnel {
	t.Helper()
	await(t, promise(5*time.Second), "status of session "+s.Name, func() error {
		if err := cluster.Get(t.Context(), client.ObjectKeyFromObject(s), s); err != nil {
			return err
		}
		if s.Status.Tunnel == nil {
			return errors.New("no tunnel")
		}
		return nil
	})
	return s.Status.Tunnel
}

// selfMade is a certificate for a role, by an authority of our own.
func selfMade(t *testing.T, role identity.Role) tls.Certificate {
	t.Helper()
	ca, _, _, err := identity.NewCA()
	must(t, err)
	key, csr, err := identity.Request()
	must(t, err)
	cert, err := ca.Issue(csr, role, "evil")
	must(t, err)
	c, err := identity.NewCredentials(key, cert, ca.CertificatePEM())
	must(t, err)
	return c.Certificate
}

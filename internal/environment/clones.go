package environment

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/dial"
	"dayfly.dev/dayfly/internal/fetch"
	"dayfly.dev/dayfly/internal/postgres"
	"dayfly.dev/dayfly/internal/source"
	"dayfly.dev/dayfly/internal/usererr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// cloneTime bounds how long the copy of a database may take.
	cloneTime = 30 * time.Minute
	// clonesOfOne is how many databases are made at once for a home.
	clonesOfOne = 2
)

// clones are the databases that are being made on servers elsewhere, or taken away. Which there are stands in the status of their
// environments; this is only what goes on.
type clones struct {
	reader  client.Reader
	refused func(context.Context) ([]netip.Addr, error)
	account string
	begun   chan func(context.Context) // to whoever has it done

	mu    sync.Mutex
	state map[cloneKey]cloning
}

type cloneKey struct {
	of   client.ObjectKey
	name string
}

// cloning is how it stands with one database.
type cloning struct {
	drop          bool // it is to go
	running       bool
	server, class string            // of it, once the server has let us in
	login         map[string]string // once it is there: what opens it, as programs find it in their environment
	dropped       bool              // it is gone
	tries         int
	err           error     // of the last of them
	again         time.Time // when it is tried again
}

func newClones(reader client.Reader, f Fetcher) *clones {
	return &clones{reader: reader, refused: f.Refused, account: f.Account, begun: make(chan func(context.Context)), state: map[cloneKey]cloning{}}
}

// run does what is begun until ctx ends.
func (c *clones) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case do := <-c.begun:
			wg.Go(func() { do(ctx) })
		}
	}
}

// look says how it stands with the databases of an environment.
func (c *clones) look(at client.ObjectKey) map[string]cloning {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]cloning{}
	for k, s := range c.state {
		if k.of == at {
			out[k.name] = s
		}
	}
	return out
}

func (c *clones) forget(at client.ObjectKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.state {
		if k.of == at {
			delete(c.state, k)
		}
	}
}

// begin has a database made, or taken away, if it is not being so already. It never waits.
func (c *clones) begin(at client.ObjectKey, d v1alpha1.DatabaseClone, drop bool, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := cloneKey{at, d.Name}
	s := c.state[k]
	if s.running {
		return
	}
	if s.drop != drop {
		s = cloning{drop: drop}
	}
	others := 0
	for k, s := range c.state {
		if k.of.Namespace == at.Namespace && s.running {
			others++
		}
	}
	s.again = now.Add(time.Second)
	if others < clonesOfOne {
		select {
		case c.begun <- func(ctx context.Context) { c.do(ctx, k, d, drop) }:
			s.running, s.login, s.dropped = true, nil, false
		default:
		}
	}
	c.state[k] = s
}

func (c *clones) do(ctx context.Context, k cloneKey, d v1alpha1.DatabaseClone, drop bool) {
	ctx, cancel := context.WithTimeout(ctx, cloneTime)
	defer cancel()
	server, class, err := c.server(ctx, k.of.Namespace, d)
	password := rand.Text()
	switch {
	case err != nil:
	case drop:
		err = server.Drop(ctx, d.Name)
	case d.Server == "": // nothing is made where it is not written down
		err = server.Reach(ctx)
	default:
		err = server.Clone(ctx, d.Of, d.Name, password)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.state[k]
	switch {
	case !ok: // nobody asks any more
		return
	case err != nil:
		s.tries++
		s.err, s.again = err, time.Now().Add(min(firstRetry<<min(s.tries-1, 10), lastRetry))
	default:
		s = cloning{drop: drop, server: server.Address(), class: class, dropped: drop}
		if !drop && d.Server != "" {
			s.login = loginOf(server, d.Name, password)
		}
	}
	s.running = false
	c.state[k] = s
}

// The keys of a Secret that opens a server, beside those of sources.
const (
	keyHost     = "host"
	keyPort     = "port"     // 5432 if there is none
	keyDatabase = "database" // to connect to, when others are made; postgres
	keyTLS      = "sslmode"  // verify-full, which it is if nothing is said, or disable
	keyClass    = "class"    // of what its databases hold; pii if nothing is said
)

// server reads where a database is, or is to be, and what opens that. The address is of the Secret: nobody sends it elsewhere.
func (c *clones) server(ctx context.Context, home string, d v1alpha1.DatabaseClone) (*postgres.Server, string, error) {
	refused, err := c.refused(ctx)
	if err != nil {
		return nil, "", err
	}
	secret, err := secretOf(ctx, c.reader, home, d.SecretName, c.account, "the data of "+d.Component)
	if err != nil {
		return nil, "", err
	}
	s, class, err := serverOf(secret)
	if err != nil {
		return nil, "", usererr.New(usererr.Refused, usererr.FixOf(err), "Secret %s: %s", d.SecretName, err)
	}
	if d.Server != "" && d.Server != s.Address() {
		return nil, "", usererr.New(usererr.Refused, "have it name that server until the database is gone", "Secret %s opens the server %s, and database %s is on %s", d.SecretName, s.Address(), d.Name, d.Server)
	}
	s.Dial = dial.Guard{Refused: refused}.Dialer(reachTime).DialContext
	return s, class, nil
}

// serverOf is the server that a Secret opens, and the class of what is on it.
func serverOf(secret map[string][]byte) (*postgres.Server, string, error) {
	value := func(key, otherwise string) string {
		if v := string(secret[key]); v != "" {
			return v
		}
		return otherwise
	}
	refuse := func(fix, format string, args ...any) (*postgres.Server, string, error) {
		return nil, "", usererr.New(usererr.Refused, fix, format, args...)
	}
	s := &postgres.Server{Host: value(keyHost, ""), Username: value(fetch.KeyUsername, ""), Password: value(fetch.KeyPassword, ""), Database: value(keyDatabase, "postgres"), CA: secret[fetch.KeyCA]}
	port, err := strconv.ParseUint(value(keyPort, "5432"), 10, 16)
	s.Port = uint16(port)
	class, mode := value(keyClass, source.Personal), value(keyTLS, "verify-full")
	s.Plain = mode == "disable"
	switch {
	case s.Host == "" || s.Username == "":
		return refuse("", "it has no %s, or no %s", keyHost, fetch.KeyUsername)
	case err != nil:
		return refuse("", "its %s is no number of a port", keyPort)
	case !s.Plain && mode != "verify-full":
		return refuse("say verify-full, with the authority's certificate as "+fetch.KeyCA+" if it is of your own, or disable", "its %s is %s", keyTLS, mode)
	case source.Stricter(class, source.Synthetic) != class:
		return refuse(fmt.Sprintf("say %s, %s or %s", source.Synthetic, source.Masked, source.Personal), "its %s is %s", keyClass, class)
	}
	return s, class, nil
}

// loginOf is what programs are told of a database, under the names that PostgreSQL's own client has for it.
func loginOf(s *postgres.Server, name, password string) map[string]string {
	mode := "require" // whose certificate it is, a program finds out that reads ca.crt
	if s.Plain {
		mode = "disable"
	}
	at := url.URL{Scheme: "postgres", User: url.UserPassword(name, password), Host: s.Address(), Path: name, RawQuery: "sslmode=" + mode}
	out := map[string]string{"PGHOST": s.Host, "PGPORT": strconv.Itoa(int(s.Port)), "PGDATABASE": name, "PGUSER": name, "PGPASSWORD": password, "PGSSLMODE": mode, "DATABASE_URL": at.String()}
	if len(s.CA) > 0 {
		out[fetch.KeyCA] = string(s.CA)
	}
	return out
}

// secretOf reads a Secret of a home, as whoever rules the home lets dayfly.
func secretOf(ctx context.Context, reader client.Reader, home, name, account, what string) (map[string][]byte, error) {
	secret := &corev1.Secret{}
	err := reader.Get(ctx, client.ObjectKey{Namespace: home, Name: name}, secret)
	switch {
	case apierrors.IsForbidden(err):
		return nil, usererr.New(usererr.Forbidden, fmt.Sprintf("whoever rules the namespace lets it, for this Secret only: "+
			"kubectl create role dayfly-source-%[1]s -n %[2]s --verb get --resource secrets --resource-name %[1]s; "+
			"kubectl create rolebinding dayfly-source-%[1]s -n %[2]s --role dayfly-source-%[1]s --serviceaccount %[3]s", name, home, account),
			"%s: dayfly may not read Secret %s", what, name)
	case apierrors.IsNotFound(err):
		return nil, usererr.New(usererr.NotFound, "", "%s: there is no Secret %s in namespace %s", what, name, home)
	case err != nil:
		return nil, fmt.Errorf("reading Secret %s: %w", name, err)
	}
	return secret.Data, nil
}

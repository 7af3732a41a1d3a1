// Package fetch brings the folder that an environment is made from out of a Git repository or an OCI registry. What it talks to
// is named by people and trusted by nobody: it is asked by https only, at ordinary addresses, and what it sends is bounded in
// size and time. [Apart] does it in a process of its own.
package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/apart"
	"dayfly.dev/dayfly/internal/dial"
	"dayfly.dev/dayfly/internal/source"
	"dayfly.dev/dayfly/internal/usererr"
)

// The keys of a Secret that opens a source.
const (
	KeyUsername = "username"
	KeyPassword = "password"
	KeyDocker   = ".dockerconfigjson"
	KeyCA       = "ca.crt"
)

// Bounds of what is fetched.
const (
	// Memory is what one process that fetches may take, in bytes of data: whoever starts it has that much to spare.
	Memory = 96 << 20

	mostBytes = 48 << 20 // from the network
	dialTime  = 5 * time.Second
	quietTime = 30 * time.Second // in which a server says nothing
)

// Request is what to fetch.
type Request struct {
	Source   v1alpha1.Source   `json:"source"`
	Secret   map[string][]byte `json:"secret,omitempty"`   // the data of the one that the source names
	Refused  []netip.Addr      `json:"refused,omitempty"`  // addresses that are not connected to, beside those that never are
	Loopback bool              `json:"loopback,omitempty"` // is connected to: for servers on this machine, in tests
}

// Fetched is what was found.
type Fetched struct {
	Revision string `json:"revision"` // the commit, or the digest of the manifest
	Digest   string `json:"digest"`   // of the folder
	Packed   []byte `json:"packed"`   // the folder, small enough for a Blueprint
}

// Fetch fetches. An error's code says what is to be done: [usererr.Failed] and [usererr.TimedOut] may go by themselves;
// [usererr.Forbidden], [usererr.NotFound] and [usererr.Refused] do not. Nothing of the Secret is in it.
func Fetch(ctx context.Context, r Request) (*Fetched, error) {
	f := &fetcher{Request: r, room: mostBytes}
	var revision string
	var folder source.Folder
	err := f.trust()
	switch {
	case err != nil:
	case r.Source.Git != nil:
		revision, folder, err = f.git(ctx, r.Source.Git)
	case r.Source.OCI != nil:
		revision, folder, err = f.oci(ctx, r.Source.OCI)
	default:
		err = errors.New("there is nothing to fetch")
	}
	if err != nil {
		return nil, f.explain(err)
	}
	packed, err := folder.PackStored()
	if err != nil {
		return nil, err
	}
	return &Fetched{revision, folder.Digest(), packed}, nil
}

// Reach finds out whether anybody answers where the source is, which takes neither memory nor a process.
func Reach(ctx context.Context, r Request) error {
	f := &fetcher{Request: r}
	host, err := f.host()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*dialTime)
	defer cancel()
	c, err := f.guard().DialContext(ctx, "tcp", host)
	if err != nil {
		return f.explain(err)
	}
	return c.Close()
}

var work = apart.Work{Name: "fetching the source", Blame: "the server may send too much, or too slowly", Memory: Memory, CPU: 60, MostIn: 8 << 20, MostOut: 4 << 20}

// Apart fetches as [Fetch] does, in a process of its own. cmd is a program, not yet started, that calls [ServeApart]. It
// puts what it gets into a folder of its own among the temporary ones.
func Apart(ctx context.Context, cmd *exec.Cmd, r Request) (*Fetched, error) {
	dir, err := os.MkdirTemp("", "fetch-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cmd.Env = append(cmd.Env, "TMPDIR="+dir)
	out, err := apart.Do[Request, Fetched](ctx, cmd, work, r)
	if usererr.CodeOf(err) == usererr.TimedOut {
		return nil, (&fetcher{Request: r}).unreachable("it took too long")
	}
	return out, err
}

// ServeApart fetches one source: what [Apart] starts calls it with its standard input and output, and exits.
func ServeApart(in io.Reader, out io.Writer) error {
	return apart.Serve(in, out, work, func(r Request) (*Fetched, error) { return Fetch(context.Background(), r) })
}

// fetcher fetches once.
type fetcher struct {
	Request
	roots *x509.CertPool
	room  int64 // bytes that may still come
}

// Name says in words what a source is.
func Name(s *v1alpha1.Source) string {
	if s.Git != nil {
		return "Git source " + s.Git.URL
	}
	return "OCI source " + s.OCI.Ref
}

// trust reads whose certificates are good.
func (f *fetcher) trust() error {
	pem := f.Secret[KeyCA]
	if len(pem) == 0 {
		return nil // those of the system, or else those that are linked
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if !roots.AppendCertsFromPEM(pem) {
		return usererr.New(usererr.Refused, "", "%s in Secret %s holds no certificate in PEM form", KeyCA, f.Source.Folder().SecretName)
	}
	f.roots = roots
	return nil
}

func (f *fetcher) guard() *net.Dialer {
	return dial.Guard{Refused: f.Refused, Loopback: f.Loopback}.Dialer(dialTime)
}

// client asks the source's server. follow says which redirects are followed, beside those to the same host.
func (f *fetcher) client(follow func(*http.Request) error) *http.Client {
	dialer := f.guard()
	t := &http.Transport{
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return impatient{c}, nil
		},
		TLSClientConfig:     &tls.Config{RootCAs: f.roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: dialTime, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
	}
	return &http.Client{Transport: bounded{t, &f.room}, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > 3 {
			return errors.New("it sends from one address to the next")
		}
		if req.URL.Host == via[0].URL.Host {
			return nil
		}
		return follow(req)
	}}
}

// elsewhere follows no redirect to another host.
func elsewhere(req *http.Request) error {
	return usererr.New(usererr.Refused, "name the host that has it", "it sends to another host, %s, which is not followed", req.URL.Host)
}

// impatient is a connection that ends when nothing is said.
type impatient struct{ net.Conn }

func (c impatient) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(quietTime)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// bounded asks by https only and reads no more than there is room for.
type bounded struct {
	http.RoundTripper
	room *int64
}

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" {
		return nil, usererr.New(usererr.Refused, "", "%s is not asked: only https is", req.URL.Scheme)
	}
	resp, err := b.RoundTripper.RoundTrip(req)
	if err == nil {
		resp.Body = &body{resp.Body, b.room}
	}
	return resp, err
}

type body struct {
	io.ReadCloser
	room *int64
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if *b.room -= int64(n); *b.room < 0 {
		return 0, errTooMuch
	}
	return n, err
}

var errTooMuch = usererr.New(usererr.Refused, "keep what environments are made from where there is less beside it", "the source is larger than the %d MiB that are fetched", mostBytes>>20)

// host is where the source is, with its port.
func (f *fetcher) host() (string, error) {
	host := ""
	if g := f.Source.Git; g != nil {
		host, _, _ = strings.Cut(strings.TrimPrefix(g.URL, "https://"), "/")
	} else {
		ref, err := reference(f.Source.OCI)
		if err != nil {
			return "", err
		}
		host = ref.Host()
	}
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host, nil
	}
	return net.JoinHostPort(strings.Trim(host, "[]"), "443"), nil
}

// explain makes an error one that a person can read, without anything of the Secret.
func (f *fetcher) explain(err error) error {
	if u, ok := errors.AsType[*usererr.Error](err); ok {
		return &usererr.Error{Code: u.Code, Problem: Name(&f.Source) + ": " + f.redact(u.Error()), Fix: f.redact(u.Fix)}
	}
	if unknown, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return usererr.New(usererr.Refused, "put the authority's certificate into the Secret that the source names, as "+KeyCA, "%s: %s", Name(&f.Source), unknown)
	}
	if invalid, ok := errors.AsType[x509.HostnameError](err); ok {
		return usererr.New(usererr.Refused, "", "%s: %s", Name(&f.Source), invalid)
	}
	return f.unreachable(f.redact(err.Error()))
}

func (f *fetcher) unreachable(why string) error {
	kind, name, _ := strings.Cut(Name(&f.Source), " source ")
	return usererr.New(usererr.Failed, "", "%s source unreachable: %s: %s", kind, name, why)
}

// forbidden says that the server wants other credentials.
func (f *fetcher) forbidden() error {
	if name := f.Source.Folder().SecretName; name != "" {
		return usererr.New(usererr.Forbidden, "mend the Secret, and have it fetched again: dayfly env update NAME --refresh", "the server refuses the credentials in Secret %s", name)
	}
	return usererr.New(usererr.Forbidden, "name a Secret that holds them", "the server wants credentials, or there is no such thing")
}

// redact takes what is secret out of a text, in the forms in which it is sent.
func (f *fetcher) redact(text string) string {
	hide := func(secret string) {
		if len(secret) > 2 {
			text = strings.ReplaceAll(text, secret, "…")
		}
	}
	for key, value := range f.Secret {
		if key != KeyCA && key != KeyUsername {
			hide(string(value))
			hide(base64.StdEncoding.EncodeToString(value))
		}
	}
	hide(base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "%s:%s", f.Secret[KeyUsername], f.Secret[KeyPassword])))
	if f.Source.OCI != nil {
		c := f.credential()
		hide(c.Password)
		hide(c.RefreshToken)
		hide(c.AccessToken)
		hide(base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password)))
	}
	return text
}

package control

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"dayfly.dev/dayfly/internal/identity"
)

// untouched is a router that fails the test when it is told anything.
type untouched struct{ t *testing.T }

func (u untouched) Apply(context.Context, Table) error { u.t.Error("a table was applied"); return nil }
func (u untouched) Status() Status                     { u.t.Error("the status was told"); return Status{} }
func (u untouched) Changed(int64) <-chan struct{}      { u.t.Error("news were told"); return nil }
func (u untouched) Settle(context.Context, int) error  { u.t.Error("it settled"); return nil }
func (u untouched) Reach(context.Context, int) error   { u.t.Error("it reached"); return nil }

// forged is what a front proxy would say of a caller, and what proves nothing here.
var forged = http.Header{
	"X-Remote-User": {"system:serviceaccount:dayfly-system:controller"}, "X-Remote-Group": {"system:masters"}, "X-Remote-Extra-Scopes": {"all"},
	"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Host": {"localhost"}, "X-Forwarded-Proto": {"https"}, "X-Real-Ip": {"127.0.0.1"}, "Forwarded": {"for=127.0.0.1"},
	"X-Forwarded-Client-Cert": {`Subject="O=controller,CN=controller-0"`}, "X-Ssl-Client-Cert": {"yes"}, "Impersonate-User": {"system:admin"},
	"Authorization": {"Bearer a.b.c"},
}

// Who calls a router's control port is what its certificate says: nothing in the request makes it another.
func TestForgedHeadersProveNothing(t *testing.T) {
	t.Parallel()
	ca, _, _, err := identity.NewCA()
	must(t, err)
	other, _, _, err := identity.NewCA()
	must(t, err)
	holder := &identity.Holder{}
	holder.Set(issue(t, ca, identity.RoleRouter))
	server := httptest.NewUnstartedServer(RouterHandler(untouched{t}, slog.New(slog.DiscardHandler)))
	server.TLS = holder.ServerTLS(identity.RoleController, identity.RoleRouter)
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server.StartTLS()
	defer server.Close()
	for who, certs := range map[string][]tls.Certificate{
		"nobody": nil, "a router": {issue(t, ca, identity.RoleRouter).Certificate}, "a controller of another authority": {issue(t, other, identity.RoleController).Certificate},
	} {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: certs}, DisableKeepAlives: true}} //nolint:gosec // the attacker does not care
		for _, call := range []string{"PUT /table", "GET /status", "POST /settle?generation=1", "POST /reach?port=20000"} {
			method, path, _ := strings.Cut(call, " ")
			req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(`{"term":9}`))
			must(t, err)
			req.Header = forged.Clone()
			resp, err := c.Do(req)
			if err != nil {
				continue // no handshake at all
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusForbidden {
				t.Errorf("%s: %s: %s", who, call, resp.Status)
			}
		}
	}
}

// What is larger than any table, or any enrolment, is not read to its end.
func TestOversizedBodiesAreRefused(t *testing.T) {
	t.Parallel()
	ca, _, _, err := identity.NewCA()
	must(t, err)
	enrol := httptest.NewServer(EnrolHandler(ca.Issue, func(context.Context, string) (string, error) {
		t.Error("a token was reviewed")
		return "router-0", nil
	}, slog.New(slog.DiscardHandler)))
	defer enrol.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, enrol.URL+"/enrol", io.MultiReader(strings.NewReader(`{"request":"`), bytes.NewReader(bytes.Repeat([]byte("A"), 2*maxSmallBytes)), strings.NewReader(`"}`)))
	must(t, err)
	req.Header.Set("Authorization", "Bearer a.b.c")
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("an oversized enrolment: %s", resp.Status)
	}
	for limit, text := range map[int64]string{16: `{"marker":"` + strings.Repeat("x", 100) + `"}`, 1 << 10: strings.Repeat("[", 1<<20)} {
		var table Table
		if err := decode(httptest.NewRecorder(), httptest.NewRequest(http.MethodPut, "/table", strings.NewReader(text)), limit, &table); err == nil {
			t.Errorf("a table of %d bytes was read, %d are allowed", len(text), limit)
		}
	}
}

func issue(t *testing.T, ca *identity.CA, role identity.Role) *identity.Credentials {
	t.Helper()
	key, csr, err := identity.Request()
	must(t, err)
	cert, err := ca.Issue(csr, role, string(role)+"-0")
	must(t, err)
	c, err := identity.NewCredentials(key, cert, ca.CertificatePEM())
	must(t, err)
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

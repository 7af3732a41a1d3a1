package identity

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/url"
	"testing"
	"time"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newCA(t *testing.T) *CA {
	t.Helper()
	ca, _, _, err := NewCA()
	must(t, err)
	return ca
}

// issued returns a holder with a certificate of ca, after edit, if any, has changed it.
func issued(t *testing.T, ca *CA, role Role, name string, edit func(*x509.Certificate)) *Holder {
	t.Helper()
	key, csr, err := Request()
	must(t, err)
	certPEM, err := ca.Issue(csr, role, name)
	must(t, err)
	if edit != nil {
		block, _ := pem.Decode(certPEM)
		template, err := x509.ParseCertificate(block.Bytes)
		must(t, err)
		edit(template)
		der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
		must(t, err)
		certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	c, err := NewCredentials(key, certPEM, ca.CertificatePEM())
	must(t, err)
	h := &Holder{}
	h.Set(c)
	return h
}

// shake makes a handshake and returns what each side thinks of it.
func shake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	deadline := time.Now().Add(10 * time.Second)
	must(t, a.SetDeadline(deadline))
	must(t, b.SetDeadline(deadline))
	done := make(chan error, 1)
	go func() {
		conn := tls.Server(a, server)
		err := conn.Handshake()
		if err == nil {
			_, err = conn.Write([]byte{1}) // in TLS 1.3 a client learns of its refusal after its handshake
		} else {
			a.Close()
		}
		done <- err
	}()
	conn := tls.Client(b, client)
	clientErr = conn.Handshake()
	if clientErr == nil {
		_, clientErr = conn.Read(make([]byte, 1))
	} else {
		b.Close()
	}
	return <-done, clientErr
}

func TestOnlyTheRightRoleIsAdmitted(t *testing.T) {
	t.Parallel()
	ca, other := newCA(t), newCA(t)
	expired := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	for _, c := range []struct {
		name           string
		server, client *Holder
		admits         []Role // of the server
		asksFor        Role   // of the client
		ok             bool
	}{
		{"router calls controller", issued(t, ca, RoleController, "c", nil), issued(t, ca, RoleRouter, "r", nil), []Role{RoleRouter}, RoleController, true},
		{"router where only controllers may", issued(t, ca, RoleController, "c", nil), issued(t, ca, RoleRouter, "r", nil), []Role{RoleController}, RoleController, false},
		{"router that poses as controller", issued(t, ca, RoleRouter, "r", nil), issued(t, ca, RoleRouter, "r2", nil), []Role{RoleRouter}, RoleController, false},
		{"caller of another authority", issued(t, ca, RoleController, "c", nil), issued(t, other, RoleRouter, "r", nil), []Role{RoleRouter}, RoleController, false},
		{"expired caller", issued(t, ca, RoleController, "c", nil), issued(t, ca, RoleRouter, "r", expired), []Role{RoleRouter}, RoleController, false},
		{"expired server", issued(t, ca, RoleController, "c", expired), issued(t, ca, RoleRouter, "r", nil), []Role{RoleRouter}, RoleController, false},
		{"server with the role's DNS name but another role", issued(t, ca, RoleRouter, "r", func(c *x509.Certificate) { c.DNSNames = []string{dnsName(RoleController)} }),
			issued(t, ca, RoleRouter, "r2", nil), []Role{RoleRouter}, RoleController, false},
		{"caller whose certificate names no role", issued(t, ca, RoleController, "c", nil),
			issued(t, ca, RoleRouter, "r", func(c *x509.Certificate) { c.URIs = nil; c.Subject = pkix.Name{CommonName: "router/r"} }), []Role{RoleRouter}, RoleController, false},
		{"caller whose role stands under another scheme", issued(t, ca, RoleController, "c", nil),
			issued(t, ca, RoleRouter, "r", func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "https", Host: "router", Path: "/r"}} }), []Role{RoleRouter}, RoleController, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			clientTLS, err := c.client.ClientTLS(c.asksFor)
			must(t, err)
			serverErr, clientErr := shake(t, c.server.ServerTLS(c.admits...), clientTLS)
			if ok := serverErr == nil && clientErr == nil; ok != c.ok {
				t.Errorf("admitted %t, want %t (server: %v, client: %v)", ok, c.ok, serverErr, clientErr)
			}
		})
	}
}

// Nothing that a certificate request says of itself ends up in the certificate.
func TestIssueTakesNothingButTheKey(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	key, _, err := Request()
	must(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "controller/evil"}, DNSNames: []string{"controller.dayfly.internal"},
		URIs: []*url.URL{{Scheme: scheme, Host: "controller", Path: "/evil"}},
	}, key)
	must(t, err)
	certPEM, err := ca.Issue(csr, RoleRouter, "router-0")
	must(t, err)
	block, _ := pem.Decode(certPEM)
	cert, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	role, name, err := PeerOf(tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}})
	must(t, err)
	if role != RoleRouter || name != "router-0" || len(cert.URIs) != 1 || len(cert.DNSNames) != 1 || cert.DNSNames[0] != RouterName || cert.IsCA {
		t.Errorf("issued %s/%s, URIs %v, DNS names %v, authority %t", role, name, cert.URIs, cert.DNSNames, cert.IsCA)
	}
	csr[len(csr)-1] ^= 1
	if _, err := ca.Issue(csr, RoleRouter, "router-0"); err == nil {
		t.Error("a request with a broken signature was signed")
	}
	if _, err := ca.Issue(make([]byte, maxCSRBytes+1), RoleRouter, "router-0"); err == nil {
		t.Error("a request beyond the limit was read")
	}
}

// A name cannot be written so that it reads as another role's.
func TestNamesDoNotBecomeRoles(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	for _, name := range []string{"../controller/x", "x/controller", "//controller/x", "?controller", "controller"} {
		c := issued(t, ca, RoleRouter, name, nil).Get()
		role, got, err := PeerOf(tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.Certificate.Leaf}})
		if err != nil || role != RoleRouter {
			t.Errorf("%q: role %s, name %q, %v", name, role, got, err)
		}
	}
}

func TestSessionKeys(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	mine, err := NewSessionKey()
	must(t, err)
	data, err := mine.Marshal()
	must(t, err)
	again, err := ParseSessionKey(data)
	must(t, err)
	public, err := mine.Public()
	must(t, err)
	if p, err := again.Public(); err != nil || p != public {
		t.Errorf("the key is another after it was kept: %v", err)
	}
	if len(public) < 100 || len(public) > 512 {
		t.Errorf("public key of %d characters does not fit the Session's field", len(public))
	}
	theirs, err := NewSessionKey()
	must(t, err)
	router := issued(t, ca, RoleRouter, "router-0", nil)
	controller := issued(t, ca, RoleController, "c", func(c *x509.Certificate) { c.DNSNames = []string{RouterName} })
	known := func(k string) bool { return k == public }
	for _, c := range []struct {
		name   string
		server *tls.Config
		key    *SessionKey
		ca     *CA
		ok     bool
	}{
		{"the session's key", router.TunnelTLS(known), again, ca, true},
		{"another key", router.TunnelTLS(known), theirs, ca, false},
		{"a router of another authority", router.TunnelTLS(known), mine, newCA(t), false},
		{"a controller that poses as router", controller.TunnelTLS(known), mine, ca, false},
		{"a router without a certificate yet", (&Holder{}).TunnelTLS(known), mine, ca, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg, err := c.key.ClientTLS(c.ca.CertificatePEM())
			must(t, err)
			serverErr, clientErr := shake(t, c.server, cfg)
			if ok := serverErr == nil && clientErr == nil; ok != c.ok {
				t.Errorf("admitted %t, want %t (server: %v, client: %v)", ok, c.ok, serverErr, clientErr)
			}
		})
	}
	for _, bad := range []string{"", "garbage", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		if _, err := ParseSessionKey([]byte(bad)); err == nil {
			t.Errorf("%q was read as a key", bad)
		}
	}
}

func TestAuthoritiesAreKept(t *testing.T) {
	t.Parallel()
	_, certPEM, keyPEM, err := NewCA()
	must(t, err)
	_, err = LoadCA(certPEM, keyPEM)
	must(t, err)
	_, otherPEM, _, err := NewCA()
	must(t, err)
	if _, err := LoadCA(otherPEM, keyPEM); err == nil {
		t.Error("a certificate with another's key was taken for an authority")
	}
	leaf := issued(t, newCA(t), RoleRouter, "r", nil).Get()
	if at := leaf.RenewAt(); time.Until(at) < defaultLifetime/3 || time.Until(at) > defaultLifetime/2 {
		t.Errorf("renewed at %s, want about half of its life", at)
	}
}

// Machines whose clocks disagree by less than a day know each other all the same, and one that is ahead does not renew
// without end.
func TestClocksMayDisagreeByADay(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	router := issued(t, ca, RoleRouter, "r", nil)
	key, err := NewSessionKey()
	must(t, err)
	known := router.TunnelTLS(func(string) bool { return true })
	for _, c := range []struct {
		ahead time.Duration // the laptop's clock
		ok    bool
	}{
		{0, true}, {23 * time.Hour, true}, {-23 * time.Hour, true},
		{49 * time.Hour, false}, {-25 * time.Hour, false}, // the tolerance is no more than that
	} {
		cfg, err := key.ClientTLS(ca.CertificatePEM())
		must(t, err)
		cfg.Time = func() time.Time { return time.Now().Add(c.ahead) }
		serverErr, clientErr := shake(t, known, cfg)
		if ok := serverErr == nil && clientErr == nil; ok != c.ok {
			t.Errorf("%s ahead: admitted %t, want %t (server: %v, client: %v)", c.ahead, ok, c.ok, serverErr, clientErr)
		}
	}
	old := issued(t, ca, RoleRouter, "r", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = c.NotBefore.Add(-48*time.Hour), c.NotAfter.Add(-48*time.Hour)
	})
	if in := old.Get().RenewIn(); in < 10*time.Minute {
		t.Errorf("a machine whose clock is two days ahead renews every %s", in)
	}
}

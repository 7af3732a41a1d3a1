// Package identity proves who is at the other end: a certificate authority of dayfly's own for controller and routers,
// and a key pair of its own for every session.
package identity

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// Role is a role of the binary in the cluster.
type Role string

const (
	RoleController Role = "controller"
	RoleRouter     Role = "router"
)

// RouterName is the DNS name in every router's certificate; a laptop asks for it, whatever it dialled.
const RouterName = "router.dayfly.internal"

const (
	scheme      = "dayfly"
	caLifetime  = 10 * 365 * 24 * time.Hour
	maxCSRBytes = 8 << 10
)

// Validity is how long the certificates of controller and routers are good for. The zero value is the default.
type Validity struct {
	// Lifetime of a certificate, which is replaced after half of it; default 24 h.
	Lifetime time.Duration
	// Tolerance is how far the clocks of two machines may disagree, either way; default 24 h. A stolen certificate is good
	// for as much longer.
	Tolerance time.Duration
	// Now is the authority's clock; default time.Now.
	Now func() time.Time
}

const defaultLifetime, defaultTolerance = 24 * time.Hour, 24 * time.Hour

func (v Validity) span() (notBefore, notAfter time.Time) {
	now, tolerance := time.Now(), cmp.Or(v.Tolerance, defaultTolerance)
	if v.Now != nil {
		now = v.Now()
	}
	return now.Add(-tolerance), now.Add(cmp.Or(v.Lifetime, defaultLifetime) + tolerance)
}

// CA issues the certificates of controller and routers.
type CA struct {
	Validity Validity // of what it issues

	cert *x509.Certificate
	key  crypto.Signer
}

// NewCA makes a certificate authority and returns it with its certificate and key as PEM.
func NewCA() (ca *CA, certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("making a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, nil, nil, fmt.Errorf("making a serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "dayfly"},
		NotBefore:             time.Now().Add(-defaultTolerance),
		NotAfter:              time.Now().Add(caLifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("signing the authority's certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("encoding the authority's key: %w", err)
	}
	certPEM = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	ca, err = LoadCA(certPEM, keyPEM)
	return ca, certPEM, keyPEM, err
}

// LoadCA reads what NewCA returned.
func LoadCA(certPEM, keyPEM []byte) (*CA, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate authority: %w", err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, errors.New("reading the certificate authority: not an authority with a signing key")
	}
	return &CA{cert: pair.Leaf, key: signer}, nil
}

// CertificatePEM is what others verify certificates with.
func (ca *CA) CertificatePEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// Issue signs a certificate for role and name, for the key of a certificate request (DER). Nothing but the key is taken
// from the request.
func (ca *CA) Issue(csrDER []byte, role Role, name string) (certPEM []byte, err error) {
	if len(csrDER) > maxCSRBytes {
		return nil, fmt.Errorf("certificate request of %d bytes is larger than %d", len(csrDER), maxCSRBytes)
	}
	csr, err := x509.ParseCertificateRequest(csrDER)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("checking the certificate request: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	notBefore, notAfter := ca.Validity.span()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: string(role) + "/" + name},
		NotBefore:    notBefore,
		NotAfter:     notAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{{Scheme: scheme, Host: string(role), Path: "/" + name}},
		DNSNames:     []string{dnsName(role)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, csr.PublicKey, ca.key)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of %s %s: %w", role, name, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func dnsName(role Role) string { return string(role) + ".dayfly.internal" }

// Request makes a key and a certificate request (DER) for it.
func Request() (key crypto.Signer, csrDER []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	csrDER, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
	if err != nil {
		return nil, nil, fmt.Errorf("making a certificate request: %w", err)
	}
	return k, csrDER, nil
}

// Credentials are this process's certificate and whom it trusts; replaced whole when they are renewed.
type Credentials struct {
	Certificate tls.Certificate
	Roots       *x509.CertPool
	CAPEM       []byte
}

// NewCredentials joins a key from Request with the certificate issued for it and the authority's certificate.
func NewCredentials(key crypto.Signer, certPEM, caPEM []byte) (*Credentials, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("reading the issued certificate: no PEM certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the issued certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(caPEM) {
		return nil, errors.New("reading the authority's certificate: no PEM certificate")
	}
	cert := tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key, Leaf: leaf}
	return &Credentials{Certificate: cert, Roots: roots, CAPEM: caPEM}, nil
}

// RenewAt is when half of the certificate's life is over, as the clock of its authority goes.
func (c *Credentials) RenewAt() time.Time {
	leaf := c.Certificate.Leaf
	return leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
}

// RenewIn is how long to wait until the certificate should be renewed; a machine whose clock is ahead does not renew
// without end.
func (c *Credentials) RenewIn() time.Duration {
	leaf := c.Certificate.Leaf
	return max(time.Until(c.RenewAt()), leaf.NotAfter.Sub(leaf.NotBefore)/100)
}

// Holder holds credentials that are renewed while connections are made with them. The zero value has none yet.
type Holder struct{ current atomic.Pointer[Credentials] }

// Set puts new credentials in force for every connection made from now on.
func (h *Holder) Set(c *Credentials) { h.current.Store(c) }

// Get returns the credentials in force, or nil.
func (h *Holder) Get() *Credentials { return h.current.Load() }

var errNoCredentials = errors.New("this process has no certificate yet")

// ServerTLS serves with the holder's credentials and admits only callers with one of the roles; with no roles named it
// asks callers for no certificate.
func (h *Holder) ServerTLS(roles ...Role) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c := h.Get()
			if c == nil {
				return nil, errNoCredentials
			}
			cfg := &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{c.Certificate},
				NextProtos: []string{"h2", "http/1.1"}, SessionTicketsDisabled: true,
			}
			if len(roles) > 0 {
				cfg.ClientCAs, cfg.ClientAuth = c.Roots, tls.RequireAndVerifyClientCert
				cfg.VerifyConnection = func(s tls.ConnectionState) error { return checkRole(s, roles) }
			}
			return cfg, nil
		},
	}
}

// ClientTLS calls with the holder's credentials and accepts only a server of the given role. It must be asked for again
// for every connection so that renewed credentials are used.
func (h *Holder) ClientTLS(role Role) (*tls.Config, error) {
	c := h.Get()
	if c == nil {
		return nil, errNoCredentials
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{c.Certificate}, RootCAs: c.Roots,
		ServerName:       dnsName(role),
		VerifyConnection: func(s tls.ConnectionState) error { return checkRole(s, []Role{role}) },
	}, nil
}

func checkRole(s tls.ConnectionState, roles []Role) error {
	role, name, err := PeerOf(s)
	if err != nil {
		return err
	}
	for _, want := range roles {
		if role == want {
			return nil
		}
	}
	return fmt.Errorf("%s %s may not do this", role, name)
}

// PeerOf returns the role and the name that the peer's verified certificate proves.
func PeerOf(s tls.ConnectionState) (Role, string, error) {
	if len(s.PeerCertificates) == 0 {
		return "", "", errors.New("the peer showed no certificate")
	}
	for _, u := range s.PeerCertificates[0].URIs {
		if u.Scheme == scheme {
			return Role(u.Host), strings.TrimPrefix(u.Path, "/"), nil
		}
	}
	return "", "", errors.New("the peer's certificate names no role")
}

// EnrolTLS is how a router that has no certificate yet calls the controller: it verifies the server, and proves itself by
// a token inside.
func EnrolTLS(caPEM []byte) (*tls.Config, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(caPEM) {
		return nil, errors.New("reading the authority's certificate: no PEM certificate")
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: dnsName(RoleController)}, nil
}

// SessionKey is a laptop's key for one session.
type SessionKey struct{ key *ecdsa.PrivateKey }

// NewSessionKey makes a key.
func NewSessionKey() (*SessionKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the session's key: %w", err)
	}
	return &SessionKey{key}, nil
}

// ParseSessionKey reads what Marshal wrote.
func ParseSessionKey(pemBytes []byte) (*SessionKey, error) {
	block, _ := pem.Decode(pemBytes)
	if block == nil {
		return nil, errors.New("reading the session's key: no PEM block")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("reading the session's key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("reading the session's key: %T is not an ECDSA key", parsed)
	}
	return &SessionKey{key}, nil
}

// Marshal returns the private key as PEM, for a file that only its owner can read.
func (k *SessionKey) Marshal() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.key)
	if err != nil {
		return nil, fmt.Errorf("encoding the session's key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Public returns the public key as Session.spec.publicKey has it.
func (k *SessionKey) Public() (string, error) { return encodePublic(k.key.Public()) }

func encodePublic(pub any) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("encoding a public key: %w", err)
	}
	return base64.StdEncoding.EncodeToString(der), nil
}

// ClientTLS is how the laptop calls a router: the router shows a certificate of the authority caPEM, the laptop the
// session's key in a certificate that it signs itself; nothing in that certificate but the key means anything.
func (k *SessionKey) ClientTLS(caPEM []byte) (*tls.Config, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(caPEM) {
		return nil, errors.New("reading the routers' authority from the session: no PEM certificate")
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "session"},
		NotBefore: time.Now().Add(-defaultTolerance), NotAfter: time.Now().Add(caLifetime),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.key.Public(), k.key)
	if err != nil {
		return nil, fmt.Errorf("signing the session's certificate: %w", err)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: RouterName,
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: k.key}},
		NextProtos:   []string{tunnelProtocol},
		VerifyConnection: func(s tls.ConnectionState) error {
			return checkRole(s, []Role{RoleRouter})
		},
	}, nil
}

// tunnelProtocol is negotiated (ALPN) inside the tunnel, so that a tunnel can be nothing else by mistake.
const tunnelProtocol = "dayfly-tunnel/1"

// TunnelTLS is how a router answers laptops. known decides by the public key, in the form of Session.spec.publicKey,
// whether there is such a session.
func (h *Holder) TunnelTLS(known func(publicKey string) bool) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c := h.Get()
			if c == nil {
				return nil, errNoCredentials
			}
			return &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{c.Certificate},
				ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{tunnelProtocol}, SessionTicketsDisabled: true,
				VerifyConnection: func(s tls.ConnectionState) error {
					key, err := PublicKeyOf(s)
					if err != nil {
						return err
					}
					if !known(key) {
						return errors.New("no session has this key")
					}
					return nil
				},
			}, nil
		},
	}
}

// PublicKeyOf returns the peer's public key in the form of Session.spec.publicKey. TLS has proved that the peer holds the
// private key.
func PublicKeyOf(s tls.ConnectionState) (string, error) {
	if len(s.PeerCertificates) == 0 {
		return "", errors.New("the peer showed no certificate")
	}
	return encodePublic(s.PeerCertificates[0].PublicKey)
}

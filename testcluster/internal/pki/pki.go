// Package pki makes the certificates of a cluster: authorities that last as long as the cluster, and certificates signed
// anew at every start.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

const lifetime = 10 * 365 * 24 * time.Hour

// Authority signs certificates.
type Authority struct {
	Cert PEM
	Key  PEM
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// PEM is a certificate or key as files hold it.
type PEM []byte

// Subject is whom a certificate is for: a user and its groups to Kubernetes, and the names a server answers to.
type Subject struct {
	Name   string
	Groups []string
	Hosts  []string
	IPs    []net.IP
}

// OpenAuthority reads the authority called name from dir, or makes it.
func OpenAuthority(dir, name string) (*Authority, error) {
	certPath, keyPath := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	cert, err := os.ReadFile(certPath)
	if err == nil {
		key, err := os.ReadFile(keyPath)
		if err != nil {
			return nil, err
		}
		return parse(cert, key)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	a, err := newAuthority(name)
	if err != nil {
		return nil, err
	}
	// The certificate comes last: where it is, the key is.
	if err := WriteFile(keyPath, a.Key, 0o600); err != nil {
		return nil, err
	}
	return a, WriteFile(certPath, a.Cert, 0o644)
}

// OpenKey reads the key pair called name from dir, or makes it.
func OpenKey(dir, name string) (key, public PEM, err error) {
	path := filepath.Join(dir, name+".key")
	if key, err = os.ReadFile(path); errors.Is(err, fs.ErrNotExist) {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		if key, err = encodeKey(k); err != nil {
			return nil, nil, err
		}
		if err := WriteFile(path, key, 0o600); err != nil {
			return nil, nil, err
		}
	} else if err != nil {
		return nil, nil, err
	}
	k, err := decodeKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", path, err)
	}
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// Sign makes a certificate that serves as a client's and, if the subject has hosts or addresses, as a server's.
func (a *Authority) Sign(s Subject) (cert, key PEM, err error) {
	t := template(s.Name)
	t.Subject.Organization = s.Groups
	t.DNSNames, t.IPAddresses = s.Hosts, s.IPs
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if len(s.Hosts)+len(s.IPs) > 0 {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	return issue(t, a.cert, a.key)
}

func newAuthority(name string) (*Authority, error) {
	t := template(name)
	t.IsCA, t.BasicConstraintsValid = true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature
	cert, key, err := issue(t, nil, nil)
	if err != nil {
		return nil, err
	}
	return parse(cert, key)
}

func template(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // crypto/rand does not fail
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour), // clocks differ
		NotAfter:     time.Now().Add(lifetime),
	}
}

// issue makes a new key and signs t for it, by itself if there is no parent.
func issue(t, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (cert, keyPEM PEM, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if parent == nil {
		parent, parentKey = t, key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), parentKey)
	if err != nil {
		return nil, nil, fmt.Errorf("signing the certificate of %s: %w", t.Subject.CommonName, err)
	}
	keyPEM, err = encodeKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM, err
}

func parse(cert, key PEM) (*Authority, error) {
	block, _ := pem.Decode(cert)
	if block == nil {
		return nil, errors.New("the authority's certificate is not PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	k, err := decodeKey(key)
	return &Authority{Cert: cert, Key: key, cert: c, key: k}, err
}

func encodeKey(k *ecdsa.PrivateKey) (PEM, error) {
	der, err := x509.MarshalECPrivateKey(k)
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), err
}

func decodeKey(p PEM) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(p)
	if block == nil {
		return nil, errors.New("the key is not PEM")
	}
	return x509.ParseECPrivateKey(block.Bytes)
}

// WriteFile writes a file as a whole or not at all, and makes its folder.
func WriteFile(path string, content []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	part := path + ".part"
	if err := os.WriteFile(part, content, mode); err != nil {
		return err
	}
	return os.Rename(part, path)
}

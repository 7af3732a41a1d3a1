package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"
)

// Wildcard is the certificate of every name directly under a domain, and the authority that has signed it, which can sign for
// names of that domain only. All are PEM.
type Wildcard struct {
	Cert, Key     []byte // Cert with the authority's behind it
	CACert, CAKey []byte
}

const (
	wildcardLifetime = 365 * 24 * time.Hour
	wildcardRenewal  = 90 * 24 * time.Hour // before its end
)

// Renewed has a certificate for *.domain that is good from now. The authority stays that of w, if that is one for this domain
// that lives for long enough; otherwise there is a new one.
func (w Wildcard) Renewed(domain string, now time.Time) (Wildcard, error) {
	ca, signer, err := w.authority(domain, now)
	if err != nil {
		if w.CACert, w.CAKey, err = newDomainAuthority(domain, now); err != nil {
			return Wildcard{}, err
		}
		if ca, signer, err = w.authority(domain, now); err != nil {
			return Wildcard{}, err
		}
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return Wildcard{}, err
	}
	template, err := certificateTemplate("*."+domain, now, wildcardLifetime)
	if err != nil {
		return Wildcard{}, err
	}
	template.KeyUsage, template.ExtKeyUsage, template.DNSNames = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, []string{"*." + domain}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), signer)
	if err != nil {
		return Wildcard{}, fmt.Errorf("signing the certificate of %s: %w", domain, err)
	}
	w.Cert, w.Key = slices.Concat(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), w.CACert), keyPEM
	return w, nil
}

// Good says whether the certificate is for *.domain and need not be renewed yet.
func (w Wildcard) Good(domain string, now time.Time) bool {
	pair, err := tls.X509KeyPair(w.Cert, w.Key)
	if err != nil {
		return false
	}
	return slices.Contains(pair.Leaf.DNSNames, "*."+domain) && now.After(pair.Leaf.NotBefore) && now.Before(pair.Leaf.NotAfter.Add(-wildcardRenewal))
}

// Foreign says whether the certificate is another authority's: somebody sees to it who is not dayfly.
func (w Wildcard) Foreign() bool {
	shown, err := tls.X509KeyPair(w.Cert, w.Key)
	if err != nil {
		return false
	}
	ca, err := tls.X509KeyPair(w.CACert, w.CAKey)
	return err == nil && shown.Leaf.CheckSignatureFrom(ca.Leaf) != nil
}

// authority reads the authority, if it can sign for a domain.
func (w Wildcard) authority(domain string, now time.Time) (*x509.Certificate, crypto.Signer, error) {
	pair, err := tls.X509KeyPair(w.CACert, w.CAKey)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the authority of %s: %w", domain, err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA || !slices.Equal(pair.Leaf.PermittedDNSDomains, []string{domain}) || len(pair.Leaf.ExcludedIPRanges) == 0 || now.Add(wildcardLifetime).After(pair.Leaf.NotAfter) {
		return nil, nil, errors.New("it is another's, or too old")
	}
	return pair.Leaf, signer, nil
}

func newDomainAuthority(domain string, now time.Time) (certPEM, keyPEM []byte, err error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	template, err := certificateTemplate("dayfly environments of "+domain, now, caLifetime)
	if err != nil {
		return nil, nil, err
	}
	template.IsCA, template.BasicConstraintsValid, template.MaxPathLenZero, template.KeyUsage = true, true, true, x509.KeyUsageCertSign
	// People are asked to trust it: it is good for web servers of this domain and for nothing else.
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.PermittedDNSDomainsCritical, template.PermittedDNSDomains = true, []string{domain}
	template.PermittedEmailAddresses, template.PermittedURIDomains = []string{domain}, []string{domain}
	template.ExcludedIPRanges = []*net.IPNet{{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("signing the authority of %s: %w", domain, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM, nil
}

func newKey() (key *ecdsa.PrivateKey, keyPEM []byte, err error) {
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding a key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func certificateTemplate(name string, now time.Time, lifetime time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	if len(name) > 64 { // longer common names are not allowed, and nobody reads them
		name = "dayfly environments"
	}
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-defaultTolerance), NotAfter: now.Add(lifetime)}, nil
}

package identity

import (
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"
)

// What a browser that trusts the authority would say of a name.
func verify(t *testing.T, w Wildcard, name string, at time.Time) error {
	t.Helper()
	block, _ := pem.Decode(w.Cert)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(w.CACert) {
		t.Fatal("the authority's certificate cannot be read")
	}
	_, err = leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: at})
	return err
}

func TestWildcard(t *testing.T) {
	now := time.Now()
	w, err := Wildcard{}.Renewed("env.example.com", now)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(t, w, "web--pr-1--team.env.example.com", now); err != nil {
		t.Errorf("a name under the domain: %v", err)
	}
	for _, name := range []string{"example.com", "a.b.env.example.com", "env.example.org"} {
		if verify(t, w, name, now) == nil {
			t.Errorf("it is good for %s", name)
		}
	}
	if !w.Good("env.example.com", now) || w.Good("example.com", now) || w.Good("env.example.com", now.Add(300*24*time.Hour)) {
		t.Error("good for what it is not, or not for what it is")
	}
	later, err := w.Renewed("env.example.com", now.Add(300*24*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if string(later.CACert) != string(w.CACert) || string(later.Cert) == string(w.Cert) {
		t.Error("a renewed certificate has another authority, or is the same")
	}
	if err := verify(t, later, "web.env.example.com", now.Add(400*24*time.Hour)); err != nil {
		t.Errorf("renewed: %v", err)
	}
	if moved, err := later.Renewed("example.org", now); err != nil || string(moved.CACert) == string(w.CACert) || verify(t, moved, "web.example.org", now) != nil {
		t.Errorf("another domain: %v", err)
	}
	if aged, err := w.Renewed("env.example.com", now.Add(caLifetime-time.Hour)); err != nil || string(aged.CACert) == string(w.CACert) {
		t.Errorf("an authority signs for longer than it lives itself: %v", err)
	}
}

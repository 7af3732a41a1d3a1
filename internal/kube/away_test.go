package kube

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dayfly.dev/dayfly/internal/usererr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// A laptop whose clock is a year off is told so, by a real handshake with a certificate that is not valid at this time.
func TestClockThatIsFarOffIsNamed(t *testing.T) {
	for _, off := range []time.Duration{365 * 24 * time.Hour, -365 * 24 * time.Hour} {
		there := time.Now().Add(off) // the cluster's clock
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: there.Add(-time.Hour), NotAfter: there.Add(24 * time.Hour),
			IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		s := httptest.NewUnstartedServer(http.NotFoundHandler())
		s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
		s.Config.ErrorLog = nil
		s.StartTLS()
		defer s.Close()
		ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		file := filepath.Join(t.TempDir(), "config")
		config := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{name: x, context: {cluster: x, user: x}}]\n"+
			"users: [{name: x, user: {}}]\nclusters: [{name: x, cluster: {server: %q, certificate-authority-data: %s}}]\n", s.URL, ca)
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Open(Options{Kubeconfig: file})
		if err != nil {
			t.Fatal(err)
		}
		err = c.Ping(t.Context())
		if usererr.CodeOf(err) != usererr.NoCluster || !strings.Contains(usererr.FixOf(err), "clock") {
			t.Errorf("%s: error %v, fix %q", off, err, usererr.FixOf(err))
		}
	}
}

// Waiting helps where the API server is away, and nowhere else.
func TestAwayIsWhereWaitingHelps(t *testing.T) {
	for _, c := range []struct {
		err  error
		away bool
	}{
		{nil, false},
		{&net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}, true},
		{fmt.Errorf("reading: %w", io.ErrUnexpectedEOF), true},
		{apierrors.NewServiceUnavailable("starting"), true},
		{apierrors.NewTooManyRequests("later", 1), true},
		{apierrors.NewNotFound(schema.GroupResource{Resource: "sessions"}, "ada"), false},
		{apierrors.NewUnauthorized("expired"), false},
		{errors.New("odd"), false},
	} {
		if got := Away(c.err); got != c.away {
			t.Errorf("%v: away %t, want %t", c.err, got, c.away)
		}
	}
}

// Command sourceserver is where stories have environments fetched from: repositories of Git, served by Git's own http-backend, and an
// OCI registry, by https and to who knows the password.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"net/http"
	"net/http/cgi"
	"os"
	"time"

	"dayfly.dev/dayfly/internal/source"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// root is where the repositories are, and ca.crt.
const root = "/tmp/sources"

const address = ":8443"

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sourceserver:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("usage: sourceserver serve -host NAME | push REPOSITORY:TAG DIR")
	}
	f := flag.NewFlagSet(args[0], flag.ExitOnError)
	host := f.String("host", "localhost", "name under which it is reached")
	user := f.String("user", "ada", "who may come in")
	password := f.String("password", os.Getenv("PASSWORD"), "and what they say")
	if err := f.Parse(args[1:]); err != nil {
		return err
	}
	switch {
	case args[0] == "serve":
		return serve(*host, *user, *password)
	case args[0] == "push" && f.NArg() == 2:
		return push(f.Arg(0), f.Arg(1), *user, *password)
	}
	return fmt.Errorf("%s is not known", args[0])
}

func serve(host, user, password string) error {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	cert, err := certificate(host)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/v2/", ggcr.New())
	mux.Handle("/", &cgi.Handler{Path: "/usr/bin/git", Args: []string{"http-backend"}, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "HOME=/tmp"}})
	s := &http.Server{Addr: address, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if u, p, _ := r.BasicAuth(); u != user || p != password {
				w.Header().Set("WWW-Authenticate", `Basic realm="sources"`)
				http.Error(w, "no", http.StatusUnauthorized)
				return
			}
			mux.ServeHTTP(w, r)
		})}
	return s.ListenAndServeTLS("", "")
}

// certificate makes one for a name, signed by itself, and leaves it in root for who is to trust it.
func certificate(host string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, os.WriteFile(root+"/ca.crt", text, 0o644)
}

// push puts a folder into the registry of this pod as flux push artifact would.
func push(name, dir, user, password string) error {
	folder, err := source.ReadFolder(os.DirFS(dir))
	if err != nil {
		return err
	}
	packed, err := folder.Pack()
	if err != nil {
		return err
	}
	repo, err := remote.NewRepository("localhost" + address + "/" + name)
	if err != nil {
		return err
	}
	repo.Client = &auth.Client{
		Client:     &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}, // it is this pod
		Credential: auth.StaticCredential(repo.Reference.Registry, auth.Credential{Username: user, Password: password}),
	}
	ctx := context.Background()
	layer, err := oras.PushBytes(ctx, repo, "application/vnd.cncf.flux.content.v1.tar+gzip", packed)
	if err != nil {
		return err
	}
	manifest, err := oras.PackManifest(ctx, repo, oras.PackManifestVersion1_1, "application/vnd.cncf.flux.config.v1+json", oras.PackManifestOptions{Layers: []ocispec.Descriptor{layer}})
	if err != nil {
		return err
	}
	if err := repo.Tag(ctx, manifest, repo.Reference.Reference); err != nil {
		return err
	}
	fmt.Println(manifest.Digest)
	return nil
}

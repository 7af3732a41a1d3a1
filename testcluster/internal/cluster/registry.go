package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// RegistryHost begins the names of images in the cluster's registry. No name server knows it: each node's containerd is told where
// it is.
const RegistryHost = "registry.test"

const registryPort = "5000"

// Push puts an image file into the cluster's registry and returns its name by digest.
func (c *Cluster) Push(ctx context.Context, file, ref string) (string, error) {
	tag, err := name.NewTag(ref)
	if err != nil {
		return "", fmt.Errorf("%q is not an image name such as %s/team/app:1: %w", ref, RegistryHost, err)
	}
	if tag.RegistryStr() != RegistryHost {
		return "", fmt.Errorf("%q is not in the cluster's registry: call it %s/%s", ref, RegistryHost, tag.RepositoryStr())
	}
	image, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", file, err)
	}
	digest, err := image.Digest()
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", file, err)
	}
	transport, err := c.toRegistry()
	if err != nil {
		return "", err
	}
	if err := remote.Write(tag, image, remote.WithContext(ctx), remote.WithTransport(transport)); err != nil {
		return "", fmt.Errorf("pushing %s: %w; see `testcluster status` and `testcluster logs registry` (a cluster of earlier sources has none)", ref, err)
	}
	return tag.Digest(digest.String()).String(), nil
}

// registryAnswers complains unless the registry can be asked.
func (c *Cluster) registryAnswers(ctx context.Context) error {
	transport, err := c.toRegistry()
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+RegistryHost+"/v2/", nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the registry says %s", resp.Status)
	}
	return nil
}

// toRegistry connects to the registry from the host, whatever the name.
func (c *Cluster) toRegistry() (*http.Transport, error) {
	a, err := c.openAuthorities()
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.cluster.Cert)
	address, dialer := net.JoinHostPort(c.controlEnd().String(), registryPort), net.Dialer{Timeout: 5 * time.Second}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
		TLSClientConfig: &tls.Config{RootCAs: roots},
	}, nil
}

package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"dayfly.dev/dayfly/testcluster/internal/machine"
	"dayfly.dev/dayfly/testcluster/internal/pki"
)

// api asks the API server the few questions of `up`, which are not worth a dependency on client-go.
type api struct {
	server string
	client *http.Client
}

func (c *Cluster) api() (*api, error) {
	a, err := c.openAuthorities()
	if err != nil {
		return nil, err
	}
	cert, key, err := a.cluster.Sign(pki.Subject{Name: "testcluster", Groups: []string{"system:masters"}})
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.cluster.Cert)
	return &api{
		server: fmt.Sprintf("https://%s:6443", c.controlEnd()),
		client: &http.Client{
			Timeout:   5 * time.Second,
			Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}},
		},
	}, nil
}

func (a *api) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.server+path, nil)
	if err != nil {
		return err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}

func (a *api) ready(ctx context.Context) error { return a.get(ctx, "/readyz", nil) }

// Node is what a node says about itself.
type Node struct {
	Metadata struct{ Name string }
	Status   struct{ Conditions []condition }
}

type condition struct {
	Type, Status, Message string
	LastHeartbeatTime     time.Time
}

// Ready returns why the node is not ready, if it is not. What it said before since does not count.
func (n Node) Ready(since time.Time) error {
	for _, cond := range n.Status.Conditions {
		if cond.Type == "Ready" && !cond.LastHeartbeatTime.Before(since.Truncate(time.Second)) {
			if cond.Status == "True" {
				return nil
			}
			return fmt.Errorf("node %s: %s", n.Metadata.Name, cond.Message)
		}
	}
	return fmt.Errorf("node %s has not said whether it is ready", n.Metadata.Name)
}

// nodesReady complains about nodes that are not ready, or have not said so since their machine was turned on.
func (c *Cluster) nodesReady(ctx context.Context) error {
	api, err := c.api()
	if err != nil {
		return err
	}
	var list struct{ Items []Node }
	if err := api.get(ctx, "/api/v1/nodes", &list); err != nil {
		return err
	}
	var errs []error
	for _, name := range c.NodeNames() {
		since, err := machine.Since(c.machineDir(name))
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list.Items, func(n Node) bool { return n.Metadata.Name == name })
		if i < 0 {
			errs = append(errs, fmt.Errorf("node %s has not registered", name))
			continue
		}
		errs = append(errs, list.Items[i].Ready(since))
	}
	return errors.Join(errs...)
}

// resolves complains unless every node can resolve the name of a Service. That it can shows that kube-proxy, DNS and the
// network of pods work.
func (c *Cluster) resolves(ctx context.Context) error {
	for _, name := range c.NodeNames() {
		pid, err := c.pidOf(name)
		if err != nil {
			return err
		}
		resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dialFrom(machine.NetworkPath(pid), network, dnsService+":53")
		}}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if _, err := resolver.LookupHost(ctx, "kubernetes.default.svc.cluster.local."); err != nil {
			return fmt.Errorf("%s cannot resolve the name of a Service: %w", name, err)
		}
	}
	return nil
}

// dialFrom connects from within the network namespace at path.
func dialFrom(path, network, address string) (conn net.Conn, err error) {
	err = machine.InNetwork(path, func() (err error) {
		conn, err = net.DialTimeout(network, address, time.Second)
		return err
	})
	return conn, err
}

// installAddons applies what every cluster has in it.
func (c *Cluster) installAddons(ctx context.Context) error {
	type node struct{ Name, PodCIDR string }
	var nodes []node
	for i := 1; i <= c.Nodes; i++ {
		nodes = append(nodes, node{nodeName(i), nodePodCIDR(i)})
	}
	corefile, err := configs.ReadFile("config/Corefile")
	if err != nil {
		return err
	}
	manifest, err := render("addons.yaml", map[string]any{
		"Nodes": nodes, "DNS": dnsService, "DNSImage": corednsImage,
		"Corefile": string(corefile), "Checksum": fmt.Sprintf("%x", sha256.Sum256(corefile))[:16],
	})
	if err != nil {
		return err
	}
	cmd := c.Kubectl(ctx, "apply", "--server-side", "--force-conflicts", "--field-manager=testcluster", "-f", "-")
	cmd.Stdin = bytes.NewReader(manifest)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("applying the cluster's own objects: %s", strings.TrimSpace(string(out)))
	}
	return nil
}

// Kubectl is a kubectl with all rights in the cluster.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.Programs["kubernetes"], args...)
	cmd.Args[0] = "kubectl"
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	return cmd
}

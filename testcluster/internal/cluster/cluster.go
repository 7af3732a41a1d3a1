// Package cluster makes a Kubernetes cluster out of machines: it decides what runs on each and with which configuration,
// and brings it up and down.
package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"dayfly.dev/dayfly/testcluster/internal/machine"
	"dayfly.dev/dayfly/testcluster/internal/pki"
)

// Shape is what a user decides about a cluster.
type Shape struct {
	Nodes     int    `json:"nodes"`
	ProxyMode string `json:"proxyMode"`
}

func (s Shape) String() string {
	nodes := "nodes"
	if s.Nodes == 1 {
		nodes = "node"
	}
	return fmt.Sprintf("%d %s, kube-proxy mode %s", s.Nodes, nodes, s.ProxyMode)
}

// Cluster is a folder with all that a cluster is; that it exists does not mean that it runs.
type Cluster struct {
	Dir string `json:"-"`
	ID  string `json:"id"`
	Shape
	// Link joins the host to the API server: the host has the first address, the machine control the second.
	Link netip.Prefix `json:"link"`
	// Programs are the executables that the machines run.
	Programs map[string]string `json:"programs"`
}

// ErrNone is what Open returns when there is no cluster in the folder.
var ErrNone = errors.New("no cluster")

// Open reads the cluster in dir.
func Open(dir string) (*Cluster, error) {
	c := &Cluster{Dir: dir, ID: idOf(dir)}
	content, err := os.ReadFile(c.path(stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("%w in %s: `testcluster up` makes one", ErrNone, dir)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(content, c); err != nil {
		return nil, fmt.Errorf("reading %s: %w", c.path(stateFile), err)
	}
	return c, nil
}

const stateFile = "cluster.json"

func (c *Cluster) save() error {
	content, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return pki.WriteFile(c.path(stateFile), append(content, '\n'), 0o644)
}

// DefaultDir is where a user's cluster is.
func DefaultDir() (string, error) {
	state := os.Getenv("XDG_STATE_HOME")
	if state == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		state = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(state, "dayfly", "testcluster", "default"), nil
}

// Kubeconfig is the path of a kubeconfig with all rights.
func (c *Cluster) Kubeconfig() string { return c.path("kubeconfig") }

// LogFiles returns the logs of a component, such as kubelet or node-2/kubelet.
func (c *Cluster) LogFiles(component string) []string {
	pattern := c.path("machines", "*", "logs", component+".log")
	if name, component, ok := strings.Cut(component, "/"); ok {
		pattern = c.path("machines", name, "logs", component+".log")
	}
	found, _ := filepath.Glob(pattern)
	return found
}

// Machines are the names of all machines.
func (c *Cluster) Machines() []string { return append([]string{control}, c.NodeNames()...) }

// NodeNames are the names of the nodes.
func (c *Cluster) NodeNames() []string {
	var names []string
	for i := range c.Nodes {
		names = append(names, nodeName(i+1))
	}
	return names
}

// Pid returns the process id of the machine's init, 0 if the machine is off.
func (c *Cluster) Pid(name string) (int, error) { return machine.Pid(c.machineDir(name)) }

// pidOf returns the process id of a machine that is to be on.
func (c *Cluster) pidOf(name string) (int, error) {
	pid, err := c.Pid(name)
	if err == nil && pid == 0 {
		err = fmt.Errorf("machine %s is off or unknown; the machines are %s", name, strings.Join(c.Machines(), ", "))
	}
	return pid, err
}

func (c *Cluster) machineDir(name string) string { return c.path("machines", name) }

func (c *Cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.Dir}, elem...)...)
}

func idOf(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:])[:8]
}

// Lock keeps other testcluster commands from changing the cluster in dir until it is released. waiting is called if that
// takes time.
func Lock(dir string, waiting func()) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "lock")
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			waiting()
			if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
				return nil, fmt.Errorf("waiting for %s: %w", path, err)
			}
		}
		if same(f, path) {
			return func() { f.Close() }, nil
		}
		f.Close() // `down` has removed it meanwhile
	}
}

func same(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"dayfly.dev/dayfly/testcluster/internal/machine"
)

// WriteMachines lists the machines.
func (c *Cluster) WriteMachines(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "MACHINE\tPOWER\tPID\tADDRESS")
	for i, name := range c.Machines() {
		pid, err := c.Pid(name)
		if err != nil {
			return err
		}
		address, power := controlIP, "on"
		if i > 0 {
			address = nodeIP(i)
		}
		if pid == 0 {
			power = "off"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\n", name, power, pid, address)
	}
	return t.Flush()
}

// WriteStatus lists the machines and what the API server says about nodes and DNS. It fails if the cluster is not usable.
func (c *Cluster) WriteStatus(ctx context.Context, w io.Writer) error {
	if err := c.WriteMachines(w); err != nil {
		return err
	}
	api, err := c.api()
	if err != nil {
		return err
	}
	if err := api.ready(ctx); err != nil {
		return fmt.Errorf("the API server does not answer: %w; see `testcluster logs kube-apiserver`", err)
	}
	if err := c.nodesReady(ctx); err != nil {
		return err
	}
	if err := c.resolves(ctx); err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "all nodes are ready and names resolve (%s)\n", c.Shape)
	return err
}

// LogNames lists the components that have logs.
func (c *Cluster) LogNames() []string {
	var names []string
	for _, file := range c.LogFiles("*") {
		if name := strings.TrimSuffix(filepath.Base(file), ".log"); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// Load gives an image file to every node.
func (c *Cluster) Load(ctx context.Context, file string) error {
	if _, err := os.Stat(file); err != nil {
		return err
	}
	names := c.NodeNames()
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { errs[i] = c.loadInto(ctx, name, file) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (c *Cluster) loadInto(ctx context.Context, name, file string) error {
	pid, err := c.Pid(name)
	if err != nil {
		return err
	}
	if pid == 0 {
		return fmt.Errorf("node %s is off and would lack the image: run `testcluster node start %s`, then this again", name, name)
	}
	socket := filepath.Join("/proc", fmt.Sprint(pid), "root", "run/containerd/containerd.sock") // as the node itself sees it
	cmd := exec.CommandContext(ctx, c.Programs["ctr"], "--address", socket, "--namespace", "k8s.io", "images", "import", "--local", file)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("loading %s into %s: %s", file, name, strings.TrimSpace(string(out)))
	}
	return nil
}

// KillNode cuts the power of a node.
func (c *Cluster) KillNode(name string) error {
	if _, err := c.nodeNumber(name); err != nil {
		return err
	}
	return machine.Kill(c.machineDir(name))
}

// StartNode turns a node on; it does not wait for it to be ready.
func (c *Cluster) StartNode(name string) error {
	i, err := c.nodeNumber(name)
	if err != nil {
		return err
	}
	a, err := c.openAuthorities()
	if err != nil {
		return err
	}
	return c.startNode(i, a)
}

// CutNode takes the link of a node down, JoinNode up.
func (c *Cluster) CutNode(name string) error  { return c.setLink(name, "down") }
func (c *Cluster) JoinNode(name string) error { return c.setLink(name, "up") }

func (c *Cluster) setLink(name, state string) error {
	if _, err := c.nodeNumber(name); err != nil {
		return err
	}
	for _, needed := range []string{name, control} {
		if _, err := c.pidOf(needed); err != nil {
			return err
		}
	}
	pid, err := c.pidOf(control)
	if err != nil {
		return err
	}
	return machine.IP(machine.NetworkPath(pid), "link set "+name+" "+state)
}

func (c *Cluster) nodeNumber(name string) (int, error) {
	i := slices.Index(c.NodeNames(), name)
	if i < 0 {
		return 0, fmt.Errorf("no node %s; the nodes are %s", name, strings.Join(c.NodeNames(), ", "))
	}
	return i + 1, nil
}

// EnterNetwork moves the calling goroutine, and any program that it becomes, into the network of a machine.
func (c *Cluster) EnterNetwork(name string) error {
	pid, err := c.pidOf(name)
	if err != nil {
		return err
	}
	ns, err := os.Open(machine.NetworkPath(pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	runtime.LockOSThread()
	return unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
}

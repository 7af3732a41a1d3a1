package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"dayfly.dev/dayfly/testcluster/internal/machine"
)

// Down ends the cluster in dir and removes all that it consisted of.
func Down(dir string, p *Progress) error {
	c := &Cluster{Dir: dir, ID: idOf(dir)}
	dirs, err := filepath.Glob(c.path("machines", "*"))
	if err != nil {
		return err
	}
	stop := func() error {
		var errs []error
		for _, d := range dirs {
			errs = append(errs, machine.Kill(d))
		}
		return errors.Join(errs...)
	}
	if err := p.Step("stopping machines", stop); err != nil {
		return err
	}
	return p.Step("removing what they leave", c.remove)
}

func (c *Cluster) remove() error {
	if err := c.awaitNoInterface(); err != nil {
		return err
	}
	if err := machine.RemoveCgroup(c.cgroup()); err != nil {
		return err
	}
	for _, name := range []string{"machines", "images", "volumes", "pki", "kubeconfig", stateFile, "lock"} {
		if err := os.RemoveAll(c.path(name)); err != nil {
			return err
		}
	}
	if err := os.Remove(c.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the cluster is gone, but its folder is not empty: %w", err)
	}
	return nil
}

// awaitNoInterface waits until the kernel has taken down control's network and with it the host's end of the cable.
func (c *Cluster) awaitNoInterface() error {
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if _, err := net.InterfaceByName(c.hostInterface()); err != nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the network device %s is still there: a process holds the network of machine %s", c.hostInterface(), control)
		}
	}
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"time"

	"dayfly.dev/dayfly/testcluster/internal/build"
	"dayfly.dev/dayfly/testcluster/internal/image"
	"dayfly.dev/dayfly/testcluster/internal/machine"
)

// Up makes the cluster in dir run in the given shape and returns when its nodes are ready and names resolve. Whatever
// state an earlier Up left, at whichever point it was killed, it goes on from there.
func Up(ctx context.Context, dir string, shape Shape, p *Progress) (*Cluster, error) {
	c, err := Open(dir)
	fresh := errors.Is(err, ErrNone)
	if err != nil && !fresh {
		return nil, err
	}
	if !fresh && c.Shape != shape {
		return nil, fmt.Errorf("the cluster in %s has another shape (%s; wanted: %s): run `testcluster down` first, or give another --dir", dir, c.Shape, shape)
	}
	if !fresh && c.healthy(ctx) {
		c.noteAge(ctx, p)
		return c, nil
	}
	if err := preflight(dir, shape); err != nil {
		return nil, err
	}
	programs, err := build.All(ctx, p.Step)
	if err != nil {
		return nil, err
	}
	c.Shape = shape
	if err := c.choose(programs); err != nil {
		return nil, err
	}
	return c, c.boot(ctx, p)
}

// healthy tells whether all machines are on, all nodes ready and names resolve.
func (c *Cluster) healthy(ctx context.Context) bool {
	for _, name := range c.Machines() {
		if pid, err := c.Pid(name); err != nil || pid == 0 {
			return false
		}
	}
	return c.nodesReady(ctx) == nil && c.resolves(ctx) == nil
}

// noteAge tells when a running cluster is not what the sources would make.
func (c *Cluster) noteAge(ctx context.Context, p *Progress) {
	if programs, err := build.Paths(ctx); err == nil && !reflect.DeepEqual(programs, c.Programs) {
		p.Note("the cluster runs programs of earlier sources: `testcluster down` and `up` renew them")
	}
}

// choose settles what machines are started with. It is decided while control is off and stays for as long as it is on.
func (c *Cluster) choose(programs map[string]string) error {
	pid, err := c.Pid(control)
	if err != nil {
		return err
	}
	if pid == 0 {
		if err := c.chooseLink(); err != nil {
			return err
		}
	}
	c.Programs = programs
	return c.save()
}

// boot starts the machines that are off and waits for the cluster to be usable.
func (c *Cluster) boot(ctx context.Context, p *Progress) error {
	if err := p.Step("making images", func() error { return c.makeImages(ctx) }); err != nil {
		return err
	}
	a, err := c.openAuthorities()
	if err != nil {
		return err
	}
	for _, dir := range []string{"volumes", "images"} {
		if err := os.MkdirAll(c.path(dir), 0o755); err != nil {
			return err
		}
	}
	if err := p.Step("starting machines", func() error { return c.startMachines(a) }); err != nil {
		return err
	}
	if err := c.writeKubeconfig(a); err != nil {
		return err
	}
	api, err := c.api()
	if err != nil {
		return err
	}
	if err := c.await(ctx, p, "API server", api.ready); err != nil {
		return err
	}
	if err := p.Step("installing DNS and access rights", func() error { return c.installAddons(ctx) }); err != nil {
		return err
	}
	if err := c.await(ctx, p, "registry", c.registryAnswers); err != nil {
		return err
	}
	if err := c.await(ctx, p, "nodes", c.nodesReady); err != nil {
		return err
	}
	return c.await(ctx, p, "DNS", c.resolves)
}

func (c *Cluster) startMachines(a *authorities) error {
	pid, err := c.Pid(control)
	if err != nil {
		return err
	}
	if pid == 0 {
		// Nodes are plugged into control: without it they are on no network.
		for _, name := range c.NodeNames() {
			if err := machine.Kill(c.machineDir(name)); err != nil {
				return err
			}
		}
		spec, err := c.prepareControl(a)
		if err != nil {
			return err
		}
		if err := c.start(spec, machine.NetworkPath(os.Getpid())); err != nil {
			return err
		}
	}
	for i := 1; i <= c.Nodes; i++ {
		if err := c.startNode(i, a); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) startNode(i int, a *authorities) error {
	name := nodeName(i)
	if pid, err := c.Pid(name); err != nil || pid != 0 {
		return err
	}
	spec, err := c.prepareNode(i, a)
	if err != nil {
		return err
	}
	uplink, err := c.pidOf(control)
	if err != nil {
		return err
	}
	return c.start(spec, machine.NetworkPath(uplink))
}

func (c *Cluster) start(spec machine.Spec, uplink string) error {
	if err := os.MkdirAll(filepath.Join(spec.Dir, "logs"), 0o755); err != nil {
		return err
	}
	return machine.Start(spec, uplink)
}

// makeImages puts the images that every node has into the cluster's folder.
func (c *Cluster) makeImages(ctx context.Context) error {
	if err := os.MkdirAll(c.path("images"), 0o755); err != nil {
		return err
	}
	for ref, program := range map[string]string{pauseImage: "pause", corednsImage: "coredns"} {
		out := c.path("images", program+".tar")
		if newer(out, c.Programs[program]) {
			continue
		}
		spec := image.Spec{Ref: ref, Files: []string{c.Programs[program] + "=/" + program}, Entrypoint: []string{"/" + program}}
		if err := image.Write(ctx, spec, out); err != nil {
			return err
		}
	}
	return nil
}

// newer tells whether a file was made after what it was made from.
func newer(file, from string) bool {
	a, err := os.Stat(file)
	if err != nil {
		return false
	}
	b, err := os.Stat(from)
	return err == nil && a.ModTime().After(b.ModTime())
}

// await asks until there is no complaint.
func (c *Cluster) await(ctx context.Context, p *Progress, what string, ask func(context.Context) error) error {
	const limit = 2 * time.Minute
	return p.Step("waiting for "+what, func() error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		for {
			err := ask(ctx)
			if err == nil {
				return nil
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s not ready after %s: %w; the logs are in %s", what, limit, err, c.path("machines", "*", "logs"))
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
}

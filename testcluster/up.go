package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"dayfly.dev/dayfly/testcluster/internal/cluster"
)

type upOptions struct {
	where *where
	shape cluster.Shape
}

func newUpCmd(w *where) *cobra.Command {
	o := upOptions{where: w}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "build and start the cluster",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	cmd.Flags().IntVar(&o.shape.Nodes, "nodes", 1, "number of nodes")
	cmd.Flags().StringVar(&o.shape.ProxyMode, "proxy-mode", "nftables", "how kube-proxy works: nftables or iptables")
	return cmd
}

func (o *upOptions) run(ctx context.Context) error {
	if m := o.shape.ProxyMode; m != "nftables" && m != "iptables" {
		return fmt.Errorf("--proxy-mode %s: nftables and iptables are possible", m)
	}
	release, err := lock(o.where)
	if err != nil {
		return err
	}
	defer release()
	began := time.Now()
	c, err := cluster.Up(ctx, o.where.dir, o.shape, &cluster.Progress{W: os.Stderr})
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%6s  the cluster is up: %s\n        export KUBECONFIG=%s\n",
		time.Since(began).Round(100*time.Millisecond), c.Shape, c.Kubeconfig())
	return nil
}

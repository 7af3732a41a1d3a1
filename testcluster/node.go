package main

import (
	"os"

	"github.com/spf13/cobra"

	"dayfly.dev/dayfly/testcluster/internal/cluster"
)

func newNodeCmd(w *where) *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "break nodes and mend them"}
	sub := func(use, short string, args cobra.PositionalArgs, run func(c *cluster.Cluster, args []string) error) {
		cmd.AddCommand(&cobra.Command{Use: use, Short: short, Args: args, RunE: func(_ *cobra.Command, args []string) error {
			c, err := cluster.Open(w.dir)
			if err != nil {
				return err
			}
			return run(c, args)
		}})
	}
	locked := func(do func(c *cluster.Cluster, name string) error) func(*cluster.Cluster, []string) error {
		return func(c *cluster.Cluster, args []string) error {
			release, err := lock(w)
			if err != nil {
				return err
			}
			defer release()
			return do(c, args[0])
		}
	}
	sub("list", "list the machines, whether they are on, and their process ids", cobra.NoArgs, func(c *cluster.Cluster, _ []string) error {
		return c.WriteMachines(os.Stdout)
	})
	one := cobra.ExactArgs(1)
	sub("kill NAME", "cut a node's power: everything on it dies at once", one, locked((*cluster.Cluster).KillNode))
	sub("start NAME", "turn a node on again, with what it had on its disk", one, locked((*cluster.Cluster).StartNode))
	sub("cut NAME", "pull a node's network cable", one, locked((*cluster.Cluster).CutNode))
	sub("join NAME", "plug a node's network cable in again", one, locked((*cluster.Cluster).JoinNode))
	return cmd
}

package main

import (
	"os"

	"github.com/spf13/cobra"

	"dayfly.dev/dayfly/testcluster/internal/cluster"
)

func newDownCmd(w *where) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "stop the cluster and remove everything of it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := os.Stat(w.dir); os.IsNotExist(err) {
				return nil
			}
			release, err := lock(w)
			if err != nil {
				return err
			}
			defer release()
			return cluster.Down(w.dir, &cluster.Progress{W: os.Stderr})
		},
	}
}

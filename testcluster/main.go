// Command testcluster runs a real Kubernetes cluster on one Linux machine, from Go modules and Debian packages.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"dayfly.dev/dayfly/testcluster/internal/cluster"
	"dayfly.dev/dayfly/testcluster/internal/machine"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newRootCmd().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "testcluster:", err)
		os.Exit(1)
	}
}

// where holds the folder of the cluster that a command is about.
type where struct{ dir string }

func (w *where) resolve() error {
	dir, err := w.dir, error(nil)
	if dir == "" {
		dir, err = cluster.DefaultDir()
	}
	if err == nil {
		w.dir, err = filepath.Abs(dir)
	}
	return err
}

func newRootCmd() *cobra.Command {
	var w where
	root := &cobra.Command{
		Use:               "testcluster",
		Short:             "a real Kubernetes cluster on one Linux machine",
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		PersistentPreRunE: func(*cobra.Command, []string) error { return w.resolve() },
	}
	root.PersistentFlags().StringVar(&w.dir, "dir", "", "folder that holds the cluster (default ~/.local/state/dayfly/testcluster/default)")
	root.AddCommand(newUpCmd(&w), newDownCmd(&w), newStatusCmd(&w), newKubeconfigCmd(&w), newKubectlCmd(&w),
		newLogsCmd(&w), newImageCmd(), newLoadCmd(&w), newPushCmd(&w), newNodeCmd(&w), newExecCmd(&w), newMachineCmd())
	return root
}

// newMachineCmd is how the first process of a machine is called.
func newMachineCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "machine DIR",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(_ *cobra.Command, args []string) error { return machine.Init(args[0]) },
	}
}

func lock(w *where) (release func(), err error) {
	return cluster.Lock(w.dir, func() {
		fmt.Fprintf(os.Stderr, "another testcluster command is at work in %s; waiting for it\n", w.dir)
	})
}

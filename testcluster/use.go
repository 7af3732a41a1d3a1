package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"dayfly.dev/dayfly/testcluster/internal/cluster"
)

func newStatusCmd(w *where) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "tell which machines are on and what the cluster says of its nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cluster.Open(w.dir)
			if err != nil {
				return err
			}
			return c.WriteStatus(cmd.Context(), os.Stdout)
		},
	}
}

func newKubeconfigCmd(w *where) *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig",
		Short: "print the path of the cluster's kubeconfig",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := cluster.Open(w.dir)
			if err == nil {
				fmt.Println(c.Kubeconfig())
			}
			return err
		},
	}
}

func newKubectlCmd(w *where) *cobra.Command {
	return &cobra.Command{
		Use:                "kubectl [--dir DIR] ARG…",
		Short:              "run kubectl, of the cluster's own version, with all rights",
		DisableFlagParsing: true, // all but a leading --dir is kubectl's
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 && args[0] == "--dir" {
				w.dir, args = args[1], args[2:]
			}
			c, err := cluster.Open(w.dir)
			if err != nil {
				return err
			}
			kubectl := c.Kubectl(cmd.Context(), args...)
			return become(kubectl)
		},
	}
}

func newLogsCmd(w *where) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs [MACHINE/]COMPONENT",
		Short: "print the log of a component, such as kube-apiserver or node-2/kubelet",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Open(w.dir)
			if err != nil {
				return err
			}
			files := c.LogFiles(args[0])
			if len(files) == 0 {
				return fmt.Errorf("no log of %s; there are %s", args[0], strings.Join(c.LogNames(), ", "))
			}
			tail := []string{"-n", "+1"}
			if follow {
				tail = []string{"-n", "20", "-F"}
			}
			return become(exec.Command("tail", append(tail, files...)...))
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on printing what is added")
	return cmd
}

func newLoadCmd(w *where) *cobra.Command {
	return &cobra.Command{
		Use:   "load IMAGE.tar",
		Short: "give every node an image, as `testcluster image` or `docker save` writes it",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Open(w.dir)
			if err != nil {
				return err
			}
			return c.Load(cmd.Context(), args[0])
		},
	}
}

func newPushCmd(w *where) *cobra.Command {
	return &cobra.Command{
		Use:   "push IMAGE.tar REF",
		Short: "put an image into the cluster's registry and print its name by digest, which nodes can pull",
		Long: "Put an image, as `testcluster image` or `docker save` writes it, into the cluster's registry and print its name by digest. REF\n" +
			"begins with " + cluster.RegistryHost + "/; nodes pull from there, by digest or by tag.",
		Example: "  testcluster push app.tar " + cluster.RegistryHost + "/team/app:1",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster.Open(w.dir)
			if err != nil {
				return err
			}
			pushed, err := c.Push(cmd.Context(), args[0], args[1])
			if err == nil {
				fmt.Println(pushed)
			}
			return err
		},
	}
}

func newExecCmd(w *where) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec MACHINE -- CMD…",
		Short: "run a program of the host in the network of control or a node, where pods can be reached",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := cluster.Open(w.dir)
			if err != nil {
				return err
			}
			command := slices.DeleteFunc(args[1:2:2], func(arg string) bool { return arg == "--" })
			command = append(command, args[2:]...)
			if err := c.EnterNetwork(args[0]); err != nil {
				return err
			}
			return become(exec.Command(command[0], command[1:]...))
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// become replaces this process by another program.
func become(cmd *exec.Cmd) error {
	if cmd.Err != nil {
		return cmd.Err
	}
	// Environ leaves the last of two values of a variable; a program that is given both mostly takes the first.
	return fmt.Errorf("running %s: %w", cmd.Path, syscall.Exec(cmd.Path, cmd.Args, cmd.Environ()))
}

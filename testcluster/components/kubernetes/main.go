// Command kubernetes is Kubernetes in one file: the first argument, or the name it is called by, selects the program.
// It exists because the upstream commands cannot be installed one by one from the module proxy, and because seven
// static binaries of one codebase would cost seven times the link time and disk.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	kubectlutil "k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"

	"dayfly.dev/dayfly/testcluster/components/kubernetes/netpol"
	"dayfly.dev/dayfly/testcluster/components/kubernetes/storage"
)

func main() {
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	if !slices.Contains(programs(), name) && len(args) > 0 {
		name, args = args[0], args[1:]
	}
	os.Args = append([]string{name}, args...)
	switch name {
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	case "kube-controller-manager":
		os.Exit(cli.Run(controllermanager.NewControllerManagerCommand()))
	case "kube-scheduler":
		os.Exit(cli.Run(scheduler.NewSchedulerCommand()))
	case "kube-proxy":
		os.Exit(cli.Run(proxy.NewProxyCommand()))
	case "kubelet":
		os.Exit(cli.Run(kubelet.NewKubeletCommand(context.Background())))
	case "kubectl":
		if err := cli.RunNoErrOutput(kubectl.NewDefaultKubectlCommand()); err != nil {
			kubectlutil.CheckErr(err)
		}
	case "netpol":
		os.Exit(cli.Run(netpolCommand()))
	case "storage":
		os.Exit(cli.Run(storageCommand()))
	default:
		fmt.Fprintf(os.Stderr, "usage: kubernetes %v …\n", programs())
		os.Exit(2)
	}
}

func programs() []string {
	return []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl", "netpol", "storage"}
}

func netpolCommand() *cobra.Command {
	var o netpol.Options
	cmd := &cobra.Command{
		Use:   "netpol",
		Short: "enforce NetworkPolicy for the pods of one node with nftables",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return netpol.Run(genericapiserver.SetupSignalContext(), o)
		},
	}
	cmd.Flags().StringVar(&o.Kubeconfig, "kubeconfig", "", "path of the kubeconfig file")
	cmd.Flags().StringVar(&o.Node, "node", "", "name of the node whose pods are guarded")
	return cmd
}

func storageCommand() *cobra.Command {
	var o storage.Options
	cmd := &cobra.Command{
		Use:   "storage",
		Short: "provision volumes in a folder that all machines share",
		RunE: func(*cobra.Command, []string) error {
			return storage.Run(genericapiserver.SetupSignalContext(), o)
		},
	}
	cmd.Flags().StringVar(&o.Kubeconfig, "kubeconfig", "", "path of the kubeconfig file")
	cmd.Flags().StringVar(&o.Folder, "folder", "", "the shared folder")
	return cmd
}

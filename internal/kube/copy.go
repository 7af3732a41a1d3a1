package kube

import (
	"fmt"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// WriteKubeconfig writes the kubeconfig that o names into a new file that only its owner may read: its context alone, with all that
// this one needs, in a namespace. It returns the file's path; "" if there is none, as in a pod, which has its own way to the cluster.
func WriteKubeconfig(o Options, namespace string) (string, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	raw, err := rules.Load()
	if err != nil {
		return "", noConfig(err)
	}
	if o.Context != "" {
		raw.CurrentContext = o.Context
	}
	if raw.Contexts[raw.CurrentContext] == nil {
		return "", nil
	}
	if err := clientcmdapi.MinifyConfig(raw); err != nil {
		return "", fmt.Errorf("reading the kubeconfig: %w", err)
	}
	if err := clientcmdapi.FlattenConfig(raw); err != nil {
		return "", fmt.Errorf("reading the kubeconfig: %w", err)
	}
	raw.Contexts[raw.CurrentContext].Namespace = namespace
	f, err := os.CreateTemp("", "dayfly-kubeconfig-")
	if err != nil {
		return "", err
	}
	f.Close()
	if err := clientcmd.WriteToFile(*raw, f.Name()); err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

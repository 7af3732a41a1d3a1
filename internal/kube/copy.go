package kube

import (
	"errors"
	"fmt"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// WriteKubeconfig writes the kubeconfig that o names into a new file that only its owner may read: its context alone, with all that
// this one needs, in a namespace. It reports false if there is none, as in a pod, which has its own way to the cluster.
func WriteKubeconfig(o Options, namespace, path string) (written bool, err error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	raw, err := rules.Load()
	if err != nil {
		return false, noConfig(err)
	}
	if o.Context != "" {
		raw.CurrentContext = o.Context
	}
	if raw.Contexts[raw.CurrentContext] == nil {
		return false, nil
	}
	if err := clientcmdapi.MinifyConfig(raw); err != nil {
		return false, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	if err := clientcmdapi.FlattenConfig(raw); err != nil {
		return false, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	raw.Contexts[raw.CurrentContext].Namespace = namespace
	data, err := clientcmd.Write(*raw)
	if err != nil {
		return false, fmt.Errorf("writing the kubeconfig: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return false, err
	}
	_, err = f.Write(data)
	return true, errors.Join(err, f.Close())
}

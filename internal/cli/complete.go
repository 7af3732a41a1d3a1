package cli

import (
	"context"
	"time"

	"dayfly.dev/dayfly/api/v1alpha1"
	"dayfly.dev/dayfly/internal/kube"
	"dayfly.dev/dayfly/internal/session"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// completeWith asks the cluster for words; a shell's completion never shows an error.
func (a *App) completeWith(words func(ctx context.Context, c *kube.Cluster) []string) ([]string, cobra.ShellCompDirective) {
	c, err := a.open()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	return words(ctx, c), cobra.ShellCompDirectiveNoFileComp
}

func (a *App) completeNamespaces(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return a.completeWith(func(ctx context.Context, c *kube.Cluster) (out []string) {
		var list corev1.NamespaceList
		_ = c.List(ctx, &list)
		for _, n := range list.Items {
			out = append(out, n.Name)
		}
		return out
	})
}

func (a *App) completeContexts(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return kube.Contexts(a.kube), cobra.ShellCompDirectiveNoFileComp
}

func (a *App) completeService(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	switch {
	case len(args) == 0:
		return []string{"service"}, cobra.ShellCompDirectiveNoFileComp
	case len(args) > 1:
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeWith(func(ctx context.Context, c *kube.Cluster) (out []string) {
		var list corev1.ServiceList
		_ = c.List(ctx, &list, client.InNamespace(c.Namespace))
		for _, s := range list.Items {
			if s.Labels[v1alpha1.LabelManaged] == "" {
				out = append(out, s.Name)
			}
		}
		return out
	})
}

func (a *App) completePorts(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeWith(func(ctx context.Context, c *kube.Cluster) (out []string) {
		var s corev1.Service
		_ = c.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: args[len(args)-1]}, &s)
		for _, p := range s.Spec.Ports {
			if id, ok := session.ServicePort(&p); ok {
				out = append(out, id.String()+"\t"+p.Name)
			}
		}
		return out
	})
}

// completeSession is for commands that take one session.
func (a *App) completeSession(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeSessions(cmd, args, word)
}

func (a *App) completeSessions(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return a.completeWith(func(ctx context.Context, c *kube.Cluster) (out []string) {
		var list v1alpha1.SessionList
		_ = c.List(ctx, &list, client.InNamespace(c.Namespace))
		for _, s := range list.Items {
			out = append(out, s.Name)
		}
		return out
	})
}

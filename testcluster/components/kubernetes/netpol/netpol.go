// Package netpol enforces NetworkPolicy for the pods of one node: it watches pods, namespaces and policies, compiles them to
// one nftables table and replaces that as a whole whenever it changes.
package netpol

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	netlisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
)

// Options say whose pods are guarded and how to reach the API server.
type Options struct{ Kubeconfig, Node string }

const (
	// Several changes often come at once, such as the pods of a Deployment.
	gather = 20 * time.Millisecond
	retry  = time.Second
)

// Run enforces policies until ctx ends. The table stays, so that a restart opens nothing.
func Run(ctx context.Context, o Options) error {
	config, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	if err != nil {
		return fmt.Errorf("reading --kubeconfig %s: %w", o.Kubeconfig, err)
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	a := newAgent(o.Node, factory)
	if err := a.listen(factory); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	factory.WaitForCacheSync(ctx.Done())
	return a.run(ctx)
}

type agent struct {
	node       string
	pods       corelisters.PodLister
	namespaces corelisters.NamespaceLister
	policies   netlisters.NetworkPolicyLister
	changed    chan struct{}
}

func newAgent(node string, f informers.SharedInformerFactory) *agent {
	return &agent{
		node:       node,
		pods:       f.Core().V1().Pods().Lister(),
		namespaces: f.Core().V1().Namespaces().Lister(),
		policies:   f.Networking().V1().NetworkPolicies().Lister(),
		changed:    make(chan struct{}, 1),
	}
}

func (a *agent) listen(f informers.SharedInformerFactory) error {
	notify := func() {
		select {
		case a.changed <- struct{}{}:
		default: // known already
		}
	}
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { notify() },
		UpdateFunc: func(_, _ any) { notify() },
		DeleteFunc: func(any) { notify() },
	}
	for _, informer := range []cache.SharedIndexInformer{
		f.Core().V1().Pods().Informer(), f.Core().V1().Namespaces().Informer(), f.Networking().V1().NetworkPolicies().Informer(),
	} {
		if _, err := informer.AddEventHandler(handler); err != nil {
			return err
		}
	}
	notify()
	return nil
}

func (a *agent) run(ctx context.Context) error {
	enforced := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.changed:
		}
		time.Sleep(gather)
		ruleset, err := a.compile()
		if err == nil && ruleset != enforced {
			err = load(ctx, ruleset)
		}
		if err != nil {
			klog.ErrorS(err, "policies are not enforced as they should; trying again")
			time.AfterFunc(retry, func() {
				select {
				case a.changed <- struct{}{}:
				default:
				}
			})
			continue
		}
		enforced = ruleset
	}
}

func (a *agent) compile() (string, error) {
	pods, err := a.pods.List(labels.Everything())
	if err != nil {
		return "", err
	}
	namespaces, err := a.namespaces.List(labels.Everything())
	if err != nil {
		return "", err
	}
	policies, err := a.policies.List(labels.Everything())
	if err != nil {
		return "", err
	}
	return Compile(a.node, pods, namespaces, policies), nil
}

// load replaces the table in one transaction: there is no moment without rules.
func load(ctx context.Context, ruleset string) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(ruleset)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %s", strings.TrimSpace(string(out)))
	}
	return nil
}

package controller

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// apiService is the API server's Service.
var apiService = client.ObjectKey{Namespace: metav1.NamespaceDefault, Name: "kubernetes"}

// ownAddresses are those that the controller may reach and others have no business with: of the API server, and of dayfly's pods and
// Services.
func ownAddresses(ctx context.Context, live client.Reader, system string) ([]netip.Addr, error) {
	var texts []string
	var api corev1.Service
	var behind discoveryv1.EndpointSliceList
	var services corev1.ServiceList
	var pods corev1.PodList
	if err := live.Get(ctx, apiService, &api); err != nil {
		return nil, fmt.Errorf("reading service %s: %w", apiService, err)
	}
	if err := live.List(ctx, &behind, client.InNamespace(apiService.Namespace), client.MatchingLabels{discoveryv1.LabelServiceName: apiService.Name}); err != nil {
		return nil, fmt.Errorf("listing the addresses of the API server: %w", err)
	}
	if err := live.List(ctx, &services, client.InNamespace(system)); err != nil {
		return nil, fmt.Errorf("listing services of namespace %s: %w", system, err)
	}
	if err := live.List(ctx, &pods, client.InNamespace(system)); err != nil {
		return nil, fmt.Errorf("listing pods of namespace %s: %w", system, err)
	}
	for _, s := range append(services.Items, api) {
		texts = append(texts, s.Spec.ClusterIPs...)
	}
	for _, s := range behind.Items {
		for _, e := range s.Endpoints {
			texts = append(texts, e.Addresses...)
		}
	}
	for _, p := range pods.Items {
		for _, ip := range p.Status.PodIPs {
			texts = append(texts, ip.IP)
		}
	}
	var out []netip.Addr
	for _, t := range texts {
		if addr, err := netip.ParseAddr(t); err == nil { // not None
			out = append(out, addr)
		}
	}
	return out, nil
}
